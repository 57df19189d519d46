"""All graded answers of a results folder as one tidy frame: answers, grades and scores joined, checked, one row an answer.

Why: every estimate begins with this frame; a key that is doubled, an answer without a grade or a trace that is gone would be a wrong
number that looks right, so each is an error here.
What it does not do: write anything, or estimate.
"""

import json
import os
from typing import Literal, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from thinkscale import files
from thinkscale.schema import TABLES, Table
from thinkscale.store import Store, StoreError, decoded, orphans


class Scorer(NamedTuple):
    """What scored: one model's weights."""

    name: str
    revision: str


def read_graded(path: str | os.PathLike[str] | UPath, scorer: Scorer | Literal["only"] | None = "only") -> pd.DataFrame:
    """All graded answers of a results folder (path or URL) as one tidy frame: columns of `answers`, `grades` and `forced` (null where
    nothing was scored), one row per answer.

    Args:
        scorer: whose scores are joined, as columns `verifier_score` (NaN where a row has none), `scorer_tokens` and `scorer_flops`;
            `only`: the one that scored here, if any did; None: nobody's.
    Returns also, where the YAML says `stop` or once said it, a column `stopped`: true, in the second case only for cells whose rest is not
        drawn. Every estimate but `adaptive.stopped` refuses such rows.
    Raises: StoreError where no folder is there, a key is doubled, an answer has no grade or names a trace that is not there, or several
        scorers are there.
    """
    store = Store(path)
    if not files.is_folder(store.root):
        raise StoreError(f"{path}: no such folder. Give a results folder, as results/smoke; `python flows/sweep.py smoke` makes that one.")
    answers, grades = store.read("answers"), store.read("grades")
    check_unique(answers, TABLES["answers"])
    check_unique(grades, TABLES["grades"])
    check_traces(answers, store.read("samples", ["trace_set_id", "problem_id", "sample_index", "trace_hash"]))
    key = list(TABLES["grades"].key)
    frame = _frame(answers).merge(_frame(grades), on=key, how="left", validate="one_to_one", indicator=True)
    ungraded = int((frame["_merge"] != "both").sum())
    if ungraded:
        raise StoreError(f"{path}: {ungraded} of {len(frame)} answers have no grade. Run: python flows/regrade.py {store.root.name}")
    frame = frame.drop(columns="_merge").merge(_forced(store), on=key, how="left", validate="one_to_one")
    frame = _categories(_scored(store, frame, scorer))
    stop = drawing_stopped(store)
    return frame if stop is None else frame.assign(stopped=True if stop.now else incomplete(frame, stop.num_samples))


class Stopped(NamedTuple):
    """Drawing stopped early in this folder."""

    now: bool
    """By the YAML of the last run; else by an earlier one's."""
    num_samples: int
    """Of the last run."""


def drawing_stopped(store: Store) -> Stopped | None:
    """Did drawing ever stop early here? None: no, or nothing is known."""
    try:
        told = json.loads(files.read(store.root / "manifest.json"))
    except FileNotFoundError:
        return None
    now = told["config"].get("stop") is not None
    return Stopped(now, told["config"]["num_samples"]) if now or told.get("stopped") else None


def incomplete(frame: pd.DataFrame, num_samples: int) -> pd.Series:
    """True for the rows of cells in which a problem has fewer samples than asked for; a cell of single samples is a greedy reference."""
    sizes = frame.groupby(["cell_id", "problem_id"], observed=True)["sample_index"].transform("size")
    ends = sizes.groupby(frame["cell_id"], observed=True)
    return (ends.transform("min") < num_samples) & (ends.transform("max") > 1)


def _forced(store: Store) -> pd.DataFrame:
    """What was scored in the place of answers: the key, and the columns that `answers` has not."""
    rows = store.read("forced")
    check_unique(rows, TABLES["forced"])
    own = [name for name in TABLES["forced"].names if name not in TABLES["answers"].names]
    return _frame(rows)[[*TABLES["forced"].key, *own, "engine"]].rename(columns={"engine": "forced_engine"})


def _scored(store: Store, frame: pd.DataFrame, scorer: Scorer | Literal["only"] | None) -> pd.DataFrame:
    """The frame with one scorer's columns; as it is where there is none."""
    scores = store.read("scores") if scorer is not None else TABLES["scores"].arrow.empty_table()
    check_unique(scores, TABLES["scores"])
    rows = _frame(scores)
    there = sorted({Scorer(*found) for found in zip(rows["scorer"], rows["scorer_revision"], strict=True)})
    if scorer == "only" and len(there) > 1:
        raise StoreError(f"{store.root}: answers are scored by {there[0]} and {there[1]}. Name one: read_graded(..., scorer=Scorer(...)).")
    wanted = there[0] if scorer == "only" and there else scorer
    mine = rows[(rows["scorer"] == wanted[0]) & (rows["scorer_revision"] == wanted[1])] if isinstance(wanted, Scorer) else rows[:0]
    if mine.empty:
        return frame
    key = list(TABLES["grades"].key)
    return frame.merge(mine[[*key, "verifier_score", "scorer_tokens", "scorer_flops"]], on=key, how="left", validate="one_to_one")


def check_unique(table: pa.Table, declared: Table) -> None:
    """Raise StoreError naming the first key that stands twice."""
    keys = pa.table({name: decoded(table[name]) for name in declared.key})
    counts = keys.group_by(list(declared.key)).aggregate([([], "count_all")])
    double = counts.filter(pc.greater(counts["count_all"], 1))
    if double.num_rows:
        raise StoreError(
            f"{declared.name}: key {double.slice(0, 1).drop(['count_all']).to_pylist()[0]} stands {double['count_all'][0]} times; "
            f"the grain is {declared.grain}."
        )


def check_traces(answers: pa.Table, samples: pa.Table) -> None:
    """Raise StoreError where an answer above budget 0 was cut from a trace that is not in `samples`."""
    found = orphans(answers, samples)
    if found.num_rows:
        raise StoreError(
            f"{found.num_rows} answers name a trace that is not in samples/, first: {found.slice(0, 1).to_pylist()[0]}. "
            "A part is gone, or parts of two runs were mixed. `python flows/sweep.py` sets such answers aside and draws them again."
        )


def _frame(table: pa.Table) -> pd.DataFrame:
    """Pandas with plain strings: categories of two tables would not merge."""
    frame: pd.DataFrame = pa.table({name: decoded(table[name]) for name in table.column_names}).to_pandas()
    return frame


def _categories(frame: pd.DataFrame) -> pd.DataFrame:
    declared = {c.name: c.type for name in ("scores", "forced", "answers", "grades") for c in TABLES[name].columns}
    repeated = {name for name, type_ in declared.items() if pa.types.is_dictionary(type_)} | {"forced_engine"}
    return frame.astype({name: "category" for name in frame.columns if name in repeated})
