"""Scaling laws: sums of power laws, with and without an offset, and the law from loss to error; with intervals of what they predict.

Why: what a size that was not run would do is read off a law, and a line through few points is easily believed too much. So every law
comes with AICc, the error on points that were held out, and intervals of what it predicts.
What it does not do: fit loss in parameters and tokens as Chinchilla does (see `allocation`), or choose points (see `forecast`). R^2 on
log-log axes through few points proves nothing and is not computed.

Sources: Kaplan et al. 2020, arXiv:2001.08361 (one variable). Gadre et al. 2024, arXiv:2403.08540 (loss to error). AICc: Hurvich and
Tsai 1989.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from thinkscale.inference import Floats, Ints, generator


class Term(NamedTuple):
    """exp(coefficient) / variable^exponent."""

    coefficient: str
    exponent: str | None = None
    """Name of the parameter; None: 1."""
    variable: int | None = None
    """Number of the variable that it falls with; None: a constant."""


class Law(NamedTuple):
    """A sum of terms; all of it to the power `outer` where there is one. Terms of one exponent's name share it."""

    name: str
    terms: tuple[Term, ...]
    outer: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names, each once; coefficients stand as logarithms."""
        named = [n for t in self.terms for n in (t.coefficient, t.exponent) if n] + ([self.outer] if self.outer else [])
        return tuple(dict.fromkeys(named))

    def design(self, logs: Floats) -> tuple[Floats, Floats]:
        """Logarithms of the terms as base + design @ parameters: terms × points, and terms × parameters × points."""
        names = self.parameters
        base, design = np.zeros((len(self.terms), logs.shape[1])), np.zeros((len(self.terms), len(names), logs.shape[1]))
        for i, term in enumerate(self.terms):
            design[i, names.index(term.coefficient)] = 1.0
            if term.variable is not None and term.exponent is not None:
                design[i, names.index(term.exponent)] = -logs[term.variable]
            elif term.variable is not None:
                base[i] = -logs[term.variable]
        return base, design

    def log_value(self, theta: Floats, logs: Floats) -> tuple[Floats, Floats]:
        """Logarithm of the law's value, draws × points, and its derivative, draws × parameters × points; by log-sum-exp."""
        base, design = self.design(logs)
        parts = base + np.einsum("tpn,dp->dtn", design, theta)
        total = np.asarray(logsumexp(parts, axis=1))
        slope = np.einsum("dtn,tpn->dpn", np.exp(parts - total[:, None]), design)
        if self.outer is None:
            return total, slope
        at = self.parameters.index(self.outer)
        power = theta[:, at]
        slope = slope * power[:, None, None]
        slope[:, at] = total
        return total * power[:, None], slope


POWER = Law("power law", (Term("a", "alpha", 0),))
OFFSET = Law("power law with offset", (Term("a", "alpha", 0), Term("e")))


@dataclass(frozen=True)
class Fit:
    """A law with its parameters."""

    law: Law
    theta: Floats
    objective: float
    """What was made small: the sum of squares, or of Huber's loss."""
    points: int

    def __call__(self, *variables: ArrayLike) -> Floats:
        """The law's value."""
        return np.asarray(np.exp(self.law.log_value(self.theta[None], _logs(variables))[0][0]), dtype=np.float64)

    def __getitem__(self, name: str) -> float:
        """A parameter; a coefficient as its logarithm."""
        return float(self.theta[self.law.parameters.index(name)])

    @property
    def freedom(self) -> int:
        """Points beyond the parameters."""
        return self.points - len(self.theta)

    @property
    def aicc(self) -> float:
        """Of a fit by squares: smaller is better; NaN where points are too few to tell."""
        p = len(self.theta) + 1
        if self.points - p - 1 <= 0:
            return float("nan")
        return float(self.points * np.log(max(self.objective, 1e-300) / self.points) + 2 * p + 2 * p * (p + 1) / (self.points - p - 1))


def fit(law: Law, variables: tuple[ArrayLike, ...], y: ArrayLike, log: bool = True) -> Fit:
    """Least squares of log y (of y itself with log=False), from several starts.

    Raises: ValueError where a number is not positive or there are fewer points than parameters.
    """
    logs, wanted = checked(law, variables, y)
    middle = logs.mean(axis=1)
    begin = starts(law, logs - middle[:, None], wanted)
    theta, sums = _squares(law, logs - middle[:, None], np.repeat(wanted[None], len(begin), axis=0), begin, log)
    best = int(np.argmin(sums))
    return Fit(law, moved(law, theta[best], middle), float(sums[best]), len(wanted))


class Draws(NamedTuple):
    """What a law's parameters and predictions may be, given the scatter of the points."""

    theta: Floats
    """Draws × parameters."""
    predicted: Floats
    """Draws × wanted points, with the scatter of a new point."""


def uncertainty(
    found: Fit, variables: tuple[ArrayLike, ...], wanted: tuple[ArrayLike, ...], draws: int = 1000, seed: int | str = 0
) -> Draws:
    """Parametric bootstrap of a fit by squares of logarithms; quantiles of `predicted` are prediction intervals.

    The points' scatter is drawn with its own uncertainty (the sum of squares over a chi-square), which makes it Student's t interval
    where the law is a line, and not too narrow where points are few. All NaN where no degree of freedom is left.
    """
    logs, new = _logs(variables), _logs(wanted)
    if found.freedom < 1:
        return Draws(np.full((draws, len(found.theta)), np.nan), np.full((draws, new.shape[1]), np.nan))
    rng = generator(seed, f"uncertainty {found.law.name}")
    sigma = np.sqrt(found.objective / rng.chisquare(found.freedom, draws))[:, None]
    middle = logs.mean(axis=1)
    seen = found.law.log_value(found.theta[None], logs)[0] + sigma * rng.standard_normal((draws, logs.shape[1]))
    begin = np.repeat(moved(found.law, found.theta, -middle)[None], draws, axis=0)
    theta, _ = _squares(found.law, logs - middle[:, None], seen, begin, True)
    ahead = found.law.log_value(theta, new - middle[:, None])[0] + sigma * rng.standard_normal((draws, new.shape[1]))
    with np.errstate(over="ignore"):  # few and scattered points set no bound: infinite
        return Draws(moved(found.law, theta, middle), np.exp(ahead))


class ErrorLaw(NamedTuple):
    """error = worst - k exp(-gamma loss), a number or an array of each."""

    worst: Floats
    k: Floats
    gamma: Floats

    def __call__(self, loss: ArrayLike) -> Floats:
        """The error at a loss."""
        return np.asarray(self.worst - self.k * np.exp(-self.gamma * np.asarray(loss, float)), dtype=np.float64)


def fit_error(loss: ArrayLike, error: ArrayLike) -> ErrorLaw:
    """Gadre et al.'s law from loss to a benchmark's error, by least squares; one law for each row of `error` (draws × points).

    Given gamma it is a line in exp(-gamma loss), so gamma alone is searched: no starts, no local optimum missed on the grid.
    Raises: ValueError with fewer than three points, or where all losses are the same.
    """
    x, y = np.asarray(loss, float), np.atleast_2d(np.asarray(error, float))
    spread = float(np.ptp(x))
    if len(x) < 3 or spread <= 0:
        raise ValueError(f"loss to error: needs at least 3 points with unlike losses, found {len(x)} over a range of {spread:g}.")
    away = x - x.min()  # exp(-gamma loss) of large losses would be 0 for all points
    middle = y - y.mean(axis=1, keepdims=True)

    def falls(log_gamma: Floats) -> tuple[Floats, Floats]:
        """exp(-gamma loss) at each point, and the same about its mean."""
        e = np.exp(-np.exp(log_gamma)[..., None] * away)
        return e, e - e.mean(axis=-1, keepdims=True)

    def gain(log_gamma: Floats) -> Floats:
        """Squares that the line explains, for each row its own gamma."""
        e = falls(log_gamma)[1]
        return np.asarray((e * middle).sum(axis=-1) ** 2 / (e**2).sum(axis=-1), dtype=np.float64)

    grid = np.log(np.geomspace(0.01, 100, 400) / spread)
    e = falls(grid)[1]
    best = grid[((middle @ e.T) ** 2 / (e**2).sum(axis=1)).argmax(axis=1)]
    low, high = best - (grid[1] - grid[0]), best + (grid[1] - grid[0])
    for _ in range(40):  # thirds, on all rows at once
        third = (high - low) / 3
        up = gain(low + third) < gain(high - third)
        low, high = np.where(up, low + third, low), np.where(up, high, high - third)
    gamma = np.exp((low + high) / 2)
    e, about = falls(np.log(gamma))
    k = -(about * middle).sum(axis=1) / (about**2).sum(axis=1)
    worst = y.mean(axis=1) + k * e.mean(axis=1)
    law = ErrorLaw(worst, k * np.exp(gamma * x.min()), gamma)
    return law if np.ndim(error) > 1 else ErrorLaw(*(v[0] for v in law))


def _squares(law: Law, logs: Floats, log_y: Floats, begin: Floats, log: bool) -> tuple[Floats, Floats]:
    """Levenberg and Marquardt on all rows at once: each row of `log_y` (draws × points) from its row of `begin`. Sums of squares too."""
    theta, damping, live = begin.copy(), np.full(len(begin), 1e-3), np.arange(len(begin))

    def at(theta: Floats, rows: Ints) -> tuple[Floats, Floats, Floats]:
        value, slope = law.log_value(theta, logs)
        if not log:
            value = np.exp(np.minimum(value, 700.0))
            slope = slope * value[:, None]
        residual = (log_y[rows] if log else np.exp(log_y[rows])) - value
        return residual, slope, (residual**2).sum(axis=1)

    residual, slope, sums = at(theta, live)
    for _ in range(300):
        r, j, before = residual[live], slope[live], sums[live]
        normal = np.einsum("dpn,dqn->dpq", j, j)
        more = damping[live, None] * np.einsum("dpp->dp", normal) + 1e-12
        normal = normal + np.einsum("dp,pq->dpq", more, np.eye(theta.shape[1]))
        step = np.linalg.solve(normal, np.einsum("dpn,dn->dp", j, r)[..., None])[..., 0]
        tried = at(theta[live] + step, live)
        better = tried[2] < before
        won = live[better]
        theta[won] += step[better]
        residual[won], slope[won], sums[won] = (part[better] for part in tried)
        damping[live] = np.clip(np.where(better, damping[live] / 5, damping[live] * 4), 1e-12, 1e12)
        # An offset that the points do not ask for would wander to minus infinity for ever.
        done = (np.abs(step).max(axis=1) < 1e-10) | (better & (before - tried[2] < 1e-12 * before)) | (before < 1e-26)
        live = live[~done]
        if not len(live):
            break
    return theta, sums


def starts(law: Law, logs: Floats, log_y: Floats) -> Floats:
    """Exponents from flat to steep, the constant from nothing to nearly all of the smallest value; the rest is shared by the terms."""
    begin, names = [], law.parameters
    for exponent in (0.05, 0.2, 0.5, 1.0):
        for share in (0.05, 0.5, 0.9) if any(t.variable is None for t in law.terms) else (0.0,):
            outer = 0.1 if law.outer else 1.0
            falling = sum(t.variable is not None for t in law.terms)
            rest = np.log(max(np.exp(np.median(log_y)) - share * np.exp(log_y.min()), 1e-300)) / outer - np.log(falling)
            constant = np.log(max(share, 1e-3)) + log_y.min()
            theta = {t.coefficient: rest if t.variable is not None else constant for t in law.terms}
            theta |= {t.exponent: exponent for t in law.terms if t.exponent}
            theta |= {law.outer: outer} if law.outer else {}
            begin.append([theta[n] for n in names])
    return np.array(begin, dtype=np.float64)


def moved(law: Law, theta: Floats, by: Floats) -> Floats:
    """Parameters (a row of them, or draws × parameters) of the same law when the variables' logarithms are `by` larger.

    Around their middle they hardly correlate.
    """
    moved, names = theta.copy(), law.parameters
    for term in law.terms:
        if term.variable is not None:
            exponent = theta[..., names.index(term.exponent)] if term.exponent else 1.0
            moved[..., names.index(term.coefficient)] += exponent * by[term.variable]
    return moved


def _logs(variables: tuple[ArrayLike, ...]) -> Floats:
    return np.asarray(np.log(np.stack([np.atleast_1d(np.asarray(v, float)) for v in variables])), dtype=np.float64)


def checked(law: Law, variables: tuple[ArrayLike, ...], y: ArrayLike) -> tuple[Floats, Floats]:
    """Logarithms of variables and values. Raises ValueError where they cannot be fitted."""
    values = [np.asarray(v, float) for v in (*variables, y)]
    for v in values:
        if not (np.isfinite(v) & (v > 0)).all():
            raise ValueError(f"{law.name}: logarithms need positive numbers, found {v[~(np.isfinite(v) & (v > 0))][0]:g}.")
    if len(values[-1]) < len(law.parameters):
        raise ValueError(f"{law.name}: {len(law.parameters)} parameters need as many points, found {len(values[-1])}.")
    return _logs(tuple(values[:-1])), np.log(values[-1])
