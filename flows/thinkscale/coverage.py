"""Coverage beyond the samples that were drawn: pass@k at 2, 4 and 16 times as many, from laws, each checked on samples left out.

Why: whether more samples would find right answers, or whether a model lacks the skill, is asked before they are paid for.
What it does not do: forecast accuracy (pass@k needs an oracle that knows which is right), or trust a law: every one is also fitted to a
quarter of the samples, and says there what the other three quarters did.

Sources: exponentiated power law: Brown et al. 2024, arXiv:2407.21787. Beta-binomial, also with a share of problems that are beyond the
model: Schaeffer et al. 2025, arXiv:2502.17578. AIC: Akaike 1974.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import gammaln

from thinkscale import inference, schema
from thinkscale.betas import Beta, fit_counts
from thinkscale.estimators import pass_at_k
from thinkscale.forecast import WIDEST
from thinkscale.inference import Floats, Ints, Pools, Resampling, generator
from thinkscale.measure import Cell, Point, measure
from thinkscale.summarize import typed

POWER, BETA, ZEROS, CHOSEN = "power law", "beta-binomial", "zero-inflated beta-binomial", "by AIC"
LAWS = (POWER, BETA, ZEROS, CHOSEN)
TIMES = (1, 2, 4, 16)
"""How many times the samples that the laws see."""
LEAST = 2
"""Samples of each problem from which on one sees that problems differ; the zero-inflated law, of three parameters, needs one more."""
_PLACES = 16  # numbers of samples on a power law's line
_FACTS = ("cell_id", "model", "params", "benchmark", "skill", "prompt", "route", "sampling", "thinking_budget")


class Law(NamedTuple):
    """A law of one cell: what it says of each k; the estimate first, then one row for each draw."""

    name: str
    at: dict[int, Floats]
    parameters: dict[str, float]
    reason: str = ""
    """Why it says nothing; empty: it does."""


class _Counts(NamedTuple):
    """One cell's problems, cut to the fewest samples that any of them has."""

    right: Ints
    n: int
    shares: Floats
    """(1 + draws) × (n + 1): share of problems with so many right."""
    draw: Resampling


def coverage(graded: pd.DataFrame, draws: int = 1000, seed: int | str = 0) -> pd.DataFrame:
    """The coverage table (`schema.COVERAGE`): cell × law × samples seen × k.

    Seen: all n samples of a problem (k = n, 2n, 4n, 16n), and a quarter of them (k = the other three quarters, whose coverage is then
    the check). Intervals are over problems, with the fit, and for `by AIC` the choice of the law, in every draw. Where problems have
    unlike numbers of samples, each is cut to the fewest, at random.

    Args:
        graded: one row per answer.
        draws: bootstrap draws.
        seed: fixes them, and which samples are left out.
    """
    pools, rows = Pools(draws, seed), []
    for cell in measure(graded, seed=seed):
        name = f"{cell.facts['benchmark']} all"
        draw = pools.get(name, cell.problems["problem_id"].tolist(), cell.problems["cluster_id"].tolist())
        rows += [{**{fact: cell.facts[fact] for fact in _FACTS}, **row} for row in _rows(cell, draw, seed)]
    return typed(pd.DataFrame(rows, columns=schema.COVERAGE.names).sort_values(list(schema.COVERAGE.key)), schema.COVERAGE)


def _rows(cell: Cell, draw: Resampling, seed: int | str) -> Iterator[dict[str, Any]]:
    samples = cell.problems["num_samples"].to_numpy(np.int64)
    share = cell.estimates[:, cell.points.index(Point("pass@k", 1))]
    rng = generator(seed, f"coverage {cell.facts['cell_id']}")
    n, right = int(samples.min()), np.round(share * samples).astype(np.int64)
    right = _some(rng, right, samples, n)
    yield from _judged(_counts(right, n, draw), {t * n: right if t == 1 else None for t in TIMES}, n)
    quarter = n // 4
    if quarter >= LEAST:
        seen = _some(rng, right, np.full(len(right), n), quarter)
        yield from _judged(_counts(seen, quarter, draw), {n - quarter: right - seen}, n - quarter)


def _some(rng: np.random.Generator, right: Ints, samples: Ints, few: int) -> Ints:
    """How many are right among a few of each problem's samples, drawn without replacement."""
    return np.asarray(rng.hypergeometric(right, samples - right, few), np.int64) if (samples > few).any() else right


def _counts(right: Ints, n: int, draw: Resampling) -> _Counts:
    held = np.zeros((len(right), n + 1))
    held[np.arange(len(right)), right] = 1.0
    return _Counts(right, n, np.vstack([held.mean(axis=0), draw.weights @ held]), draw)


def _judged(counts: _Counts, wanted: dict[int, Ints | None], n: int) -> Iterator[dict[str, Any]]:
    """Rows of one fit. `wanted`: k -> right samples of k others (or the same) by problem, against which it is judged; None: not known."""
    for law in _laws(counts, list(wanted)):
        for k, others in wanted.items():
            told = law.at.get(k)
            row: dict[str, Any] = {"law": law.name, "num_samples": counts.n, "k": k, "num_problems": len(counts.right), **law.parameters}
            row["outcome"] = f"no forecast: {law.reason}" if law.reason else "forecast"
            found = np.zeros(0) if others is None else (others > 0).astype(np.float64)  # pass@k of k samples
            if others is not None:
                row["observed"] = found.mean()
            if told is not None:
                ends = inference.quantiles(told[None, 1:])
                row |= {"value": told[0], "low": ends.low[0], "high": ends.high[0]}
                if not law.reason and ends.high[0] - ends.low[0] > WIDEST:
                    row["outcome"] = f"no forecast: the interval spans {100 * (ends.high[0] - ends.low[0]):.0f} points"
            if told is not None and others is not None:
                missed = inference.quantiles((told[1:] - counts.draw.weights @ found)[None])
                row |= {"error": told[0] - found.mean(), "error_low": missed.low[0], "error_high": missed.high[0]}
            yield row


def _laws(counts: _Counts, ks: list[int]) -> Iterator[Law]:
    mean = counts.right.mean() / max(counts.n, 1)
    why = "every sample is right" if mean == 1 else "no sample is right" if mean == 0 else ""
    why = "one sample a problem" if counts.n < LEAST else "one problem" if counts.draw.num_clusters < 2 else why
    if why:
        yield from (Law(name, {}, {}, why) for name in LAWS)
        return
    yield _power_law(counts, ks)
    short = f"three parameters, and {counts.n} samples a problem" if counts.n <= LEAST else ""
    fits = {name: fit_counts(counts.shares, name == ZEROS) for name in ((BETA,) if short else (BETA, ZEROS))}
    aic = {name: 2 * (2 + (name == ZEROS)) - 2 * len(counts.right) * (fit.loglik + _ways(counts)) for name, fit in fits.items()}
    said = {name: {k: fit.pass_at(k) for k in ks} for name, fit in fits.items()}
    for name in (BETA, ZEROS):
        yield Law(name, said[name], _parameters(fits[name], aic[name])) if name in fits else Law(name, {}, {}, short)
    zeros = np.zeros(len(aic[BETA]), bool) if short else aic[ZEROS] < aic[BETA]
    best = ZEROS if zeros[0] else BETA
    parameters = {**_parameters(fits[best], aic[best]), "share_zeros": float(zeros[1:].mean())}
    chosen = {k: np.where(zeros, said[ZEROS][k], said[BETA][k]) if zeros.any() else said[BETA][k] for k in ks}
    yield Law(CHOSEN, chosen, parameters)


def _ways(counts: _Counts) -> Floats:
    """Logarithms of the binomial coefficients, a problem's mean: they make a likelihood of counts out of one of sequences."""
    c, n = np.arange(counts.n + 1.0), float(counts.n)
    return np.asarray(counts.shares @ (gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1)))


def _parameters(fit: Beta, aic: Floats) -> dict[str, float]:
    return {"alpha": float(fit.alpha[0]), "beta": float(fit.beta[0]), "zero": float(fit.zero[0]), "aic": float(aic[0])}


def _power_law(counts: _Counts, ks: list[int]) -> Law:
    """pass@k = exp(a k^b): a line of log(-log pass@k) in log k, least squares over numbers of samples evenly spaced in their logarithm."""
    places = np.unique(np.round(np.geomspace(1, counts.n, _PLACES)).astype(np.int64))
    each = pass_at_k(counts.n, np.arange(counts.n + 1)[:, None], places[None, :])
    curve = counts.shares @ each
    places, curve = places[curve[0] < 1], curve[:, curve[0] < 1]
    if len(places) < LEAST:
        return Law(POWER, {}, {}, "nearly every problem is solved by two samples")
    half = 0.5 / len(counts.right) / counts.n  # of a sample: what lies between "all right" and "one wrong"
    y, x = np.log(-np.log(np.clip(curve, half, 1 - half))), np.log(places)
    slope = (y - y.mean(axis=1, keepdims=True)) @ (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    height = y.mean(axis=1) - slope * x.mean()
    at = {k: np.exp(-np.exp(height + slope * np.log(k))) for k in ks}
    return Law(POWER, at, {"a": -float(np.exp(height[0])), "b": float(slope[0])})
