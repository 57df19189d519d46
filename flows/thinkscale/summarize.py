"""From graded answers to points: pass@k, maj@k and the rest of every cell and slice, with intervals, error budget, cost and frontier.

Why: one definition of value, interval and cost for every table and figure.
What it does not do: compare points (see `compare`), read or write files (see `store`), or drop a problem from a denominator.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from thinkscale import inference, power, schema
from thinkscale.config import Shape
from thinkscale.inference import Floats, Pools, Resampling
from thinkscale.likeness import MOST_DIGITS
from thinkscale.measure import Cell, Point, Slice, guessed, measure, row_flops, slices
from thinkscale.reading import nearest
from thinkscale.routes import is_effort
from thinkscale.sources import Chance
from thinkscale.tidy import TableError

_ROUNDING = 1e-12
GRANULAR = {"right_prob": (0.0, 1.0), "1 - brier": (-1.0, 1.0), f"-log10_error / {MOST_DIGITS}": (0.0, 1.0)}
"""Metrics of one sample that slide where accuracy jumps, and their range: probability of the right choice; one minus the Brier score (even
odds on all choices give both the value that guessing has in accuracy); significant digits of a number that are right, as a share."""
VERIFIED = " by verifier_score"
"""How metrics end that take a verifier, whose FLOPs are charged to them."""


def summarize(
    graded: pd.DataFrame, shapes: Mapping[str, Shape], chance: Mapping[str, Chance], draws: int = 1000, seed: int | str = 0
) -> pd.DataFrame:
    """The summary table (`schema.SUMMARY`): one row per cell × slice × metric × k.

    Args:
        graded: one row per answer, from `graded.read_graded`.
        shapes: shape of each model whose tokens are known, for FLOPs.
        chance: accuracy of guessing, of each benchmark; or of each of its difficulties.
        draws: bootstrap draws.
        seed: fixes them.
    Raises: TableError where the rows contradict each other.
    """
    spent = graded[graded["completion_tokens"].notna()]  # where tokens are not known, neither is a cost, and no shape is needed
    for rows, column, known, what in ((spent, "model", shapes, "shape"), (graded, "benchmark", chance, "chance level")):
        for name in rows[column].unique():
            if name not in known:
                raise TableError(f"summarize: no {what} given for {column} '{name}'.{nearest(str(name), known)}")
    flops = row_flops(graded, shapes)
    flops["scorer_flops"] = graded["scorer_flops"].to_numpy(dtype=np.float64) if "scorer_flops" in graded else np.full(len(graded), np.nan)
    means = ("prompt_tokens", "completion_tokens", "thinking_tokens", "closed", "no_answer", *flops)
    granular = _granular(graded)
    cells = measure(graded.assign(**flops, **granular), (*means, *granular), seed)
    pools = Pools(draws, seed)
    groups: dict[int, tuple[Resampling, list[tuple[Cell, Slice]]]] = {}
    for cell, slice_ in slices(cells):
        problems = cell.problems[slice_.rows]
        sample = pools.get(f"{cell.facts['benchmark']} {slice_.name}", problems["problem_id"].tolist(), problems["cluster_id"].tolist())
        groups.setdefault(id(sample), (sample, []))[1].append((cell, slice_))
    rows_ = [row for sample, group in groups.values() for row in _rows(group, sample, chance)]
    for metric in granular:
        having = ((sample, [(c, s) for cell, s in group if (c := _only(cell, metric))]) for sample, group in groups.values())
        rows_ += [row for sample, group in having if group for row in _rows(group, sample, chance, GRANULAR[metric])]
    table = pd.DataFrame(rows_)
    table["frontier"] = _frontier(table)
    table["thinking_level"] = _levels(table)
    return typed(table.sort_values(["benchmark", "slice", "params", "model", "thinking_level", "cell_id", "metric", "k"]), schema.SUMMARY)


def _levels(table: pd.DataFrame) -> pd.Series:
    """The column `thinking_level`."""
    budget = table["thinking_budget"].astype(float)
    effort = table["route"].astype(str).map(is_effort)
    single = table[effort & (table["slice"] == "all") & (table["metric"] == "pass@k") & (table["k"] == 1)]
    told = (
        single.assign(route=single["route"].astype(str))
        .groupby(["benchmark", "prompt", "route"], observed=True)["mean_thinking_tokens"]
        .mean()
    )
    rows = zip(table["benchmark"], table["prompt"], table["route"].astype(str), strict=True)
    spent = pd.Series([told.get(row, np.nan) for row in rows], index=table.index, dtype=float)
    return spent.where(effort, budget).fillna(budget)


def _granular(graded: pd.DataFrame) -> dict[str, Floats]:
    """Granular metrics of each row, as far as there are columns for them."""
    found = {name: graded[name].to_numpy(dtype=np.float64) for name in ("right_prob", "brier", "log10_error") if name in graded}
    if "brier" in found:
        found["1 - brier"] = 1 - found.pop("brier")
    if "log10_error" in found:
        found[f"-log10_error / {MOST_DIGITS}"] = _digits(graded, found.pop("log10_error"))
    return found


def _digits(graded: pd.DataFrame, error: Floats) -> Floats:
    """Share of `MOST_DIGITS` that each answer has right: 0 without an answer, like accuracy; NaN where no number is asked for."""
    numbers = [name for name in graded["grader_version"].unique() if str(name).startswith("number-")] if "grader_version" in graded else []
    silent = graded["grader_version"].isin(numbers) & graded["extracted_answer"].isna() if numbers else np.zeros(len(graded), bool)
    share: Floats = np.where(silent, 0.0, np.clip(-error, 0, MOST_DIGITS) / MOST_DIGITS)
    return share


def _only(cell: Cell, metric: str) -> Cell | None:
    """The cell with a granular metric as its only point; None where that is not known. A problem that lacks it makes the mean NaN."""
    column = cell.problems[metric]
    if column.isna().all():
        return None
    value = column.to_numpy(dtype=np.float64)[:, None]
    about = {"noise": np.full_like(value, np.nan), "drawing": np.zeros_like(value)}
    about["steps"] = cell.about["steps"][:, [cell.points.index(Point("pass@k", 1))]]
    return replace(cell, points=(Point(metric, 1),), estimates=value, about=about)


def _rows(
    group: list[tuple[Cell, Slice]], sample: Resampling, chance: Mapping[str, Chance], bounds: tuple[float, float] = (0.0, 1.0)
) -> Iterator[dict[str, Any]]:
    """Rows of cells that share their problems, whose intervals are one matrix product."""
    values = np.concatenate([cell.estimates[slice_.rows] for cell, slice_ in group], axis=1)
    ends = inference.interval(values, sample, bounds)
    noise, drawing, steps = (
        np.concatenate([cell.about[name][slice_.rows] for cell, slice_ in group], axis=1) for name in ("noise", "drawing", "steps")
    )
    found = {
        **{"value": values.mean(axis=0), "low": ends.low, "high": ends.high, "cost_steps": steps.mean(axis=0)},
        **{"share_within": power.error_budget(values, noise).share_within, "draw_error": np.sqrt((drawing**2).sum(axis=0)) / len(values)},
    }
    for i, row in enumerate(row for cell, slice_ in group for row in _cell_rows(cell, slice_, chance)):
        yield {**row, **{name: column[i] for name, column in found.items()}}


def _cell_rows(cell: Cell, slice_: Slice, chance: Mapping[str, Chance]) -> Iterator[dict[str, Any]]:
    problems = cell.problems[slice_.rows]
    mean = problems.mean(numeric_only=True, skipna=False).to_dict()  # a problem of unknown cost makes the cost unknown
    floor = guessed(chance[cell.facts["benchmark"]], problems["difficulty"])
    for point in cell.points:
        scoring = point.k * float(problems["scorer_flops"].to_numpy().mean()) if point.metric.endswith(VERIFIED) else 0.0
        yield {
            **cell.facts,
            "slice": slice_.name,
            "metric": point.metric,
            "k": point.k,
            "chance": floor,
            "num_problems": len(problems),
            "num_samples": problems["num_samples"].min(),
            "cost_tokens": point.k * mean["completion_tokens"],
            "cost_prompt_tokens": mean["prompt_tokens"],
            "cost_prefill_flops": mean["prefill_flops"],
            "cost_decode_flops": point.k * mean["decode_flops"],
            "cost_scorer_flops": scoring,
            "cost_flops": mean["prefill_flops"] + point.k * mean["decode_flops"] + scoring,
            "cost_kv_bytes": point.k * mean["kv_bytes"],
            "mean_thinking_tokens": mean["thinking_tokens"],
            "share_closed": mean["closed"],
            "share_no_answer": mean["no_answer"],
        }


def kind(metric: str, k: int) -> str:
    """Points compete within a kind: `deployable` needs no oracle, `oracle` (pass@k, k > 1) does, `unforced` is another grade.

    `granular` ones are no accuracies, and compete with nothing.
    """
    if metric in GRANULAR:
        return "granular"
    if metric == "unforced pass@k":
        return "unforced"
    return "oracle" if metric == "pass@k" and k > 1 else "deployable"


def deployable(summary: pd.DataFrame) -> pd.DataFrame:
    """Points that have a value and need no oracle, each once: pass@1 (which the others equal at k = 1) and, for k > 1, votes and choices.

    Those by a verifier whose cost is not known are left out: they would look cheaper than they are.
    """
    wanted = [kind(m, k) == "deployable" and (k > 1 or m == "pass@k") for m, k in zip(summary["metric"], summary["k"], strict=True)]
    unknown = summary["metric"].str.endswith(VERIFIED) & summary["cost_scorer_flops"].isna()
    return summary[np.array(wanted, bool) & summary["value"].notna().to_numpy() & ~unknown.to_numpy()]


def _frontier(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Description, not a test: which points are best on these problems (equal points share the flag)."""
    flags = np.zeros(len(table), bool)
    kinds = pd.Series([kind(m, k) for m, k in zip(table["metric"], table["k"], strict=True)], index=table.index)
    accuracies = table["value"].notna() & table["cost_flops"].notna() & (kinds != "granular")
    for _, group in table[accuracies].groupby(["benchmark", "slice", kinds]):
        dear, value = group["cost_flops"].to_numpy(), group["value"].to_numpy()
        cheap = dear[None, :] <= dear[:, None] * (1 + _ROUNDING)
        good = value[None, :] >= value[:, None] - _ROUNDING
        better = (dear[None, :] < dear[:, None] * (1 - _ROUNDING)) | (value[None, :] > value[:, None] + _ROUNDING)
        flags[group.index.to_numpy()] = ~(cheap & good & better).any(axis=1)
    return flags


def typed(frame: pd.DataFrame, table: schema.Table) -> pd.DataFrame:
    """The frame with exactly the table's columns and types. Raises TableError naming what does not fit."""
    absent = [c for c in table.names if c not in frame]
    if absent:
        raise TableError(f"{table.name}: column '{absent[0]}' is missing.")
    frame = frame[table.names].reset_index(drop=True)
    for column in table.columns:
        null = np.flatnonzero(frame[column.name].isna())
        if len(null) and not column.nullable:
            raise TableError(f"{table.name}: {column.name} is null in row {frame.loc[null[0], list(table.key)].to_dict()}.")
        if pa.types.is_integer(column.type):  # Arrow cuts the fractions of a column of Python objects without a word
            off = np.flatnonzero(frame[column.name].notna() & (pd.to_numeric(frame[column.name], errors="coerce") % 1 != 0))
            if len(off):
                raise TableError(f"{table.name}: {column.name} is not {column.type}: found {frame[column.name].iloc[off[0]]!r}.")
        try:
            pa.array(frame[column.name], type=column.type, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TableError(f"{table.name}: {column.name} is not {column.type}: {error}") from error
    double = np.flatnonzero(frame.duplicated(list(table.key)))
    if len(double):
        raise TableError(f"{table.name}: the key {frame.loc[double[0], list(table.key)].to_dict()} is there twice.")
    result: pd.DataFrame = pa.Table.from_pandas(frame, schema=table.arrow, preserve_index=False).to_pandas()
    return result
