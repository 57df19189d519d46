"""Where an interval's width comes from, and how many problems and samples it takes to see a difference.

Why: more samples of the same problems stop helping after a few; whether to buy problems or samples is a sum that can be done before a
GPU is rented, and again when the data are there.
What it does not do: anything but the normal approximation for means over independent problems; with clusters, count the clusters.

Source: Miller 2024, arXiv:2411.00640, section 5, with sampling noise of each side divided by its number of samples.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]

POWER = 0.8
"""Chance to see a difference that is there."""
ALPHA = 0.05


class Spread(NamedTuple):
    """What a paired difference of two accuracies varies with."""

    between: float
    """Variance over problems of the true difference."""
    within: float
    """Mean over problems of p(1-p), of each of the two sides: what one sample adds."""


TYPICAL = Spread(between=0.075, within=0.125)
"""Before the data are there: accuracies of problems as in a Beta(1/2, 1/2), correlated 0.7 between the two sides."""


class ErrorBudget(NamedTuple):
    """A mean over problems: its squared standard error in two parts (arrays: one number per estimate)."""

    se: Floats
    between: Floats
    """Part of `se`^2 that only more problems lessen. An unbiased estimate: may fall below 0."""
    within: Floats
    """Part of `se`^2 that more samples lessen."""

    @property
    def share_within(self) -> Floats:
        """Share of the squared standard error that comes from drawing samples, in [0, 1]; NaN where there is no error at all."""
        whole = self.se**2
        return np.where(whole > 0, np.clip(self.within / np.where(whole > 0, whole, 1.0), 0.0, 1.0), np.nan)


def error_budget(values: Floats, noise: Floats) -> ErrorBudget:
    """Split the error of each column's mean over problems.

    Args:
        values: problems × estimates.
        noise: unbiased variance of each value over the drawing of its samples (`estimators.pass_at_k_variance`).
    """
    if len(values) < 2:
        nothing = np.full(values.shape[1], np.nan)
        return ErrorBudget(nothing, nothing, nothing)
    whole = values.var(axis=0, ddof=1) / len(values)
    within = noise.mean(axis=0) / len(values)
    return ErrorBudget(np.sqrt(whole), whole - within, within)


def measured_spread(right: ArrayLike, other_right: ArrayLike, samples: int, other_samples: int) -> Spread:
    """The spread of a difference that was measured, free of the noise of its samples.

    Args:
        right: right samples of each problem on one side.
        other_right: on the other side, same problems.
        samples: drawn per problem, at least 2.
        other_samples: on the other side.
    """
    if min(samples, other_samples) < 2:
        raise ValueError("power: one sample a problem does not show its own noise; draw at least 2, or assume power.TYPICAL.")
    p, q = np.asarray(right, float) / samples, np.asarray(other_right, float) / other_samples
    if p.shape != q.shape or p.ndim != 1 or len(p) < 2:
        raise ValueError(f"power: give the same two problems or more on both sides, found {p.shape} and {q.shape} numbers.")
    if not all(((v >= 0) & (v <= 1)).all() for v in (p, q)):
        raise ValueError("power: right samples of a problem must be between 0 and the samples drawn.")
    noise, other = (float(np.mean(v * (1 - v))) * n / (n - 1) for v, n in ((p, samples), (q, other_samples)))
    between = float(np.var(p - q, ddof=1)) - noise / samples - other / other_samples
    return Spread(max(between, 0.0), (noise + other) / 2)


def problems_needed(difference: ArrayLike, samples: ArrayLike, spread: Spread = TYPICAL, power: float = POWER) -> Floats:
    """Problems that show a difference in accuracy with this power, at `samples` per problem and side: "to see 3 points you need ..."."""
    _positive(difference=difference, samples=samples)
    variance = spread.between + 2 * spread.within / np.asarray(samples, float)
    return np.asarray(np.ceil(_reach(power) ** 2 * variance / np.asarray(difference, float) ** 2 - 1e-9), dtype=np.float64)


def visible_difference(problems: ArrayLike, samples: ArrayLike, spread: Spread = TYPICAL, power: float = POWER) -> Floats:
    """The smallest difference in accuracy that these many problems and samples show with this power."""
    _positive(problems=problems, samples=samples)
    variance = spread.between + 2 * spread.within / np.asarray(samples, float)
    return np.asarray(_reach(power) * np.sqrt(variance / np.asarray(problems, float)))


def best_samples(cost_of_problem: float, cost_of_sample: float, spread: Spread = TYPICAL) -> float:
    """Samples per problem that see most for a fixed cost, where a new problem costs something besides its samples (its prompt)."""
    if spread.between <= 0:
        return float("inf")
    return float(max(1.0, np.sqrt(2 * spread.within / spread.between * cost_of_problem / cost_of_sample)))


ASSUMED = (
    "(two accuracies compared problem by problem; chance 80 % to see it at 95 %; problems as unlike as on typical benchmarks, "
    "their accuracies correlated 0.7 between the sides)"
)


def outlook(benchmark: str, problems: int, samples: int, points: float = 3.0) -> str:
    """What a plan can show and what it would take to show `points`, in a line."""
    seen, needed = 100 * float(visible_difference(problems, samples)), float(problems_needed(points / 100, samples))
    held = f"{benchmark}: {problems:,} problems × {samples:,} samples show differences from {seen:.1f} points on"
    return held + ("" if seen <= points else f"; {points:g} points take {needed:,.0f} problems × {samples:,} samples")


def _positive(**named: ArrayLike) -> None:
    for name, given in named.items():
        values = np.asarray(given, float)
        if not (values > 0).all():
            raise ValueError(f"power: {name} must be above 0, found {values[~(values > 0)].flat[0]:g}.")


def _reach(power: float) -> float:
    return float(ndtri(1 - ALPHA / 2) + ndtri(power))
