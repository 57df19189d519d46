"""The spread of problems as a Beta: beta-binomial and zero-inflated beta-binomial, fitted to counts of right samples, in all draws at once.

Why: pass@k for more samples than there are follows from how accuracy is spread over problems, and that is fitted far better from the
counts than from the curve (Schaeffer et al. 2025, arXiv:2502.17578); some problems may be beyond a model at any number of samples.
What it does not do: say whether a Beta describes the problems (see `coverage`, which checks on samples that were left out).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, expit, logit, xlogy

from thinkscale.inference import Floats, Ints

_STEP = 0.25  # of the grid of logit means; of log concentrations, which matter less, twice that
_MEANS, _TOTALS = np.arange(-9.0, 9.1, _STEP), np.arange(-3.0, 7.1, 2 * _STEP)
_CHUNK = 250_000  # products at once: the likelihoods stay in the processor's cache, and no thread is started for so few
_MARGIN = 6  # steps of the grid beyond the draws' own means that are looked at first


class Beta(NamedTuple):
    """Beta(alpha, beta) of the problems that are not beyond the model; the estimate first, then one number for each draw."""

    mean: Floats
    """Logit of alpha / (alpha + beta)."""
    total: Floats
    """Logarithm of alpha + beta."""
    zero: Floats
    """Share of the problems that no number of samples solves."""
    loglik: Floats
    """Log-likelihood a problem, without the binomial coefficients."""

    @property
    def alpha(self) -> Floats:
        """First parameter."""
        return np.asarray(np.maximum(expit(self.mean) * np.exp(self.total), 1e-9))

    @property
    def beta(self) -> Floats:
        """Second parameter."""
        return np.asarray(np.maximum(expit(-self.mean) * np.exp(self.total), 1e-9))

    def pass_at(self, k: int) -> Floats:
        """Chance that at least one of k samples is right: (1 - zero) (1 - B(alpha, beta + k) / B(alpha, beta))."""
        return np.asarray((1 - self.zero) * -np.expm1(betaln(self.alpha, self.beta + k) - betaln(self.alpha, self.beta)))


def fit_beta(right: Floats, samples: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Beta-binomial maximum likelihood of the problems' accuracies: logit of the mean and log of alpha + beta.

    Returns: the estimate first, then one number for each row of `weights` (draws × problems).
    """
    pairs, at = np.unique(np.column_stack([right, samples]), axis=0, return_inverse=True)
    held = np.zeros((len(right), len(pairs)))
    held[np.arange(len(right)), at.reshape(-1)] = 1.0
    found = _fit(np.vstack([held.mean(axis=0), weights @ held]), pairs, False)
    return found.mean, found.total


def fit_counts(counts: Floats, inflated: bool) -> Beta:
    """The likeliest Beta, with `inflated` and a share of problems that are beyond the model.

    Args:
        counts: draws × (n + 1): share of the problems that have 0, 1, ... n right samples of n; the estimate's own row first.
    """
    n = counts.shape[1] - 1
    return _fit(counts, np.column_stack([np.arange(n + 1.0), np.full(n + 1, float(n))]), inflated)


def _fit(counts: Floats, pairs: Floats, inflated: bool) -> Beta:
    """On a grid, between whose points a paraboloid goes: all draws are one matrix product over the distinct (right, samples)."""
    share = pairs[:, 0] / np.maximum(pairs[:, 1], 1.0)
    mean = counts @ share
    some = counts @ (share > 0)
    high = mean / np.where(some > 0, some, 1.0) if inflated else mean  # of problems that are not beyond the model, none of them too hard
    least = 0.25 / len(pairs) / len(_MEANS)
    ends = [float(logit(np.clip(e, least, 1 - least))) for e in (mean.min(), high.max())]
    first = max(0, int(np.searchsorted(_MEANS, ends[0])) - _MARGIN)
    last = min(len(_MEANS) - 1, int(np.searchsorted(_MEANS, ends[1])) + _MARGIN)
    apart = (mean > 0) & (mean < 1)  # the others' likelihood has no peak
    while True:
        found, at = _peaks(counts, pairs, np.asarray(_MEANS[first : last + 1], np.float64), inflated)
        low_edge, high_edge = bool((at[apart] == 0).any()) and first > 0, bool((at[apart] == last - first).any()) and last < len(_MEANS) - 1
        if not (low_edge or high_edge):
            return found
        first, last = max(0, first - _MARGIN * low_edge), min(len(_MEANS) - 1, last + _MARGIN * high_edge)


def _peaks(counts: Floats, pairs: Floats, means: Floats, inflated: bool) -> tuple[Beta, Ints]:
    """The fit on some means of the grid, and the place of each draw's best among them."""
    m, s = expit(means)[:, None, None], np.exp(_TOTALS)[None, :, None]
    c, n = pairs[:, 0], pairs[:, 1]
    table = (betaln(c + m * s, n - c + (1 - m) * s) - betaln(m * s, (1 - m) * s)).reshape(-1, len(pairs))
    parts, step = [], max(16, _CHUNK // table.size)
    for start in range(0, len(counts), step):
        some = counts[start : start + step]
        likelihood = _with_zeros(some, c == 0, table) if inflated else some @ table.T
        best, rows = likelihood.argmax(axis=1), np.arange(len(some))
        likelihood = likelihood.reshape(len(some), len(means), len(_TOTALS))
        i, j = np.clip(best // len(_TOTALS), 1, len(means) - 2), np.clip(best % len(_TOTALS), 1, len(_TOTALS) - 2)
        near = [likelihood[rows, i + d, j + e] for d in (-1, 0, 1) for e in (-1, 0, 1)]
        parts.append(np.vstack([best // len(_TOTALS), i, j, *near]))
    together = np.concatenate(parts, axis=1)
    at, i, j = together[:3].astype(np.int64)
    near = list(together[3:])
    x, y = _peak(dict(zip([(d, e) for d in (-1, 0, 1) for e in (-1, 0, 1)], near, strict=True)))
    found = _told(counts, pairs, means[i] + _STEP * x, _TOTALS[j] + 2 * _STEP * y, inflated)
    worse = np.flatnonzero(found.loglik < near[4])  # a paraboloid is a guess: there the grid's own point is better
    if len(worse):
        for mine, better in zip(found, _told(counts[worse], pairs, means[i[worse]], _TOTALS[j[worse]], inflated), strict=True):
            mine[worse] = better
    return found, at


def _told(counts: Floats, pairs: Floats, mean: Floats, total: Floats, inflated: bool) -> Beta:
    """The Beta of each draw with this mean and total, its likeliest share of zeros and its likelihood."""
    found = Beta(mean, total, np.zeros(len(counts)), np.zeros(len(counts)))
    a, b, (c, n) = found.alpha[:, None], found.beta[:, None], pairs.T
    logs = betaln(c + a, n - c + b) - betaln(a, b)
    if inflated:
        silent, none = counts[:, c == 0].sum(axis=1), np.exp(logs[:, c == 0]).sum(axis=1)
        zero = np.clip(np.where(none < silent, (silent - none) / np.maximum(1 - none, 1e-12), 0.0), 0.0, 1.0)
        found, mixed = found._replace(zero=zero), (1 - zero)[:, None] * np.exp(logs) + zero[:, None] * (c == 0)
        logs = np.log(np.maximum(mixed, 1e-300))
    return found._replace(loglik=(counts * logs).sum(axis=1))


def _with_zeros(counts: Floats, silent: NDArray[np.bool_], table: Floats) -> Floats:
    """Draws × grid: the likelihood with the likeliest share of zeros at each point of the grid, for one number of samples n.

    Where a share f of the problems has none right and the Beta alone gives b < f of them, that share is (f - b) / (1 - b): f is then met
    exactly, and the others follow the beta-binomial cut off at 0. Where b >= f it is 0.
    """
    none = np.exp(table[:, silent]).sum(axis=1)
    others = np.where(silent, 0.0, table - np.log1p(-np.minimum(none, 1 - 1e-12))[:, None])
    share = counts[:, silent].sum(axis=1)
    cut: Floats = counts @ others.T
    cut += (xlogy(share, share) + xlogy(1 - share, 1 - share))[:, None]
    np.copyto(cut, counts @ table.T, where=none >= share[:, None])
    return cut


def _peak(near: dict[tuple[int, int], Floats]) -> tuple[Floats, Floats]:
    """Where the paraboloid through a point of the grid and its neighbours is highest, in steps from the point; at most one."""
    gx, gy = (near[1, 0] - near[-1, 0]) / 2, (near[0, 1] - near[0, -1]) / 2
    xx, yy = (near[d] - 2 * near[0, 0] + near[-d[0], -d[1]] for d in ((1, 0), (0, 1)))
    xy = (near[1, 1] - near[1, -1] - near[-1, 1] + near[-1, -1]) / 4
    size = xx * yy - xy**2
    round_ = (xx < 0) & (size > 0)
    size = np.where(round_, size, 1.0)
    x, y = (xy * gy - yy * gx) / size, (xy * gx - xx * gy) / size
    return np.where(round_, np.clip(x, -1.0, 1.0), 0.0), np.where(round_, np.clip(y, -1.0, 1.0), 0.0)
