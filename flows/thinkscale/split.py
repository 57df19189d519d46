"""How to split what one model may spend on a problem between longer thinking and more samples: along lines of equal cost.

Why: a budget of tokens buys one long thought or a vote of several short ones, and which is better depends on the skill and on the budget
(Snell et al. 2024, arXiv:2408.03314; Wu et al. 2024, arXiv:2408.00724).
What it does not do: use an oracle, score a split on the problems that chose it, or give each problem a split of its own.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from thinkscale import inference, schema
from thinkscale.axes import known_axes
from thinkscale.boards import Board, crossfit, half_means, halves
from thinkscale.inference import Floats, Ints
from thinkscale.measure import SETTING, setting_name
from thinkscale.routes import is_greedy, way
from thinkscale.summarize import typed

PAID = ("tokens", "flops")
_ONE_MODEL = ["model", "prompt", "route", "sampling"]
_ROUNDING = 1e-12


class _Line(NamedTuple):
    """One model's settings, the cheapest first: what a budget buys is the first so many of them."""

    facts: dict[str, Any]
    names: list[str]
    thinking_budget: Ints
    """Of levels of effort their mean thinking tokens, rounded."""
    k: Ints
    cost: Floats
    accuracy: Floats
    """Problems × settings."""
    replicates: Floats


def splits(boards: Sequence[Board], axes: Sequence[str] = PAID, seed: int | str = 0) -> pd.DataFrame:
    """The split table (`schema.SPLIT`): one row per benchmark × slice × model × axis of cost × budget.

    Budgets are powers of two times the cost of one sample at the largest thinking budget (`longest`): at 1 all may go into one thought or
    into several shorter ones. Split: thinking budget × votes (pass@1, maj@k) that costs at most the budget. The best one is chosen on one
    half of the problems and scored on the other (50 splits, both ways), so is the best single sample; `difference` is paired by problem.

    Args:
        boards: of points that need no oracle, with their costs (`axes.priced`).
        axes: what is budgeted; those that are not known of a model are left out.
        seed: fixes the halves.
    """
    rows: list[dict[str, Any]] = []
    for board in boards:
        if len(board.accuracy) < 2:
            continue
        half, replicates = halves(board, seed), board.replicates
        for axis in [axis for axis in axes if axis in known_axes(board.points)]:
            for line in _lines(board, replicates, axis):
                rows += [{"axis": axis, "benchmark": board.benchmark, "slice": board.slice, **row} for row in _rows(line, board, half)]
    return typed(pd.DataFrame(rows, columns=schema.SPLIT.names).sort_values(list(schema.SPLIT.key)), schema.SPLIT)


def _lines(board: Board, replicates: Floats, axis: str) -> Iterator[_Line]:
    """Each model that has votes and more than one thinking budget."""
    points = board.points.assign(cost=board.points[f"cost_{axis}"].astype(float), mean=np.round(board.accuracy.mean(axis=0), 12))
    points = points[
        points["metric"].isin(["pass@k", "maj@k"])
        & np.isfinite(points["cost"])
        & (points["cost"] > 0)
        & ~points["sampling"].astype(str).map(is_greedy)
    ]
    points["setting"] = [setting_name(*words) for words in points[list(SETTING)].itertuples(index=False, name=None)]
    points = points.assign(route=points["route"].astype(str).map(way), level=points["thinking_level"].round())
    for _, mine in points.groupby(_ONE_MODEL, sort=True, observed=True):
        if mine["level"].min() < mine["level"].max() and mine["k"].max() > 1:
            mine = mine.sort_values(["cost", "mean"], ascending=[True, False], kind="stable")
            facts = {name: mine[name].iloc[0] for name in (*_ONE_MODEL, "params", "skill")}
            budgets, ks = (mine[name].to_numpy(np.int64) for name in ("level", "k"))
            at = mine.index.to_numpy()
            yield _Line(
                facts, mine["setting"].tolist(), budgets, ks, mine["cost"].to_numpy(np.float64), board.accuracy[:, at], replicates[:, at]
            )


def _rows(line: _Line, board: Board, half: Floats) -> list[dict[str, Any]]:
    single = np.flatnonzero(line.k == 1)
    longest = float(line.cost[single].max())
    first, last = (int(np.ceil(np.log2(c / longest))) for c in (line.cost[single].min(), line.cost.max()))
    sides = half_means(line.accuracy, half)
    rows, scored, same = [], [], []
    for times in 2.0 ** np.arange(first, last + 1):
        count = int(np.searchsorted(line.cost, times * longest * (1 + _ROUNDING), side="right"))
        few = single[single < count]
        chosen, alone = ([s[:, among].argmax(axis=1) for s in sides] for among in (np.arange(count), few))
        scored.append([crossfit(line.accuracy, half, (c[0], c[1])) for c in (chosen, [few[c] for c in alone])])
        same.append(all((line.k[c] == 1).all() for c in chosen))
        rows.append({**line.facts, **_split(line, count), "budget": times * longest, "longest": times})
    held = np.array(scored).transpose(1, 2, 0)  # of the split and of one sample: problems × budgets
    ends, gap = inference.interval(held[0], board.sample), inference.interval(held[0] - held[1], board.sample, (-1.0, 1.0))
    for i, row in enumerate(rows):
        row |= {"held_out": held[0, :, i].mean(), "held_out_low": ends.low[i], "held_out_high": ends.high[i], "num_problems": len(held[0])}
        row |= {"single": held[1, :, i].mean(), "difference": (held[0] - held[1])[:, i].mean()}
        row |= {"low": 0.0 if same[i] else gap.low[i], "high": 0.0 if same[i] else gap.high[i]}  # the same setting: no chance in it
    return rows


def _split(line: _Line, count: int) -> dict[str, Any]:
    """The best of the first `count` settings in the data, and how the draws differ."""
    budgets, ks = line.thinking_budget[:count], line.k[:count]
    best = int(np.round(line.accuracy[:, :count].mean(axis=0), 12).argmax())  # of level ones the cheapest, here and in the draws
    drawn = line.replicates[:, :count].argmax(axis=1)
    row: dict[str, Any] = {
        "setting": line.names[best],
        "thinking_budget": budgets[best],
        "k": ks[best],
        "cost": line.cost[best],
        "num_points": count,
    }
    for name, among in (("thinking_budget", budgets), ("k", ks)):
        low, high = np.quantile(among[drawn], [inference.ALPHA / 2, 1 - inference.ALPHA / 2], method="closest_observation")
        row |= {f"{name}_low": int(low), f"{name}_high": int(high)}
    shares = {"share_best": float(np.mean(drawn == best)), "share_votes": float(np.mean(ks[drawn] > 1))}
    return {**row, **shares, "value": line.accuracy[:, best].mean()}
