"""Where on the axis of compute the smaller models win, and how sure the frontier is.

Why: one comparison at one cost hides that the winner changes with the budget; and a point may stand on the frontier by luck.
What it does not do: use oracles, or let a strategy be scored on the problems that chose it.
"""

from typing import Any

import numpy as np
import pandas as pd

from thinkscale import schema
from thinkscale.inference import Floats, Pools, Resampling, generator, interval
from thinkscale.summarize import Cell, Point, deployable, kind, measure, shared, slices, typed

SPLITS = 50
SURE = 0.95
_ROUNDING = 1e-12


def win_regions(graded: pd.DataFrame, summary: pd.DataFrame, num_budgets: int = 12, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """For each benchmark, slice and budget of FLOPs: does the best strategy of a smaller model beat the best of the biggest one?

    At each budget (evenly spaced in its logarithm, from where both sides can afford something to the dearest point) a strategy is a model,
    thinking budget and number of votes that costs at most that much. Each side's best is chosen on a random half of the problems and
    scored on the other half, both ways, in 50 splits; a problem's difference is the mean over the splits. `win` is the share of bootstrap
    draws in which the smaller side is ahead (draws level count half); `winner` names a side from 0.95 on.
    """
    pools, rows = Pools(draws, seed), []
    for (benchmark, name), (points, values, problems) in _matrices(graded, deployable(summary), seed).items():
        big = (points["params"] == points["params"].max()).to_numpy()
        known = points["cost_flops"].notna().to_numpy()  # what a point costs must be known to say that a budget affords it
        if not (known & big).any() or not (known & ~big).any() or problems["cluster_id"].nunique() < 2:
            continue
        big, cost, values = big[known], points["cost_flops"].to_numpy()[known], values[:, known]
        sample = pools.get(f"{benchmark} {name}", problems["problem_id"].tolist(), problems["cluster_id"].tolist())
        halves = _halves(sample, seed, f"{benchmark} {name}")
        for budget in np.geomspace(max(cost[big].min(), cost[~big].min()), cost.max(), num_budgets):
            sides = [_crossfit(values[:, mine & (cost <= budget * (1 + _ROUNDING))], halves) for mine in (~big, big)]
            gap = sides[0] - sides[1]
            ends, ahead = interval(gap[:, None], sample, (-1.0, 1.0)), np.round(sample.weights @ gap, 12)
            win = float(np.mean(ahead > 0) + 0.5 * np.mean(ahead == 0))
            row: dict[str, Any] = {"benchmark": benchmark, "slice": name, "budget_flops": budget, "num_problems": len(problems)}
            row |= {"small_value": sides[0].mean(), "big_value": sides[1].mean(), "difference": gap.mean()}
            row |= {"low": float(ends.low[0]), "high": float(ends.high[0]), "win": win}
            rows.append({**row, "winner": "smaller" if win >= SURE else "bigger" if win <= 1 - SURE else "undecided"})
    return typed(pd.DataFrame(rows, columns=schema.REGIONS.names), schema.REGIONS)


def frontier_membership(graded: pd.DataFrame, summary: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The share of bootstrap draws in which each point stands on its frontier (`schema.MEMBERSHIP`).

    As `summary.frontier`: no point of the same benchmark, slice and kind is at most as dear and at least as good. All points are drawn
    together, over the problems that all of them share; fewer than two clusters of these say nothing, and have no rows.
    """
    pools, rows = Pools(draws, seed), []
    known = summary[summary["value"].notna() & summary["cost_flops"].notna()]
    for (benchmark, name), (points, values, problems) in _matrices(graded, known, seed).items():
        if problems["cluster_id"].nunique() < 2:
            continue
        sample = pools.get(f"{benchmark} {name}", problems["problem_id"].tolist(), problems["cluster_id"].tolist())
        replicates = np.round(sample.weights @ values, 12)
        kinds = np.array([kind(m, k) for m, k in zip(points["metric"], points["k"], strict=True)])
        for one in np.unique(kinds):
            mine = np.flatnonzero(kinds == one)
            part = points.iloc[mine][["cell_id", "slice", "metric", "k"]].assign(num_problems=len(problems))
            on = _on_frontier(points["cost_flops"].to_numpy()[mine], replicates[:, mine])
            rows.append(part.assign(benchmark=benchmark, membership=on.mean(axis=0)))
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


def _matrices(graded: pd.DataFrame, wanted: pd.DataFrame, seed: int) -> dict[tuple[str, str], tuple[pd.DataFrame, Floats, pd.DataFrame]]:
    """By benchmark and slice: the points, their values (problems × points), and the problems that all their cells share."""
    parts: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell, slice_ in slices(measure(graded, seed=seed)):
        kept = Cell(cell.facts, cell.problems[slice_.rows].reset_index(drop=True), cell.points, cell.estimates[slice_.rows])
        parts.setdefault((cell.facts["benchmark"], slice_.name), {})[cell.facts["cell_id"]] = kept
    found = {}
    for key, cells in sorted(parts.items()):
        points = wanted[(wanted["benchmark"] == key[0]) & (wanted["slice"] == key[1])].reset_index(drop=True)
        problems, places = shared(list(cells.values()))
        at = dict(zip(cells, places, strict=True))
        named = zip(points["cell_id"], points["metric"], points["k"], strict=True)
        columns = [cells[c].estimates[at[c], cells[c].points.index(Point(m, k))] for c, m, k in named]
        if columns:
            found[key] = (points, np.column_stack(columns), problems)
    return found


def _halves(sample: Resampling, seed: int, name: str) -> Floats:
    """Splits × problems: 1 in the first half of the clusters, 0 in the second."""
    rng = generator(seed, f"{name} halves")
    first = np.zeros((SPLITS, sample.num_clusters))
    for row in first:
        row[rng.permutation(sample.num_clusters)[: (sample.num_clusters + 1) // 2]] = 1.0
    return first[:, sample.cluster]


def _crossfit(values: Floats, halves: Floats) -> Floats:
    """Each problem's value under the column that the other half of the problems chose, averaged over the splits."""
    total = np.zeros(len(values))
    for half in halves:
        inside = half > 0
        chosen = [int(np.argmax(np.round(values[part].mean(axis=0), 12))) for part in (inside, ~inside)]
        total += np.where(inside, values[:, chosen[1]], values[:, chosen[0]])
    return total / len(halves)
