"""What should I buy next? From every point: what a bigger model, longer thinking or more samples would add, and at what price.

Why: who stands at one setting asks for the next step, not for a frontier; the three routes are compared there by what they gain for each
doubling of cost, on the same problems.
What it does not do: use an oracle, mix families, prompts or ways of thinking, or resample costs: a step costs what the summary says, and
the intervals are over problems.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from thinkscale import inference, schema
from thinkscale.axes import known_axes
from thinkscale.boards import Board
from thinkscale.curves import About
from thinkscale.inference import Floats, Ints
from thinkscale.measure import SETTING
from thinkscale.routes import is_greedy, way
from thinkscale.summarize import typed

BOUGHT = ("bigger", "think longer", "sample more")
LEAST_COST = 1.05
"""A step that costs less than this many times as much counts as costing that: else a gain for nothing would be infinitely good."""
_AT = ("route", "sampling", "thinking_budget", "thinking_level", "metric", "k")
_FROM = ("cell_id", "model", "params", "benchmark", "skill", "slice", "prompt", *_AT)
_CHUNK = 400  # points at once: their three routes in 2,000 draws are 20 MB


class Steps(NamedTuple):
    """Row numbers in a board's points: from where, to where, and by which route (a place in `BOUGHT`)."""

    start: Ints
    end: Ints
    bought: Ints


def purchases(boards: Sequence[Board], about: Mapping[str, About]) -> pd.DataFrame:
    """The purchase table (`schema.PURCHASE`): one row per point × route that goes on from it × reach × axis of cost.

    `bigger`: the family's next size (of models of one size, the one trained longest; the same sampling where it has it), all else equal.
    `think longer`: of the larger budgets (or levels of effort, by their mean thinking tokens) the one closest to twice this one; from 0,
    the smallest. `sample more`: twice as many votes;
    from one sample on to four, since two votes without a majority are one (maj@2 is pass@1 where nobody abstains).

    Gain and interval are paired by problem. `per_doubling` is the gain over log2 of the cost ratio (at least log2 of `LEAST_COST`);
    in each bootstrap draw the route with the most of it is the best, if it gains at all. A next step may gain nothing where a longer one
    gains much: over all problems there are rows of `further`, too, the step anywhere along the route with the most gain for each doubling
    (chosen on these problems, and in each draw again: a gain that is rather too good).

    Args:
        boards: of points that need no oracle, with their costs (`axes.priced`); those of pass@1 and maj@k count.
        about: family and training of each model; one that is absent is of family "all".
    """
    tables = [table for board in boards if len(board.accuracy) > 1 for table in _tables(board, about)]
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=schema.PURCHASE.names)
    return typed(found.sort_values([c for c in schema.PURCHASE.key if c in found]), schema.PURCHASE)


def next_steps(points: pd.DataFrame, about: Mapping[str, About]) -> Steps:
    """Where each route leads from each point.

    Args:
        points: of one benchmark and slice, numbered from 0: the columns of `schema.SUMMARY`.
        about: as in `purchases`.
    """
    columns = ["model", "params", "prompt", *_AT]
    rows = [dict(zip(columns, row, strict=True)) for row in points[columns].itertuples(index=False, name=None)]
    known = [about.get(str(row["model"]), About()) for row in rows]
    found: list[tuple[int, int, int]] = []
    bigger: dict[tuple[Any, ...], list[int]] = {}
    longer: dict[tuple[Any, ...], list[int]] = {}
    more: dict[tuple[Any, ...], int] = {}
    for i, (row, model) in enumerate(zip(rows, known, strict=True)):
        among = (row["prompt"], row["route"])
        point = (row["metric"], row["k"])
        bigger.setdefault((model.family, *among, is_greedy(str(row["sampling"])), row["thinking_budget"], *point), []).append(i)
        longer.setdefault((row["model"], row["prompt"], way(str(row["route"])), row["sampling"], *point), []).append(i)
        more[(row["model"], *among, row["sampling"], row["thinking_budget"], *point)] = i
    for rivals in bigger.values():
        found += [(i, j, 0) for i, j in _next_sizes(rivals, rows, known)]
    for same in longer.values():
        levels = {rows[i]["thinking_level"]: i for i in same}
        found += [(i, levels[at], 1) for level, i in levels.items() if (at := _next_level(level, list(levels))) is not None]
    for (*same_cell, metric, k), i in more.items():
        ends = [("maj@k", 4), ("maj@k", 2)] if (metric, k) == ("pass@k", 1) else [("maj@k", 2 * k)] if metric == "maj@k" else []
        there = [more[(*same_cell, *end)] for end in ends if (*same_cell, *end) in more]
        found += [(i, there[0], 2)] if there else []
    return Steps(*np.array(sorted(found), np.int64).reshape(-1, 3).T)


def _next_sizes(rivals: list[int], rows: list[dict[str, Any]], known: list[About]) -> list[tuple[int, int]]:
    """Pairs among points that differ in model and sampling alone."""
    grown = {p: max(known[i].training_tokens or 0 for i in rivals if rows[i]["params"] == p) for p in {rows[i]["params"] for i in rivals}}
    last = [i for i in rivals if (known[i].training_tokens or 0) == grown[rows[i]["params"]]]  # a checkpoint is no size
    found = []
    for i in last:
        above = sorted(p for p in grown if p > rows[i]["params"])[:1]
        ends = [j for j in last if rows[j]["params"] in above]
        if ends:
            found.append((i, min(ends, key=lambda j: (rows[j]["sampling"] != rows[i]["sampling"], str(rows[j]["model"]), j))))
    return found


def _next_level(level: float, levels: list[float]) -> float | None:
    larger = [at for at in levels if at > level]
    if not larger:
        return None
    return min(larger) if level == 0 else min(larger, key=lambda at: (abs(np.log2(at / level) - 1), at))


def further(steps: Steps) -> Steps:
    """All that each route leads to from each point, one step after the other."""
    after = {(s, b): e for s, e, b in zip(*(part.tolist() for part in steps), strict=True)}
    found = []
    for start, bought in after:
        end = after.get((start, bought))
        while end is not None:
            found.append((start, end, bought))
            end = after.get((end, bought))
    return Steps(*np.array(found, np.int64).reshape(-1, 3).T)


def _tables(board: Board, about: Mapping[str, About]) -> list[pd.DataFrame]:
    plain = board.points["metric"].isin(["pass@k", "maj@k"]).to_numpy()  # a choice by a score is a route of its own
    board = board._replace(points=board.points[plain].reset_index(drop=True), accuracy=board.accuracy[:, plain])
    replicates, steps = board.replicates, next_steps(board.points, about)
    tables = _reached(board, replicates, steps, "next")
    return tables + (_reached(board, replicates, further(steps), "further") if board.slice == "all" else [])


def _reached(board: Board, replicates: Floats, steps: Steps, reach: str) -> list[pd.DataFrame]:
    """Rows of the steps; of those that go one way from one point, the one that gains the most for each doubling."""
    order = np.lexsort((steps.end, steps.bought, steps.start))
    steps = Steps(*(part[order] for part in steps))
    points, tables = board.points, []
    for some in np.split(np.arange(len(order)), np.searchsorted(steps.start, np.arange(_CHUNK, len(points), _CHUNK))):
        if not len(some):
            continue
        mine = Steps(*(part[some] for part in steps))
        gap, gains = (np.asarray(values[:, mine.end] - values[:, mine.start]) for values in (board.accuracy, replicates))
        ends = inference.agreeing(gap, inference.quantiles(gains.T), board.sample.cluster, (-1.0, 1.0))
        table = _described(board, mine).assign(low=ends.low, high=ends.high, reach=reach)
        for axis in known_axes(points) or ["flops"]:
            cost = np.asarray(points.get(f"cost_{axis}", np.full(len(points), np.nan)), dtype=np.float64)
            contest = _contest(mine, gains, table["gain"].to_numpy(np.float64), cost)
            chosen = contest.pop("chosen")
            tables.append(table.take(chosen).reset_index(drop=True).assign(axis=axis, **contest))
    return tables


def _described(board: Board, steps: Steps) -> pd.DataFrame:
    """Where each step starts and ends, and what it gains."""
    here, there = (board.points.iloc[at].reset_index(drop=True) for at in (steps.start, steps.end))
    value, to_value = (board.accuracy.mean(axis=0)[at] for at in (steps.start, steps.end))
    table = pd.concat([here[list(_FROM)], there[["cell_id", *SETTING]].add_prefix("to_")], axis=1)
    table = table.assign(bought=np.array(BOUGHT)[steps.bought], num_problems=len(board.accuracy))
    return table.assign(value=value, to_value=to_value, gain=np.round(to_value - value, 12))


def _contest(steps: Steps, gains: Floats, gain: Floats, cost: Floats) -> dict[str, Any]:
    """On one axis of cost: of each point and route the step `chosen`, its cost ratio, and how often the route is the best purchase."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((cost[steps.start] > 0) & np.isfinite(cost[steps.end]), cost[steps.end] / cost[steps.start], np.nan)
        doublings = np.log2(np.maximum(ratio, LEAST_COST))
    told = ~np.isnan(doublings)
    per = np.where(told, gain / doublings, -np.inf)
    _, point = np.unique(steps.start, return_inverse=True)
    way = point * len(BOUGHT) + steps.bought
    first = np.flatnonzero(np.diff(way, prepend=-1))
    chosen = np.lexsort((np.arange(len(way)), -per, way))[first]
    # Level points gain exactly 0 (`Board.replicates`). The short side first: maxima over it are fast.
    each = np.where(told, gains / np.where(told, doublings, 1.0), -np.inf)
    rates = np.full((len(BOUGHT), len(gains), int(point.max()) + 1), -np.inf)
    rates[steps.bought[first], :, point[first]] = (each if len(first) == len(way) else np.maximum.reduceat(each, first, axis=1)).T
    top = rates.max(axis=0)
    best = (rates == top) & (top > 0)
    share = (best / np.maximum(best.sum(axis=0), 1)).mean(axis=1)
    there, bought, known = point[chosen], steps.bought[chosen], told[chosen]
    return {
        "chosen": chosen,
        "cost_ratio": ratio[chosen],
        "per_doubling": np.where(known, per[chosen], np.nan),
        "share_best": np.where(known, share[bought, there], np.nan),
        "share_nothing": np.where(known, (top <= 0).mean(axis=0)[there], np.nan),
        "num_open": np.bincount(there, weights=known, minlength=top.shape[1]).astype(np.int64)[there],
    }
