"""The cheapest way to a target accuracy, on each axis of cost, and how sure it is that it is the cheapest.

Why: who needs nine right answers of ten asks what that costs, not which point stands on a frontier; and the cheapest setting that
happens to reach a target on these problems may miss it on others.
What it does not do: use an oracle, go between or beyond the settings that were measured, or resample costs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thinkscale import inference, schema
from thinkscale.axes import known_axes
from thinkscale.boards import Board, crossfit, half_means, halves
from thinkscale.inference import Floats, Ints, Resampling
from thinkscale.measure import SETTING, setting_names
from thinkscale.regions import SURE
from thinkscale.summarize import typed

TARGETS = (0.25, 0.5, 0.75, 0.9, 0.95)
_SETTING = ("setting", "cell_id", *SETTING)
_ROUNDING = 1e-12


class _Ranked(NamedTuple):
    """A board's points of known cost, the cheapest first (of equal costs the more accurate)."""

    skill: str
    settings: list[tuple[Any, ...]]
    """Of each point the columns `_SETTING`."""
    cost: Floats
    accuracy: Floats
    replicates: Floats


def targets(boards: Sequence[Board], levels: Sequence[float] = TARGETS, seed: int | str = 0) -> pd.DataFrame:
    """The target table (`schema.TARGETS`): one row per benchmark × slice × axis of cost × target above chance.

    The cheapest setting is the one of least cost whose accuracy is at the target or above; so in the data, and in each bootstrap draw.
    `held_out`: the setting chosen so on one half of the problems, scored on the other (50 splits, both ways); where it falls short of the
    target, the choice is luck. `safe`: the cheapest that reaches the target in 95 % of the draws.

    Args:
        boards: of points that need no oracle, with their costs (`axes.priced`).
        levels: accuracies.
        seed: fixes the halves.
    """
    rows: list[dict[str, Any]] = []
    for board in boards:
        if len(board.accuracy) < 2:
            continue
        split, replicates, chance = halves(board, seed), board.replicates, float(board.points["chance"].max())
        for axis in known_axes(board.points):
            ranked = _ranked(board, replicates, axis)
            sides = half_means(ranked.accuracy, split)
            for target in levels:
                if target > chance + _ROUNDING:
                    about = {"benchmark": board.benchmark, "slice": board.slice, "axis": axis, "target": target}
                    chosen = [_first(side >= target - _ROUNDING) for side in sides]
                    held_out = float(np.mean(crossfit(ranked.accuracy, split, (chosen[0], chosen[1]))))
                    rows.append({**about, **_row(ranked, target, board.sample), "held_out": held_out})
    return typed(pd.DataFrame(rows, columns=schema.TARGETS.names).sort_values(list(schema.TARGETS.key)), schema.TARGETS)


def _ranked(board: Board, replicates: Floats, axis: str) -> _Ranked:
    cost = board.points[f"cost_{axis}"].to_numpy(dtype=np.float64)
    known = np.flatnonzero(np.isfinite(cost))
    order = known[np.lexsort((-np.round(board.accuracy.mean(axis=0)[known], 12), cost[known]))]
    points = board.points.assign(setting=setting_names(board.points))
    rows = list(points[list(_SETTING)].itertuples(index=False, name=None))  # a frame would take most of the time
    skill = str(board.points["skill"].iloc[0])
    return _Ranked(skill, [rows[i] for i in order], cost[order], board.accuracy[:, order], replicates[:, order])


def _row(ranked: _Ranked, target: float, sample: Resampling) -> dict[str, Any]:
    """Who is the cheapest in the data, and in how many draws."""
    there = ranked.replicates >= target - _ROUNDING
    first = _first(there)
    paid = np.where(first >= 0, ranked.cost[first], np.inf)
    low, high = np.quantile(paid, [inference.ALPHA / 2, 1 - inference.ALPHA / 2], method="closest_observation")
    row: dict[str, Any] = {"cost_low": low, "cost_high": high, "share_never": float(np.mean(first < 0)), "setting": "", "safe": ""}
    row |= {"skill": ranked.skill, "num_points": len(ranked.cost), "num_problems": len(ranked.accuracy)}
    (best,) = _first((ranked.accuracy.mean(axis=0) >= target - _ROUNDING)[None])
    (safe,) = _first((there.mean(axis=0) >= SURE)[None])
    if safe >= 0:
        row |= {"safe": ranked.settings[safe][0], "safe_cost": ranked.cost[safe]}
    if best >= 0:
        row |= dict(zip(_SETTING, ranked.settings[best], strict=True))
        (row["low"],), (row["high"],) = inference.interval(ranked.accuracy[:, [best]], sample)
        row |= {"value": ranked.accuracy[:, best].mean(), "cost": ranked.cost[best], "share_cheapest": float(np.mean(first == best))}
        its = np.array([setting[2] == row["model"] for setting in ranked.settings])
        row["share_model"] = float(np.mean((first >= 0) & its[first]))
    return row


def _first(there: NDArray[np.bool_]) -> Ints:
    """The first true place of each row; -1: none."""
    return np.where(there.any(axis=1), there.argmax(axis=1), -1)
