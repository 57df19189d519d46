"""Where on the axis of compute the smaller models win, and how sure the frontier is.

Why: one comparison at one cost hides that the winner changes with the budget; and a point may stand on the frontier by luck.
What it does not do: use oracles, or let a strategy be scored on the problems that chose it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from thinkscale import schema
from thinkscale.boards import Board, boards, crossfit, half_means, halves
from thinkscale.inference import Floats, interval
from thinkscale.summarize import GRANULAR, kind, typed

SURE = 0.95
_ROUNDING = 1e-12


def win_regions(boards: Sequence[Board], num_budgets: int = 12, seed: int = 0, axes: Sequence[str] = ("flops",)) -> pd.DataFrame:
    """For each benchmark, slice, axis of cost and budget: does the best strategy of a smaller model beat the best of the biggest one?

    At each budget (evenly spaced in its logarithm, from where both sides can afford something to the dearest point, which may be one and
    the same) a strategy is a model, thinking budget and number of votes that costs at most that much. Each side's best is chosen on a
    random half of the problems and scored on the other half, both ways, in 50 splits; a problem's difference is the mean over the splits.
    `win` is the share of bootstrap draws in which the smaller side is ahead (draws level count half); `winner` names a side from 0.95 on.

    Args:
        boards: of points that need no oracle, with their costs.
        num_budgets: on each axis.
        seed: fixes the halves.
        axes: of cost; one on which a side's cost is not known has no rows.
    """
    rows = []
    for board in boards:
        big, split = (board.points["params"] == board.points["params"].max()).to_numpy(), halves(board, seed)
        for axis in axes:
            cost = board.points[f"cost_{axis}"].to_numpy(dtype=np.float64)
            known = np.isfinite(cost) & (cost > 0)
            if not (known & big).any() or not (known & ~big).any() or board.sample.num_clusters < 2:
                continue
            for budget in _budgets(max(cost[known & side].min() for side in (big, ~big)), cost[known].max(), num_budgets):
                within = known & (cost <= budget * (1 + _ROUNDING))
                sides = [_best(board.accuracy[:, within & side], split) for side in (~big, big)]
                rows.append({"benchmark": board.benchmark, "slice": board.slice, "axis": axis, "budget": budget, **_won(sides, board)})
    return typed(pd.DataFrame(rows, columns=schema.REGIONS.names), schema.REGIONS)


def _budgets(least: float, most: float, number: int) -> Floats:
    """Evenly spaced in their logarithm; one where the dearest point is the cheapest of its side."""
    return np.geomspace(least, most, number) if most > least * (1 + _ROUNDING) else np.array([most])


def _won(sides: list[Floats], board: Board) -> dict[str, Any]:
    """Of each problem's value under the smaller models' best and under the biggest one's."""
    gap = sides[0] - sides[1]
    ends, ahead = interval(gap[:, None], board.sample, (-1.0, 1.0)), np.round(board.sample.weights @ gap, 12)
    win = float(np.mean(ahead > 0) + 0.5 * np.mean(ahead == 0))
    row = {"small_value": sides[0].mean(), "big_value": sides[1].mean(), "difference": gap.mean(), "num_problems": len(gap)}
    winner = "smaller" if win >= SURE else "bigger" if win <= 1 - SURE else "undecided"
    return {**row, "low": float(ends.low[0]), "high": float(ends.high[0]), "win": win, "winner": winner}


def frontier_membership(graded: pd.DataFrame, summary: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The share of bootstrap draws in which each point stands on its frontier (`schema.MEMBERSHIP`).

    As `summary.frontier`: no point of the same benchmark, slice and kind is at most as dear and at least as good. All points are drawn
    together, over the problems that all of them share; fewer than two clusters of these say nothing, and have no rows.
    """
    rows = []
    known = summary[summary["value"].notna() & summary["cost_flops"].notna() & ~summary["metric"].isin(list(GRANULAR))]
    for board in boards(graded, known, draws, seed):
        if board.sample.num_clusters < 2:
            continue
        points, replicates = board.points, board.replicates
        kinds = np.array([kind(m, k) for m, k in zip(points["metric"], points["k"], strict=True)])
        for one in np.unique(kinds):
            mine = np.flatnonzero(kinds == one)
            part = points.iloc[mine][["cell_id", "slice", "metric", "k"]].assign(num_problems=len(board.accuracy))
            on = _on_frontier(points["cost_flops"].to_numpy()[mine], replicates[:, mine])
            rows.append(part.assign(benchmark=board.benchmark, membership=on.mean(axis=0)))
    found = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=schema.MEMBERSHIP.names)
    return typed(found, schema.MEMBERSHIP)


def _on_frontier(cost: Floats, values: Floats) -> Floats:
    """Draws × points: 1 where no cheaper point is as good and no equally dear one is better."""
    order = np.argsort(cost, kind="stable")
    out, best, start = np.zeros_like(values), np.full(len(values), -np.inf), 0
    while start < len(order):
        level = order[start:][cost[order[start:]] <= cost[order[start]] * (1 + _ROUNDING)]
        top = values[:, level].max(axis=1)
        out[:, level] = (values[:, level] >= top[:, None]) & (top > best)[:, None]
        best, start = np.maximum(best, top), start + len(level)
    return out


def _best(values: Floats, split: Floats) -> Floats:
    """Each problem's value under the column that is the best on the other half of the problems, averaged over the splits."""
    first, second = half_means(values, split)
    return crossfit(values, split, (first.argmax(axis=1), second.argmax(axis=1)))
