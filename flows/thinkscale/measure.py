"""From graded answers to cells: what every problem gives at every point, pass@k, maj@k and choices by score, with noise and cost.

Why: estimates are made problem by problem, so that problems can be the clusters of every interval and the pairs of every comparison.
What it does not do: average over problems or put intervals on anything (see `summarize`), or drop a problem from a denominator.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thinkscale import cost, estimators, votes
from thinkscale.config import Shape
from thinkscale.inference import Floats, Ints
from thinkscale.routes import is_effort, is_greedy
from thinkscale.sources import Chance
from thinkscale.tidy import COUNTED, FACTS, SCORES, TableError, checked, codes, first_rows, places, refuse


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
    """Metrics that choose or weigh by a score, where there is one; a problem with a sample without its score has none.

    What could not be asked for (`too_long`) has no answer to score: it is chosen last, and wrong as everywhere.
    """
    columns: dict[str, _Column] = {}
    correct, unasked = rows["correct"].to_numpy(dtype=bool), np.zeros(len(rows), bool)
    if "status" in rows:
        unasked = (rows["status"] == "too_long").to_numpy(dtype=bool)
    for name in [s for s in SCORES if s in rows]:
        score = np.where(unasked, -np.inf if name == "answer_logprob" else 0.0, rows[name].to_numpy(dtype=np.float64))
        held = np.nan_to_num(score)
        best = _where_known(np.isnan(score), at, estimators.best_of_k(correct, held, at, ks))
        columns[f"best@k by {name}"] = _Column(best, np.full_like(best, np.nan), np.zeros_like(best))
        if "answer_class" in rows:
            classes = [None if pd.isna(a) else str(a) for a in rows["answer_class"]]
            if name != "answer_logprob":
                refuse(rows, held < 0, f"{name} is the weight of a vote, and must be at least 0, found {{{name}}}: take a sigmoid first")
            with np.errstate(divide="ignore"):
                weights = held if name == "answer_logprob" else np.log(held)
            vote, error = (_where_known(np.isnan(score), at, v) for v in votes.weighted_vote(correct, classes, weights, at, ks, seed))
            columns[f"vote@k by {name}"] = _Column(vote, np.full_like(vote, np.nan), error)
    return columns


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


def _means(rows: pd.DataFrame, names: tuple[str, ...], at: Ints, n: Ints) -> dict[str, Floats]:
    closed = rows["ended"].isin(["closed", "eos"]).astype(np.float64).mask(rows["ended"] == "given")  # tables of others may not say
    made: dict[str, pd.Series] = {"closed": closed, "no_answer": rows["extracted_answer"].isna()}
    return {name: np.bincount(at, weights=(made[name] if name in made else rows[name]).to_numpy(dtype=np.float64)) / n for name in names}


def _where_known(unknown: NDArray[np.bool_], at: Ints, values: Floats) -> Floats:
    """The values, NaN for problems of which some sample's number is unknown."""
    return np.where((np.bincount(at, weights=unknown) > 0)[:, None], np.nan, values)


def _plain(texts: Iterable[str]) -> pd.Series:
    return pd.Series(list(texts), dtype=object)


def _grid(n: Ints) -> list[int]:
    powers = {2**i for i in range(int(n.max()).bit_length())}
    return sorted(powers | {int(n.min()), int(n.max())})


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
    # all digits that tell two levels apart, which rounding would give one name and one key
    return "all" if difficulty is None else f"difficulty={float(difficulty)!r}".removesuffix(".0")


def guessing(chance: Chance, difficulty: pd.Series) -> Floats:
    """Accuracy of guessing on each problem. Raises TableError for a difficulty of which it is not known."""
    if not isinstance(chance, Mapping):
        return np.full((len(difficulty),), float(chance))
    unknown = sorted(set(difficulty) - set(chance))
    if unknown:
        raise TableError(f"chance: not given for difficulty {unknown[0]:g}, only for {', '.join(f'{at:g}' for at in sorted(chance))}.")
    return np.array([chance[at] for at in difficulty], np.float64)


def guessed(chance: Chance, difficulty: pd.Series) -> float:
    """Accuracy of guessing over these problems; as it was declared, to the last digit, where it is one for all."""
    return float(guessing(chance, difficulty).mean()) if isinstance(chance, Mapping) else float(chance)


SETTING = ("model", "route", "thinking_budget", "metric", "k")
"""What `setting_name` takes, as columns."""


def thinking_name(route: str, thinking_budget: float) -> str:
    """`budget=64`, or the level of effort that the model is told, `effort=low`."""
    return route if is_effort(route) else f"budget={thinking_budget:.0f}"


def setting_name(model: str, route: str, thinking_budget: float, metric: str, k: float) -> str:
    """`m budget=64 maj@16`; of one sample `m budget=64`."""
    return f"{model} {thinking_name(route, thinking_budget)}" + ("" if k == 1 else f" {metric.replace('@k', f'@{k:.0f}')}")


def setting_names(points: pd.DataFrame) -> list[str]:
    """Of rows with the columns `SETTING`, prompt and sampling: with the prompt where there are several, `m budget=64 (few-shot=2)`."""
    names = [setting_name(*words) for words in points[list(SETTING)].itertuples(index=False, name=None)]
    prompts, greedy = points["prompt"].astype(str), points["sampling"].astype(str).map(is_greedy).astype(bool)
    several, mixed = len(set(prompts)) > 1, len(set(greedy)) > 1
    told = [", ".join([prompt] * several + ["greedy"] * (mixed and is_)) for prompt, is_ in zip(prompts, greedy, strict=True)]
    return [f"{name} ({more})" if more else name for name, more in zip(names, told, strict=True)]
