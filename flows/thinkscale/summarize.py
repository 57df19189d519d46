"""From graded answers to points: pass@k, maj@k and the rest of every cell and slice, with intervals, error budget, cost and frontier.

Why: one definition of value, interval and cost for every table and figure.
What it does not do: compare points (see `compare`), read or write files (see `store`), or drop a problem from a denominator.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from thinkscale import cost, estimators, inference, power, schema, votes
from thinkscale.config import Shape
from thinkscale.inference import Floats, Ints, Pools, Resampling
from thinkscale.loading import nearest
from thinkscale.tidy import COUNTED, FACTS, SCORES, TableError, checked, codes, first_rows, places, refuse

_ROUNDING = 1e-12
GRANULAR = {"right_prob": (0.0, 1.0), "1 - brier": (-1.0, 1.0)}
"""Metrics of one sample that slide where accuracy jumps, and their range: probability of the right choice; one minus the Brier score. Even
odds on all choices give both the value that guessing has in accuracy."""
VERIFIED = " by verifier_score"
"""How metrics end that take a verifier, whose FLOPs are charged to them."""


class Point(NamedTuple):
    """What is estimated from a cell."""

    metric: str
    k: int


@dataclass(frozen=True)
class Cell:
    """One cell, measured: a value for each problem and point. Problems are in the order of their ids."""

    facts: dict[str, Any]
    """The columns of `FACTS`."""
    problems: pd.DataFrame
    """One row per problem: problem_id, cluster_id, difficulty, num_samples and the mean over its samples of what was asked for."""
    points: tuple[Point, ...]
    estimates: Floats
    """Problems × points."""
    about: dict[str, Floats] = field(default_factory=dict)
    """Problems × points each: `noise` (variance of the estimate over the drawing of its samples), `drawing` (standard error from drawing
    subsets), `steps` (tokens of the longest of k samples)."""


class Slice(NamedTuple):
    """Some problems of a cell."""

    name: str
    rows: NDArray[np.bool_]


def summarize(
    graded: pd.DataFrame, shapes: Mapping[str, Shape], chance: Mapping[str, float], draws: int = 1000, seed: int | str = 0
) -> pd.DataFrame:
    """The summary table (`schema.SUMMARY`): one row per cell × slice × metric × k.

    Args:
        graded: one row per answer, from `graded.read_graded`.
        shapes: shape of each model whose tokens are known, for FLOPs.
        chance: accuracy of guessing, of each benchmark.
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
    cells = measure(graded.assign(**flops), (*means, *(name for name in ("right_prob", "brier") if name in graded)), seed)
    pools = Pools(draws, seed)
    groups: dict[int, tuple[Resampling, list[tuple[Cell, Slice]]]] = {}
    for cell, slice_ in slices(cells):
        problems = cell.problems[slice_.rows]
        sample = pools.get(f"{cell.facts['benchmark']} {slice_.name}", problems["problem_id"].tolist(), problems["cluster_id"].tolist())
        groups.setdefault(id(sample), (sample, []))[1].append((cell, slice_))
    rows_ = [row for sample, group in groups.values() for row in _rows(group, sample, chance)]
    for metric, bounds in GRANULAR.items():
        granular = ((sample, [(c, s) for cell, s in group if (c := _granular(cell, metric))]) for sample, group in groups.values())
        rows_ += [row for sample, group in granular if group for row in _rows(group, sample, chance, bounds)]
    table = pd.DataFrame(rows_)
    table["frontier"] = _frontier(table)
    return typed(table.sort_values(["benchmark", "slice", "params", "model", "thinking_budget", "cell_id", "metric", "k"]), schema.SUMMARY)


def measure(graded: pd.DataFrame, means: tuple[str, ...] = (), seed: int | str = 0) -> list[Cell]:
    """Check the rows and estimate every problem's pass@k, maj@k and unforced pass@k in every cell; by a score, best@k and vote@k.

    k runs over 1, 2, 4, ... and a cell's own numbers of samples; it is NaN for a problem with fewer samples.

    Args:
        graded: one row per answer.
        means: columns whose mean over samples is wanted per problem; `closed` and `no_answer` are made here.
        seed: fixes the subsets that weighted votes draw.
    """
    rows = checked(graded)
    cell_names, cell = codes(rows, "cell_id")
    problem_names, problem = codes(rows, "benchmark", "problem_id")
    units, at = places(cell * len(problem_names) + problem, len(cell_names) * len(problem_names))
    first, n = first_rows(at, len(units)), np.bincount(at)
    unit_cell = cell[first]
    grids = {c: _grid(n[unit_cell == c]) for c in range(len(cell_names))}
    ks = sorted({k for grid in grids.values() for k in grid})
    columns = {**_counted(rows, at, n, ks), **_scored(rows, at, ks, seed)}
    spent = rows["completion_tokens"].to_numpy(dtype=np.float64)
    steps = _where_known(np.isnan(spent), at, estimators.best_of_k(np.nan_to_num(spent), np.nan_to_num(spent), at, ks))
    firsts: pd.DataFrame = rows.take(first).reset_index(drop=True)
    # Plain Python strings, the same ones in every cell: what is asked of them again and again is whether they are equal.
    ids, clusters = _plain(name for _, name in problem_names), _plain(map(str, firsts["cluster_id"]))
    named = {"problem_id": ids.take(problem[first]).reset_index(drop=True), "cluster_id": clusters}
    problems = pd.DataFrame({**named, "difficulty": firsts["difficulty"], "num_samples": n, **_means(rows, means, at, n)})
    facts = rows.take(first_rows(cell, len(cell_names)))[list(FACTS)].to_dict("records")
    cells = []
    for c, grid in grids.items():
        mine, used = np.flatnonzero(unit_cell == c), np.isin(ks, grid)
        points = tuple(Point(metric, k) for metric in columns for k in grid)
        value, noise, drawing = (np.concatenate([part[i][mine][:, used] for part in columns.values()], axis=1) for i in range(3))
        about = {"noise": noise, "drawing": drawing, "steps": np.tile(steps[mine][:, used], len(columns))}
        cell_facts = {str(key): value for key, value in facts[c].items()}
        cells.append(Cell(cell_facts, problems.take(mine).reset_index(drop=True), points, value, about))
    return cells


class _Column(NamedTuple):
    """Problems × ks of one metric."""

    value: Floats
    noise: Floats
    drawing: Floats


def _counted(rows: pd.DataFrame, at: Ints, n: Ints, ks: list[int]) -> dict[str, _Column]:
    """Metrics that are functions of counts."""
    correct = rows["correct"].to_numpy(dtype=bool)
    gold = np.bincount(at, weights=correct, minlength=len(n)).astype(np.int64)
    unforced = np.bincount(at, weights=rows["correct_unforced"].to_numpy(dtype=bool), minlength=len(n)).astype(np.int64)
    exact, unknown = np.zeros((len(n), len(ks))), np.full((len(n), len(ks)), np.nan)
    majority = unknown
    if "answer_class" in rows:  # otherwise only right and wrong are known, and nobody can vote
        wrong = _wrong_votes(rows, at, len(n), correct)
        majority = estimators.maj_at_k(gold, wrong, n - gold - wrong.sum(1), ks)

    def passed(c: Ints) -> _Column:
        value, noise = (estimators.at_every_k(f, n, c, ks) for f in (estimators.pass_at_k, estimators.pass_at_k_variance))
        return _Column(value, noise, exact)

    return {"pass@k": passed(gold), "maj@k": _Column(majority, unknown, exact), "unforced pass@k": passed(unforced)}


def _scored(rows: pd.DataFrame, at: Ints, ks: list[int], seed: int | str) -> dict[str, _Column]:
    """Metrics that choose or weigh by a score, where there is one; a problem with a sample without its score has none."""
    columns: dict[str, _Column] = {}
    for name in [s for s in SCORES if s in rows]:
        score, correct = rows[name].to_numpy(dtype=np.float64), rows["correct"].to_numpy(dtype=bool)
        held = np.nan_to_num(score)
        best = _where_known(np.isnan(score), at, estimators.best_of_k(correct, held, at, ks))
        columns[f"best@k by {name}"] = _Column(best, np.full_like(best, np.nan), np.zeros_like(best))
        if "answer_class" in rows:
            classes = [None if pd.isna(a) else str(a) for a in rows["answer_class"]]
            weights = np.exp(held) if name == "answer_logprob" else held
            vote, error = (_where_known(np.isnan(score), at, v) for v in votes.weighted_vote(correct, classes, weights, at, ks, seed))
            columns[f"vote@k by {name}"] = _Column(vote, np.full_like(vote, np.nan), error)
    return columns


def _plain(texts: Iterable[str]) -> pd.Series:
    return pd.Series(list(texts), dtype=object)


def _where_known(unknown: NDArray[np.bool_], at: Ints, values: Floats) -> Floats:
    """The values, NaN for problems of which some sample's number is unknown."""
    return np.where((np.bincount(at, weights=unknown) > 0)[:, None], np.nan, values)


def _means(rows: pd.DataFrame, names: tuple[str, ...], at: Ints, n: Ints) -> dict[str, Floats]:
    closed = (rows["ended"] != "cut").astype(np.float64).mask(rows["ended"] == "given")  # tables of others may not say
    made: dict[str, pd.Series] = {"closed": closed, "no_answer": rows["extracted_answer"].isna()}
    return {name: np.bincount(at, weights=(made[name] if name in made else rows[name]).to_numpy(dtype=np.float64)) / n for name in names}


def slices(cells: list[Cell]) -> Iterator[tuple[Cell, Slice]]:
    """Each cell with all its problems, and with those of each difficulty where its benchmark has more than one."""
    levels: dict[str, set[float]] = {}
    for cell in cells:
        levels.setdefault(cell.facts["benchmark"], set()).update(cell.problems["difficulty"])
    for cell in cells:
        difficulty = cell.problems["difficulty"].to_numpy()
        yield cell, Slice("all", np.ones(len(difficulty), bool))
        if len(levels[cell.facts["benchmark"]]) > 1:
            for level in np.unique(difficulty):
                yield cell, Slice(slice_name(level), difficulty == level)


class Shared(NamedTuple):
    """Problems that several cells or curves have."""

    problems: pd.DataFrame
    rows: list[Ints]
    """Of each cell or curve."""


class _HasProblems(Protocol):
    @property
    def problems(self) -> pd.DataFrame: ...


def shared(parts: Sequence[_HasProblems]) -> Shared:
    """The problems that all of some cells or curves have, in the order of the first one."""
    problems = parts[0].problems
    ids = [part.problems["problem_id"].to_numpy() for part in parts]
    if all(len(i) == len(ids[0]) and (i is ids[0] or (i == ids[0]).all()) for i in ids):
        return Shared(problems, [np.arange(len(problems))] * len(parts))
    for other in ids[1:]:
        problems = problems[problems["problem_id"].isin(other)]
    problems = problems.reset_index(drop=True)
    return Shared(problems, [pd.Index(i).get_indexer(problems["problem_id"]) for i in ids])


def slice_name(difficulty: float | None) -> str:
    """`all`, or `difficulty=3`."""
    return "all" if difficulty is None else f"difficulty={difficulty:g}"


def setting_name(model: str, thinking_budget: int, metric: str, k: int) -> str:
    """`m budget=64 maj@16`; of one sample `m budget=64`."""
    return f"{model} budget={thinking_budget}" + ("" if k == 1 else f" {metric.replace('@k', f'@{k}')}")


def _granular(cell: Cell, metric: str) -> Cell | None:
    """The cell with a granular metric as its only point; None where that is not known. A problem that lacks it makes the mean NaN."""
    column = cell.problems.get("right_prob" if metric == "right_prob" else "brier")
    if column is None or column.isna().all():
        return None
    value = column.to_numpy(dtype=np.float64)[:, None]
    value = value if metric == "right_prob" else 1 - value
    about = {"noise": np.full_like(value, np.nan), "drawing": np.zeros_like(value)}
    about["steps"] = cell.about["steps"][:, [cell.points.index(Point("pass@k", 1))]]
    return replace(cell, points=(Point(metric, 1),), estimates=value, about=about)


def _rows(
    group: list[tuple[Cell, Slice]], sample: Resampling, chance: Mapping[str, float], bounds: tuple[float, float] = (0.0, 1.0)
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


def _cell_rows(cell: Cell, slice_: Slice, chance: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    problems = cell.problems[slice_.rows]
    mean = problems.mean(numeric_only=True, skipna=False).to_dict()  # a problem of unknown cost makes the cost unknown
    for point in cell.points:
        scoring = point.k * float(problems["scorer_flops"].to_numpy().mean()) if point.metric.endswith(VERIFIED) else 0.0
        yield {
            **cell.facts,
            "slice": slice_.name,
            "metric": point.metric,
            "k": point.k,
            "chance": chance[cell.facts["benchmark"]],
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


def row_flops(graded: pd.DataFrame, shapes: Mapping[str, Shape]) -> dict[str, Floats]:
    """FLOPs and memory traffic of each row as columns `prefill_flops`, `decode_flops`, `kv_bytes`; NaN where they are not known."""
    prefill, decode, read = (np.full(len(graded), np.nan) for _ in range(3))
    model = graded["model"].astype("category").cat.remove_unused_categories()
    for code, name in enumerate(model.cat.categories):
        if name not in shapes:
            continue
        mine = np.flatnonzero(model.cat.codes.to_numpy() == code)
        prompt, completion = (graded[c].to_numpy(dtype=np.float64)[mine] for c in ("prompt_tokens", "completion_tokens"))
        prefill[mine] = cost.prefill_flops(shapes[name], prompt)
        decode[mine] = cost.decode_flops(shapes[name], prompt, completion)
        read[mine] = cost.kv_bytes_read(shapes[name], prompt, completion)
    return {"prefill_flops": prefill, "decode_flops": decode, "kv_bytes": read}


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


def _grid(n: Ints) -> list[int]:
    powers = {2**i for i in range(int(n.max()).bit_length())}
    return sorted(powers | {int(n.min()), int(n.max())})


def _wrong_votes(rows: pd.DataFrame, at: Ints, units: int, correct: NDArray[np.bool_]) -> Ints:
    """Votes of each wrong class, units × classes padded with 0. An answer class is right or wrong, never both."""
    code, classes = pd.factorize(rows["answer_class"])
    width = max(1, len(classes))
    refuse(rows, correct & (code < 0), "correct without an answer_class")
    key = at * width + code
    voted = (code >= 0) & ~correct
    wrong, place = places(key[voted], units * width)
    count = np.bincount(place)
    mixed = correct & np.isin(key, wrong, kind="table" if units * width <= COUNTED * len(rows) else "sort")
    refuse(rows, mixed, "answer_class '{answer_class}' is right here and wrong in another sample of the problem")
    unit = wrong // width
    column = np.arange(len(unit)) - np.searchsorted(unit, unit)
    table = np.zeros((units, int(column.max(initial=-1)) + 1), np.int64)
    table[unit, column] = count
    return table


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
