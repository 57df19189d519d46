"""What a doubling of parameters is worth in thinking: the exchange rate, between pairs of sizes and over all of them.

Why: "the small model with 4,096 tokens is as good as the big one with 256" is a statement at one accuracy; eta, doublings of thinking per
doubling of parameters at equal accuracy, can be compared across sizes, skills and routes, and with what the doubling costs.
What it does not do: extrapolate. Where the smaller model never reaches the accuracy within its settings, eta is `inf` ("at least
`most`"), where its cheapest setting is there already it is `-inf`, and the share of bootstrap draws of either kind stands beside it.

The inversion (which setting reaches the accuracy?) is inside the bootstrap, on the same problems for both sides. A bigger model is the
cheaper way where eta is above the break-even of a cost axis: the eta at which both sides cost the same there.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from thinkscale.axes import COUNTED
from thinkscale.inference import Floats, Pools, Resampling
from thinkscale.measure import Cell, Point, measure, shared, slices
from thinkscale.routes import way

_KEY = ("benchmark", "slice", "route", "metric", "thinking_budget", "prompt", "thinking_route", "sampling")
COLUMNS = (
    *(*_KEY, "skill", "small_model", "small_params", "big_model", "big_params"),
    *("big_x", "level", "small_x", "eta", "low", "high", "least", "most", "share_never", "share_already", "num_problems"),
    *(f"break_even_{axis}" for axis in COUNTED),
    "cheaper",
)
RATES = (*_KEY, "skill", "sizes", "num_problems", "eta", "low", "high", "r2")
_KEPT = ("chance", *(f"cost_{axis}" for axis in COUNTED))
_Costs = dict[tuple[Any, ...], tuple[Any, ...]]
_ROUNDING = 1e-12
_FLAT = 1e-9
NO_SPREAD = "all problems agree"


class Curve(NamedTuple):
    """A model's accuracy along one route, cheapest setting first."""

    facts: dict[str, Any]
    x: Floats
    """Multiplier of test-time compute: completion tokens for `think longer`, samples for `sample more`."""
    costs: dict[str, Floats]
    accuracy: Floats
    """Problems × settings."""
    problems: pd.DataFrame


def exchange_rates(graded: pd.DataFrame, summary: pd.DataFrame, draws: int = 1000, seed: int | str = 0) -> pd.DataFrame:
    """A row (`COLUMNS`) for each pair of neighbouring sizes, route and setting of the bigger model that is above chance.

    Route `think longer`: single answers, x is completion tokens over the thinking budgets, or over the levels of effort. Route `sample
    more`: pass@k (an oracle's bound) and maj@k, x is k, at each of them. `level` is the bigger model's accuracy at `big_x`; `small_x` is
    where the smaller one first reaches it, between settings along a straight line in log x. eta is log2(small_x / big_x) /
    log2(big_params / small_params).

    Args:
        graded: one row per answer.
        summary: from `summarize` of the same rows; gives the costs.
        draws: bootstrap draws.
        seed: fixes them.
    """
    pools, rows = Pools(draws, seed), []
    for key, curves in _curves(graded, summary, seed).items():
        curves.sort(key=lambda c: (c.facts["params"], c.facts["model"]))
        for small, big in pairwise(curves):
            if small.facts["params"] < big.facts["params"]:
                rows += [{**key._asdict(), **row} for row in _pair(small, big, key, pools)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).reset_index(drop=True)


def overall_rate(graded: pd.DataFrame, summary: pd.DataFrame, draws: int = 1000, seed: int | str = 0) -> pd.DataFrame:
    """One eta of each of what `exchange_rates` compares over all sizes: from the plane logit(accuracy) = a + b log2 N + c log2 x.

    eta = b / c, with the fit inside the bootstrap; a description where the plane fits (`r2`), a mean over unlike places where it does not.
    Settings in which no or every problem is right hold no slope; accuracies are kept half a problem away from 0 and 1. Slices that the
    summary lacks are left out. Where neither size nor thinking changes anything there is no rate: NaN.
    """
    pools, rows = Pools(draws, seed), []
    for key, curves in _curves(graded, summary, seed).items():
        problems, places = shared(curves)
        if len({c.facts["params"] for c in curves}) < 2 or problems["cluster_id"].nunique() < 2 or min(len(c.x) for c in curves) < 2:
            continue
        draw = _draw(pools, key, problems)
        values = np.concatenate([c.accuracy[at] for c, at in zip(curves, places, strict=True)], axis=1)
        size = np.concatenate([np.full(len(c.x), np.log2(c.facts["params"])) for c in curves])
        plane = np.column_stack([np.ones(len(size)), size, np.concatenate([np.log2(c.x) for c in curves])])
        fits = _logit(np.vstack([values.mean(axis=0), draw.weights @ values]), len(problems))
        solve = np.linalg.pinv(plane)  # least squares of all draws are one product
        _, b, c = solve @ fits.T
        eta = np.where(c > _ROUNDING, b / np.where(c > _ROUNDING, c, 1.0), np.inf)  # thinking that buys nothing: no amount is enough
        flat = bool(np.ptp(fits) <= _FLAT)  # neither buys anything: there is no rate
        eta = np.where(flat, np.nan, eta)
        low, high = _percentiles(eta[1:])
        residual = fits[0] - plane @ (solve @ fits[0])
        r2 = np.nan if flat else 1 - residual.var() / max(fits[0].var(), _ROUNDING)
        facts = {"skill": curves[0].facts["skill"], "sizes": len(curves), "num_problems": len(problems)}
        rows.append({**key._asdict(), **facts, "eta": eta[0], "low": low, "high": high, "r2": r2})
    return pd.DataFrame(rows, columns=list(RATES))


class _Key(NamedTuple):
    """Curves that can be compared."""

    benchmark: str
    slice: str
    route: str
    metric: str
    thinking_budget: int | None
    """None where the route runs over the budgets."""
    prompt: str
    thinking_route: str
    """How thinking is spent, the column `route` elsewhere; `effort` where the route runs over its levels."""
    sampling: str


def _curves(graded: pd.DataFrame, summary: pd.DataFrame, seed: int | str) -> dict[_Key, list[Curve]]:
    costs = {row[:4]: row[4:] for row in summary[["cell_id", "slice", "metric", "k", *_KEPT]].itertuples(index=False, name=None)}
    longer: dict[tuple[Any, ...], list[Cell]] = {}
    curves: dict[_Key, list[Curve]] = {}
    wanted = set(summary["slice"])
    for cell, slice_ in slices(measure(graded, seed=seed)):
        if slice_.name not in wanted:
            continue
        part = Cell(cell.facts, cell.problems[slice_.rows].reset_index(drop=True), cell.points, cell.estimates[slice_.rows])
        benchmark, prompt, route, sampling = (str(cell.facts[c]) for c in ("benchmark", "prompt", "route", "sampling"))
        longer.setdefault((benchmark, slice_.name, prompt, way(route), sampling, cell.facts["model"]), []).append(part)
        for metric in ("pass@k", "maj@k"):
            points = [(part, p) for p in part.points if p.metric == metric]
            key = _Key(benchmark, slice_.name, "sample more", metric, int(cell.facts["thinking_budget"]), prompt, route, sampling)
            _add(curves, key, points, costs)
    for (benchmark, name, *conditions, _), parts in longer.items():
        key = _Key(benchmark, name, "think longer", "pass@k", None, *conditions)
        _add(curves, key, [(part, Point("pass@k", 1)) for part in parts], costs)
    return curves


def _add(curves: dict[_Key, list[Curve]], key: _Key, points: list[tuple[Cell, Point]], costs: _Costs) -> None:
    """A curve of these points; settings with unknown value or cost, and problems that not all settings have, are left out."""
    problems, places = shared([cell for cell, _ in points])
    columns, kept, chance = [], [], 0.0
    for (cell, point), at in zip(points, places, strict=True):
        column = cell.estimates[at, cell.points.index(point)]
        about = dict(zip(_KEPT, costs[(cell.facts["cell_id"], key.slice, *point)], strict=True))
        chance = about["chance"]
        x = about["cost_tokens"] if key.route == "think longer" else float(point.k)
        if not np.isnan(column).any() and x > 0:
            columns.append(column)
            kept.append({"x": x, **{axis: about[f"cost_{axis}"] for axis in COUNTED}})
    if columns:
        order = np.argsort([row["x"] for row in kept], kind="stable")
        table = {name: np.array([kept[i][name] for i in order], dtype=np.float64) for name in ("x", *COUNTED)}
        facts = {**points[0][0].facts, "chance": chance}
        spent = {axis: table[axis] for axis in COUNTED}
        curves.setdefault(key, []).append(Curve(facts, table["x"], spent, np.column_stack(columns)[:, order], problems))


def _pair(small: Curve, big: Curve, key: _Key, pools: Pools) -> Iterator[dict[str, Any]]:
    problems, places = shared([small, big])
    if problems["cluster_id"].nunique() < 2:
        return
    draw = _draw(pools, key, problems)
    below, above = (c.accuracy[at] for c, at in zip((small, big), places, strict=True))
    # The first row is the estimate, the others are draws.
    curve, levels = (np.vstack([v.mean(axis=0), draw.weights @ v]) for v in (below, above))
    doublings = np.log2(big.facts["params"] / small.facts["params"])
    for j, x in enumerate(big.x):
        if levels[0, j] <= big.facts["chance"] + _ROUNDING:
            continue
        log_x = reach(np.log2(small.x), curve, levels[:, j])
        eta = (log_x - np.log2(x)) / doublings
        spread = max(np.ptp(above[:, j]), np.ptp(below, axis=0).max()) > _ROUNDING
        low, high = _percentiles(eta[1:]) if spread else (np.nan, np.nan)  # a bootstrap of problems that agree knows no doubt
        even = {f"break_even_{a}": _break_even(small, big, a, j) / doublings for a in COUNTED}
        least, most = (float(np.log2(small.x[end] / x)) / doublings for end in (0, -1))
        yield {
            **{"skill": big.facts["skill"], "small_model": small.facts["model"], "small_params": small.facts["params"]},
            **{"big_model": big.facts["model"], "big_params": big.facts["params"], "big_x": x, "level": levels[0, j]},
            **{"small_x": 2.0 ** log_x[0], "eta": eta[0], "low": low, "high": high, "num_problems": len(problems)},
            **{"least": least, "most": most},
            **{"share_never": np.mean(eta[1:] == np.inf), "share_already": np.mean(eta[1:] == -np.inf), **even},
            "cheaper": _cheaper(min(low, most), max(high, least), even["break_even_flops"], bool(np.isfinite([low, high]).all()))
            if spread
            else NO_SPREAD,
        }


def _cheaper(low: float, high: float, even: float, reached: bool) -> str:
    """Which side is the cheaper way in FLOPs; an infinite end counts as the bound that it is (`most`, `least`), not as infinite."""
    if np.isnan(even):
        return "break-even unknown"
    if low > even:
        return "bigger"
    if high < even:
        return "smaller, thinking more"
    return "no difference shown" if reached else "out of range"


def reach(log_x: Floats, curve: Floats, level: Floats) -> Floats:
    """Where each row of `curve` first reaches its level, along straight lines in log x; inf where never, -inf where at once.

    A setting that does worse than a cheaper one is never chosen: the curve is its running maximum.
    """
    best = np.maximum.accumulate(curve, axis=1)
    there = best >= level[:, None] - _ROUNDING
    at = np.argmax(there, axis=1)
    row = np.arange(len(curve))
    before = np.maximum(at - 1, 0)
    rise = best[row, at] - best[row, before]
    share = np.where(rise > 0, (level - best[row, before]) / np.where(rise > 0, rise, 1.0), 1.0)
    between = log_x[before] + np.clip(share, 0.0, 1.0) * (log_x[at] - log_x[before])
    first = np.abs(best[:, 0] - level) <= _ROUNDING  # reaches it exactly at its cheapest setting: a number, not a bound
    found = np.where(at > 0, between, np.where(first, log_x[0], -np.inf))
    return np.asarray(np.where(there.any(axis=1), found, np.inf), dtype=np.float64)


def _break_even(small: Curve, big: Curve, axis: str, j: int) -> float:
    """log2 of the smaller model's x at the bigger one's cost, minus log2 of the bigger one's x; its cost curve goes on straight."""
    spent, dear = small.costs[axis], big.costs[axis][j]
    if not (np.isfinite([*spent, dear]).all() and min(*spent, dear) > 0):
        return float("nan")
    cost, log_x, wanted = np.log2(spent), np.log2(small.x), np.log2(dear)
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(cost)) > _ROUNDING])
    cost, log_x = cost[rising], log_x[rising]
    if len(cost) < 2:
        return float("nan")
    i = int(np.clip(np.searchsorted(cost, wanted), 1, len(cost) - 1))
    slope = (log_x[i] - log_x[i - 1]) / (cost[i] - cost[i - 1])
    return float(log_x[i - 1] + slope * (wanted - cost[i - 1]) - np.log2(big.x[j]))


def _draw(pools: Pools, key: _Key, problems: pd.DataFrame) -> Resampling:
    return pools.get(f"{key.benchmark} {key.slice}", problems["problem_id"].tolist(), problems["cluster_id"].tolist())


def _logit(accuracy: Floats, problems: int) -> Floats:
    inside = np.clip(accuracy, 0.5 / problems, 1 - 0.5 / problems)
    return np.asarray(np.log(inside / (1 - inside)), dtype=np.float64)


def _percentiles(draws: Floats) -> tuple[float, float]:
    """2.5 and 97.5 %, of draws that may be infinite: the draw at that place, without interpolation."""
    low, high = np.quantile(draws, [0.025, 0.975], method="closest_observation")
    return float(low), float(high)
