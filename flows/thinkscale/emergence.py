"""What emerges where: a row for each skill along size, thinking or training, described, judged, and said in a sentence.

Why: one table from which every statement about emergence can be read off, with its interval, and the sentences with the row they are from.
What it does not do: compute curves, fits or verdicts itself (see `curves`, `onset`, `mirage`), or forecast.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from thinkscale import onset, schema
from thinkscale.curves import SkillCurve
from thinkscale.findings import Finding, told_apart
from thinkscale.inference import Floats, Pools, interval
from thinkscale.mirage import Evidence, Verdict, evidence, judge
from thinkscale.summarize import typed

GOOD = 0.9
"""R² below which a sigmoid does not describe a curve."""
_ROW = ("benchmark", "slice", "axis", "at", "prompt", "route", "sampling", "family")


def emergence(curves: list[SkillCurve], draws: int = 1000, seed: int | str = 0) -> pd.DataFrame:
    """The emergence table (`schema.EMERGENCE`): one row per curve over size, thinking or training.

    Args:
        curves: from `curves.skill_curves`.
        draws: bootstrap draws.
        seed: fixes them.
    """
    pools = Pools(draws, seed)
    shown = [c for c in curves if c.facts["axis"] != "samples"]
    weighed = [_evidence(c, pools) for c in shown]
    rows = [{**_described(c, pools), **_weight(c, e)} for c, e in zip(shown, weighed, strict=True)]
    for members in _families(shown):  # p-values are adjusted over the skills of one question, not over all questions that can be asked
        for i, verdict in zip(members, judge([weighed[i] for i in members]), strict=True):
            rows[i].update(_judged(verdict))
    return typed(pd.DataFrame(rows, columns=schema.EMERGENCE.names).sort_values(list(_ROW)), schema.EMERGENCE)


def _evidence(curve: SkillCurve, pools: Pools) -> Evidence:
    granular = curve.granular[0] if curve.granular else None
    return evidence(np.log10(curve.x), curve.accuracy, curve.facts["chance"], curve.draw(pools), granular)


def _families(curves: list[SkillCurve]) -> Iterable[list[int]]:
    """Curves that differ in the skill alone: whole benchmarks together, and their levels of difficulty together."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, curve in enumerate(curves):
        key = (curve.facts["slice"] == "all", *(curve.facts[name] for name in _ROW[2:]))
        groups.setdefault(key, []).append(i)
    return groups.values()


def _described(curve: SkillCurve, pools: Pools) -> dict[str, Any]:
    """Numbers of one curve and their intervals; places on the axis in its own units."""
    draw, floor, x = curve.draw(pools), curve.facts["chance"], np.log10(curve.x)
    mean = curve.accuracy.mean(axis=0)
    y = np.vstack([mean, draw.weights @ curve.accuracy])  # the first row is the estimate, the others are draws
    fit, leaves = onset.sigmoid(x, y, floor), onset.leaves_floor(x, y, floor)
    ends = interval(curve.accuracy, draw)
    slopes = onset.compatible_elasticity(curve.x, ends.low, ends.high)
    steepest = int(np.argmax(slopes))
    steady = onset.steadiness(mean, np.maximum(y[1:].std(axis=0), onset.share_se(0, len(curve.problems))))
    bend = onset.curvature(x, np.clip(y, _least(curve), 1 - _least(curve)) if _inside(mean) else y)
    return {
        **{name: curve.facts[name] for name in (*_ROW, "skill", "model", "thinking_budget", "chance")},
        **{"num_places": len(x), "decades": x[-1] - x[0], "num_problems": len(curve.problems)},
        **{"first_value": mean[0], "last_value": mean[-1], "best_value": mean.max()},
        **_three("onset", 10.0**fit.onset),
        **{"width": fit.width[0] if np.isfinite(fit.onset[0]) else np.nan, "ceiling": fit.ceiling[0], "fit_r2": _r2(x, mean, fit, floor)},
        **_three("leaves_chance", 10.0**leaves),
        **{"elasticity": slopes[steepest], "elasticity_from": curve.x[steepest], "elasticity_to": curve.x[steepest + 1]},
        **{"linearity": steady.linearity, "breakthroughness": steady.with_noise},
        **_three("curvature", bend),
    }


def _r2(x: Floats, mean: Floats, fit: onset.Sigmoid, floor: float) -> float:
    """Share of the curve's variance that the sigmoid explains; NaN where it has no place on the axis."""
    if not np.isfinite(fit.onset[0]):
        return float("nan")
    left = mean - onset.sigmoid_at(x, float(fit.onset[0]), float(fit.width[0]), float(fit.ceiling[0]), floor)
    return float(1 - (left**2).sum() / max(float(((mean - mean.mean()) ** 2).sum()), 1e-12))


def _least(curve: SkillCurve) -> float:
    """Half an answer out of all: a draw that happens to see none right knows the share to be no larger than about this."""
    return 0.5 / curve.accuracy.size


def _inside(mean: Floats) -> bool:
    return bool(((mean > 0) & (mean < 1)).all())


def _three(name: str, values: Floats) -> dict[str, float]:
    """Estimate and ends of the 95 % interval of draws that may be infinite: the draw at that place, without interpolation."""
    low, high = np.quantile(values[1:], [0.025, 0.975], method="closest_observation") if not np.isnan(values).any() else (np.nan, np.nan)
    return {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


def _weight(curve: SkillCurve, e: Evidence) -> dict[str, Any]:
    low, middle, high = np.quantile(e.relative, [0.025, 0.5, 0.975]) if len(e.relative) else (np.nan, np.nan, np.nan)
    name = curve.granular[0].name if curve.granular else "none"
    bends = {"granular_bend": middle, "granular_bend_low": low, "granular_bend_high": high}
    return {"granular": name, **bends, "p": e.p}


def _judged(v: Verdict) -> dict[str, Any]:
    shares = {"share_smooth": v.smooth, "share_mirage": v.mirage, "share_emergent": v.emergent}
    return {"p_bh": v.p_adjusted, "label": v.label, "why": v.why, **shares}


class Law(NamedTuple):
    """loss = scale * size^-exponent, a straight line in logarithms, with the exponent's 95 % t interval."""

    exponent: float
    low: float
    high: float
    scale: float
    r2: float
    sizes: int


def loss_law(size: Floats, loss: Floats) -> Law | None:
    """The power law of held-out loss over size; None with fewer than three sizes whose loss is known and above 0."""
    known = np.isfinite(loss) & (loss > 0)
    if known.sum() < 3:
        return None
    from scipy.stats import linregress  # here: it takes a third of a second of every start

    fit = linregress(np.log(size[known]), np.log(loss[known]))
    reach = float(stdtrit(known.sum() - 2, 0.975) * fit.stderr)
    slope = -float(fit.slope)
    return Law(slope, slope - reach, slope + reach, float(np.exp(fit.intercept)), float(fit.rvalue**2), int(known.sum()))


def shown_over_size(table: pd.DataFrame, curves: list[SkillCurve]) -> Iterator[tuple[str, list[tuple[dict[str, Any], SkillCurve]]]]:
    """Each whole skill's rows over size at the smallest and the largest thinking budget, with their curves.

    Args:
        table: from `emergence`.
        curves: the curves that it was made from.
    """
    known = {tuple(c.facts[name] for name in _ROW): c for c in curves}
    sized = table[(table["axis"] == "size") & (table["slice"] == "all")]
    for (benchmark, *_), rows in sized.groupby(["benchmark", "prompt", "route", "sampling", "family"], sort=True):
        ends = rows.sort_values("thinking_budget").iloc[[0, -1] if len(rows) > 1 else [0]]
        found = [{str(k): v for k, v in row.items()} for row in ends.to_dict("records")]
        yield str(benchmark), [(row, known[tuple(row[name] for name in _ROW)]) for row in found]


def findings(table: pd.DataFrame, curves: list[SkillCurve]) -> list[Finding]:
    """Where each whole skill sets in over size, at the smallest and the largest thinking budget, and how.

    Args:
        table: from `emergence`.
        curves: the curves that it was made from.
    """
    rows = [row for _, pairs in shown_over_size(table, curves) for row, _ in pairs]
    shown = pd.DataFrame(rows)
    return [_said(row, told_apart(row, shown[shown["benchmark"] == row["benchmark"]])) for row in rows]


def _said(row: dict[str, Any], apart: str) -> Finding:
    value, low, high = row["onset"], row["onset_low"], row["onset_high"]
    where = f"{apart}{row['benchmark']}, thinking budget {row['thinking_budget']:.0f}"
    if value == np.inf:
        text = f"{where}: no onset up to the largest size, 95 % interval from {_amount(low)} parameters"
    elif value == 0:
        text = f"{where}: half-way to its ceiling at the smallest size already, 95 % interval up to {_amount(high)} parameters"
    else:
        text = f"{where}: half-way from chance to a ceiling of {row['ceiling']:.0%} at {_amount(value)} parameters"
        text += f" [{_amount(low)}, {_amount(high)}]"
        if row["fit_r2"] < GOOD:
            text += f" (by a poor fit, R² {row['fit_r2']:.2f}: accuracy does not simply rise)"
    kind = f"; {row['label']}" + (f" ({row['why']})" if row["why"] else "")
    return Finding(f"{text}{kind}.", value, low, high, "emergence", {name: row[name] for name in _ROW})


def _amount(parameters: float) -> str:
    """Three digits: 32,500. The ends of the axis: `beyond the largest`, `below the smallest`."""
    if not np.isfinite(parameters) or parameters <= 0:
        return "beyond the largest" if parameters > 0 else "below the smallest"
    return f"{float(f'{parameters:.3g}'):,.0f}"
