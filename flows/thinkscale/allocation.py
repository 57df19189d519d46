"""Loss in parameters and training tokens: the joint laws of Chinchilla and Kaplan, Chinchilla's fit, and how to spend training FLOPs.

Why: these fits are known for giving whatever the optimizer's tolerance was; here each objective is driven to its optimum, which tests
compare with the published one.
What it does not do: intervals of A and B, which are skewed and hang on the exponents: resample rows, start from the first fit, and report
exponents, offset, allocation and predictions.

Sources: Kaplan et al. 2020, arXiv:2001.08361. Hoffmann et al. 2022, arXiv:2203.15556, approach 3. Besiroglu et al. 2024, arXiv:2404.10102
(the free scale). Gadre et al. 2024, arXiv:2403.08540 (one exponent for both).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog, minimize, minimize_scalar
from scipy.special import erf

from thinkscale.inference import Floats
from thinkscale.scaling import Fit, Law, Term, checked, fit, moved, starts

CHINCHILLA = Law("Chinchilla", (Term("a", "alpha", 0), Term("b", "beta", 1), Term("e")))
ONE_EXPONENT = Law("one exponent", (Term("a", "alpha", 0), Term("b", "alpha", 1), Term("e")))
KAPLAN = Law("Kaplan", (Term("n", "ratio", 0), Term("d", None, 1)), "alpha_d")
"""[(Nc/N)^(alpha_n/alpha_d) + Dc/D]^alpha_d, with ratio = alpha_n/alpha_d, n = ratio log Nc, d = log Dc."""

HUBER = 1e-3
"""Hoffmann et al.'s delta, in log loss."""
_SCALE = 1e4  # the objective is about 1e-3: unscaled, L-BFGS takes it for converged at once
_ENOUGH = {"maxiter": 5000, "maxfun": 20000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-9}


def fit_huber(law: Law, variables: tuple[ArrayLike, ...], y: ArrayLike, start: Fit | None = None, delta: float = HUBER) -> Fit:
    """Chinchilla's approach 3: the sum of Huber's loss of the residuals of log y, by L-BFGS, from several starts.

    Args:
        law: what is fitted.
        variables: parameters and tokens for the joint laws.
        y: losses.
        start: a fit to start from instead, as for resamples of the same points.
        delta: where squares turn into absolute values.
    """
    logs, wanted = checked(law, variables, y)
    middle = logs.mean(axis=1)
    logs = logs - middle[:, None]
    begin = starts(law, logs, wanted) if start is None else [moved(law, start.theta, -middle)]

    def objective(theta: Floats) -> tuple[float, Floats]:
        value, slope = law.log_value(theta[None], logs)
        residual = wanted - value[0]
        inside = np.clip(residual, -delta, delta)
        return _SCALE * float((inside * (residual - inside / 2)).sum()), -_SCALE * (slope[0] @ inside)

    found = [minimize(objective, theta, jac=True, method="L-BFGS-B", options=_ENOUGH) for theta in begin]
    best = min(found, key=lambda f: float(f.fun))
    return Fit(law, moved(law, best.x, middle), float(best.fun) / _SCALE, len(wanted))


def fit_absolute(law: Law, variables: tuple[ArrayLike, ...], y: ArrayLike) -> Fit:
    """Least absolute deviations of log y: linear programs within a trust region, each around the optimum of the one before.

    The optimum is a corner (as many points as parameters are met exactly), which gradients find only roughly. `objective` is the sum of
    absolute residuals.
    """
    logs, wanted = checked(law, variables, y)
    middle = logs.mean(axis=1)
    logs = logs - middle[:, None]
    theta, trust = moved(law, fit(law, variables, y).theta, -middle), 0.1
    points, size = len(wanted), len(theta)
    price = np.concatenate([np.zeros(size), np.ones(2 * points)])
    value, slope = (part[0] for part in law.log_value(theta[None], logs))
    best = float(np.abs(wanted - value).sum())
    while trust > 1e-10:
        equal = np.hstack([slope.T, np.eye(points), -np.eye(points)])
        bounds = [(-trust, trust)] * size + [(0, None)] * (2 * points)
        step = linprog(price, A_eq=equal, b_eq=wanted - value, bounds=bounds).x[:size]
        value_, slope_ = (part[0] for part in law.log_value((theta + step)[None], logs))
        now = float(np.abs(wanted - value_).sum())
        if now < best:
            theta, value, slope, best, trust = theta + step, value_, slope_, now, trust * 1.5
        else:
            trust /= 4
    return Fit(law, moved(law, theta, middle), best, points)


class FreeScale(NamedTuple):
    """A fit whose residuals have Huber's density with a scale of its own."""

    fit: Fit
    scale: float
    log_likelihood: float


def fit_free_scale(law: Law, variables: tuple[ArrayLike, ...], y: ArrayLike, delta: float = HUBER) -> FreeScale:
    """Maximum likelihood under Huber's density with a free scale, as Besiroglu et al. fitted.

    With a delta of a thousandth the best scale is so small that the density is Laplace's but for a thousandth of its width: this is least
    absolute deviations, and is fitted as such.
    """
    found = fit_absolute(law, variables, y)
    residual = np.log(np.asarray(y, float)) - np.log(found(*variables))
    norm = np.log(np.sqrt(2 * np.pi) * erf(delta / np.sqrt(2)) + 2 / delta * np.exp(-(delta**2) / 2))

    def loss(log_scale: float) -> float:
        u = residual / np.exp(log_scale)
        inside = np.clip(u, -delta, delta)
        return float((inside * (u - inside / 2)).sum() + len(u) * (norm + log_scale))

    middle = np.log(delta * np.abs(residual).mean())
    best = minimize_scalar(loss, bounds=(middle - 3, middle + 3), method="bounded", options={"xatol": 1e-10})
    return FreeScale(found, float(np.exp(best.x)), -float(best.fun))


class Allocation(NamedTuple):
    """How to spend training FLOPs."""

    params: float
    tokens: float
    loss: float


def compute_optimal(found: Fit, flops: float) -> Allocation:
    """The parameters and tokens with 6 N D = flops and the least loss under a fit of `CHINCHILLA` or `ONE_EXPONENT`.

    N = G (C/6)^(beta / (alpha + beta)), G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann et al., eq. 4).
    """
    if {"a", "b", "alpha"} - set(found.law.parameters):
        raise ValueError(f"compute-optimal: '{found.law.name}' has no term for each of parameters and tokens; fit CHINCHILLA.")
    alpha, beta = found["alpha"], found["beta" if "beta" in found.law.parameters else "alpha"]
    log_n = (np.log(alpha / beta) + found["a"] - found["b"] + beta * np.log(flops / 6)) / (alpha + beta)
    params = float(np.exp(log_n))
    return Allocation(params, flops / 6 / params, float(found(params, flops / 6 / params)[0]))
