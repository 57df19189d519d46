"""All points of a skill over the problems that they share, with the bootstrap's draws: what choices are made among.

Why: where the best of many settings is asked for, all of them must be seen on the same problems and in the same draws.
What it does not do: choose (see `regions`, `purchase`, `targets`, `split`). A problem that one cell lacks is left out for all, and the
number of those left stands in every table.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from thinkscale.inference import Floats, Ints, Pools, Resampling, generator
from thinkscale.measure import Cell, Point, measure, shared, slices

SPLITS = 50


class Board(NamedTuple):
    """The points of one benchmark and slice."""

    benchmark: str
    slice: str
    points: pd.DataFrame
    """Rows of the summary, numbered from 0."""
    accuracy: Floats
    """Problems × points."""
    sample: Resampling

    @property
    def name(self) -> str:
        """What seeds are called by."""
        return f"{self.benchmark} {self.slice}"

    @property
    def replicates(self) -> Floats:
        """Draws × points: each point's accuracy on the draw's problems, without the last digits' rounding noise."""
        return np.asarray(np.round(self.sample.weights @ self.accuracy, 12))


def boards(graded: pd.DataFrame, points: pd.DataFrame, draws: int = 1000, seed: int | str = 0) -> list[Board]:
    """A board for each benchmark and slice whose cells share a problem.

    Args:
        graded: one row per answer.
        points: rows of the summary of the same answers (`summarize.deployable` for those that need no oracle).
        draws: bootstrap draws.
        seed: fixes them.
    """
    parts: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell, slice_ in slices(measure(graded, seed=seed)):
        kept = Cell(cell.facts, cell.problems[slice_.rows].reset_index(drop=True), cell.points, cell.estimates[slice_.rows])
        parts.setdefault((cell.facts["benchmark"], slice_.name), {})[cell.facts["cell_id"]] = kept
    pools, found = Pools(draws, seed), []
    for (benchmark, name), cells in sorted(parts.items()):
        mine = points[(points["benchmark"] == benchmark) & (points["slice"] == name)].reset_index(drop=True)
        if mine.empty:
            continue
        problems, rows = shared(list(cells.values()))
        if problems.empty:
            continue
        at = dict(zip(cells, rows, strict=True))
        named = zip(mine["cell_id"], mine["metric"], mine["k"], strict=True)
        values = np.column_stack([cells[c].estimates[at[c], cells[c].points.index(Point(m, k))] for c, m, k in named])
        sample = pools.get(f"{benchmark} {name}", problems["problem_id"].tolist(), problems["cluster_id"].tolist())
        found.append(Board(benchmark, name, mine, values, sample))
    return found


def halves(board: Board, seed: int | str) -> Floats:
    """Splits × problems: 1 in the first half of the clusters, 0 in the second; `SPLITS` random splits."""
    rng, clusters = generator(seed, f"{board.name} halves"), board.sample.num_clusters
    first = np.zeros((SPLITS, clusters))
    for row in first:
        row[rng.permutation(clusters)[: (clusters + 1) // 2]] = 1.0
    return first[:, board.sample.cluster]


def crossfit(values: Floats, split: Floats, choices: tuple[Ints, Ints]) -> Floats:
    """Each problem's value under the column that the other half of the problems chose, averaged over the splits in which one was.

    Args:
        values: problems × columns.
        split: from `halves`.
        choices: the column that the first half chose in each split, and the second half's; -1: none.
    Returns: a number a problem; NaN where no split gives one.
    """
    by_first, by_second = (np.where(c[:, None] >= 0, values[:, c].T, np.nan) for c in choices)
    scored = np.where(split > 0, by_second, by_first)
    told = ~np.isnan(scored)
    count = told.sum(axis=0)
    return np.where(count > 0, np.where(told, scored, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def half_means(values: Floats, split: Floats) -> tuple[Floats, Floats]:
    """Splits × columns: the means over the first half's problems, and over the second's."""
    sides = (split, 1 - split)
    first, second = (np.round(side @ values / np.maximum(side.sum(axis=1, keepdims=True), 1.0), 12) for side in sides)
    return first, second
