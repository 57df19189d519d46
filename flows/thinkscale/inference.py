"""How sure a mean over problems is: bootstrap, BCa and t intervals, paired differences, exact intervals of a share, many comparisons.

Why: samples of one problem are not independent problems (Miller 2024, arXiv:2411.00640), so every resample, jackknife and standard error
here is over clusters of problems, and two settings are compared problem by problem.
What it does not do: estimate a problem's value (see `estimators`), or plan how many problems are needed (see `power`).

Sources: BCa: Efron 1987. All problems agree: Clopper and Pearson 1934. Wilson 1927. Holm 1979. Benjamini and Hochberg 1995.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALPHA = 0.05
_ROUNDING = 1e-12


class Interval(NamedTuple):
    """Ends of 95 % intervals, one per column of values."""

    low: Floats
    high: Floats


class Resampling(NamedTuple):
    """Bootstrap weights over one set of problems: every statistic of these problems uses the same draws, so differences are paired."""

    weights: Floats  # draws × problems, each row sums to 1
    num_clusters: int
    cluster: Ints
    """Number of each problem's cluster."""


def generator(seed: int | str, name: str = "") -> np.random.Generator:
    """The one way to random numbers here: a seed (a number, or any text such as a config's hash) and what they are for fix them."""
    number = zlib.crc32(seed.encode()) if isinstance(seed, str) else seed
    return np.random.default_rng([number, zlib.crc32(name.encode())])


def resample(clusters: Sequence[str], draws: int, seed: int | str, name: str = "") -> Resampling:
    """Draw clusters with replacement.

    Args:
        clusters: the cluster of each problem, in the order in which values will stand.
        draws: bootstrap draws.
        seed: together with `name` it fixes the draws.
        name: what the problems are (benchmark and slice), so that slices do not share draws.
    """
    if not len(clusters):
        raise ValueError(f"bootstrap: there are no problems to draw from{f' ({name})' if name else ''}. Do all settings share any?")
    labels, code = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    code = code.reshape(-1).astype(np.int64)
    times = generator(seed, name).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=draws)
    weights = times[:, code].astype(np.float64)
    return Resampling(weights / weights.sum(axis=1, keepdims=True), len(labels), code)


class Pools:
    """Bootstrap draws by set of problems: whatever is said of the same problems uses the same draws."""

    def __init__(self, draws: int, seed: int | str) -> None:
        """Keep the number of draws and the seed that fixes them."""
        self._draws, self._seed = draws, seed
        self._known: dict[tuple[str, ...], Resampling] = {}

    def get(self, name: str, problems: Sequence[str], clusters: Sequence[str]) -> Resampling:
        """The draws for these problems; `name` says which benchmark and slice."""
        key = (name, *problems)
        if key not in self._known:
            self._known[key] = resample(clusters, self._draws, self._seed, name)
        return self._known[key]


def interval(values: Floats, draws: Resampling, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """95 % interval of each column's mean over problems: percentiles of the bootstrap; `agreeing` where all problems agree.

    Args:
        values: problems × columns; a column with NaN has the interval NaN.
        draws: from `resample` for these problems.
        bounds: range of a single value ((-1, 1) for differences).
    """
    known = ~np.isnan(values).any(axis=0)
    means = draws.weights @ np.where(known, values, 0.0)
    low, high = quantiles(means.T)
    return agreeing(values, Interval(np.where(known, low, np.nan), np.where(known, high, np.nan)), draws.cluster, bounds)


def quantiles(replicates: Floats) -> Interval:
    """The 2.5 % and 97.5 % percentiles of each row, without the last digits' rounding noise (two equal sides must differ by 0).

    NaN where a replicate is; an end among infinite replicates is infinite.
    """
    ends = [ALPHA / 2, 1 - ALPHA / 2]
    with np.errstate(invalid="ignore"):
        found = np.quantile(replicates, ends, axis=1)
    if np.isnan(found).any():  # from one infinity to the next there is nothing to interpolate: numpy says NaN
        found = np.where(np.isnan(found), np.quantile(replicates, ends, axis=1, method="closest_observation"), found)
    low, high = np.round(found, 12)
    return Interval(low, high)


def agreeing(values: Floats, found: Interval, cluster: Ints, bounds: tuple[float, float]) -> Interval:
    """Replace the intervals of columns in which all clusters agree, where a bootstrap sees no spread at all: one cluster always does.

    No cluster of `trials` behaved otherwise, so at most a share u = 1 - (alpha/2)^(1/trials) does (Clopper-Pearson); what these would
    score is bounded. For all 0 or all 1 in [0, 1] this is the Clopper-Pearson interval itself.

    Args:
        values: problems × columns.
        found: an interval for each column.
        cluster: number of each problem's cluster.
        bounds: range of a single value.
    """
    if not values.size:
        return found
    trials = int(cluster.max()) + 1
    if trials < len(values):
        size, total = _cluster_sums(values, cluster)
        values = total / size[:, None]
    first = values[0]
    same = np.all(np.abs(values - first) <= _ROUNDING, axis=0)
    u = -np.expm1(np.log(ALPHA / 2) / trials)
    return Interval(
        np.where(same, (1 - u) * first + u * bounds[0], found.low),
        np.where(same, (1 - u) * first + u * bounds[1], found.high),
    )


def bca(values: Floats, draws: Resampling, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """95 % bias-corrected and accelerated interval of each column's mean; better than `interval` where few problems are skewed.

    Bias from the share of draws below the mean (draws level with it count half), acceleration from leaving out one cluster at a time.
    Arguments as in `interval`.
    """
    known = ~np.isnan(values).any(axis=0)
    held = np.where(known, values, 0.0)
    mean, means = held.mean(axis=0), draws.weights @ held
    level = (means < mean - _ROUNDING).mean(axis=0) + 0.5 * (np.abs(means - mean) <= _ROUNDING).mean(axis=0)
    # A share of 0 or 1 would send the bias to infinity: it is known to half a draw
    bias = ndtri(np.clip(level, 0.5 / len(means), 1 - 0.5 / len(means)))
    size, total = _cluster_sums(held, draws.cluster)
    with np.errstate(invalid="ignore", divide="ignore"):
        away = mean - (total.sum(axis=0) - total) / (size.sum() - size)[:, None]
        away = away - away.mean(axis=0)
        speed = (away**3).sum(axis=0) / (6 * (away**2).sum(axis=0) ** 1.5)
    speed = np.where(np.isfinite(speed), speed, 0.0)
    ends = []
    for z in (ndtri(ALPHA / 2), ndtri(1 - ALPHA / 2)):
        at = ndtr(bias + (bias + z) / (1 - speed * (bias + z)))
        ends.append([np.quantile(means[:, column], q) for column, q in enumerate(at)])
    low, high = (np.where(known, np.round(np.array(end, dtype=np.float64), 12), np.nan) for end in ends)
    return agreeing(values, Interval(low, high), draws.cluster, bounds)


def clustered_se(values: Floats, clusters: Sequence[str]) -> Floats:
    """Standard error of each column's mean over problems, with problems of a cluster moving together (Miller 2024).

    SE^2 = G/(G-1) * sum over clusters of (sum of deviations in it)^2 / problems^2. With every problem a cluster of its own it is
    sd / sqrt(problems). Values are means over samples: the noise of sampling is in it already. NaN with one cluster.
    """
    code = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)[1].reshape(-1)
    _, total = _cluster_sums(values - values.mean(axis=0), code)
    if len(total) < 2:
        return np.full(values.shape[1], np.nan)
    return np.asarray(np.sqrt((total**2).sum(axis=0) * len(total) / (len(total) - 1)) / len(values))


def t_interval(values: Floats, clusters: Sequence[str], bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """95 % interval of each column's mean from `clustered_se` and Student's t with clusters - 1 degrees of freedom.

    For the mean of few problems (30 to 300); it may leave the range of the values, a bootstrap does not.
    """
    labels, code = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    mean, se = values.mean(axis=0), clustered_se(values, clusters)
    reach = stdtrit(max(len(labels) - 1, 1), 1 - ALPHA / 2) * se
    return agreeing(values, Interval(mean - reach, mean + reach), code.reshape(-1), bounds)


class Difference(NamedTuple):
    """Better minus worse, over the same problems."""

    value: float
    low: float
    high: float
    se: float
    """Paired and clustered."""
    p: float
    """Two-sided, of no difference."""


def paired_difference(better: ArrayLike, worse: ArrayLike, draws: Resampling) -> Difference:
    """Mean difference of two settings over the same problems in the same order: bootstrap interval, clustered SE, p.

    p is of Student's t on clusters - 1 degrees of freedom. Where the difference is the same everywhere, t would be infinite: there it is
    the sign test's, 2^(1 - clusters), or 1 where both sides are equal.
    """
    a, b = np.asarray(better, float), np.asarray(worse, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) != len(draws.cluster):
        raise ValueError(f"paired difference: {a.shape} and {b.shape} values for {len(draws.cluster)} problems; give one number a problem.")
    gap = (a - b)[:, None]
    (low,), (high,) = interval(gap, draws, (-1.0, 1.0))
    value, (se,) = float(gap.mean()), clustered_se(gap, [str(c) for c in draws.cluster])
    if np.isnan(value):
        return Difference(np.nan, np.nan, np.nan, np.nan, np.nan)
    trials = draws.num_clusters
    if np.ptp(gap) <= _ROUNDING or trials < 2:
        p = min(1.0, 2.0 ** (1 - trials)) if abs(value) > _ROUNDING else 1.0
    else:
        p = float(2 * stdtr(trials - 1, -abs(value) / se)) if se > _ROUNDING else 1.0
    return Difference(value, float(low), float(high), float(se), p)


def wilson(right: ArrayLike, trials: ArrayLike) -> Interval:
    """95 % Wilson interval of a share: independent right-or-wrong trials, good at 0 and at all."""
    c, n = _shares(right, trials)
    z2 = ndtri(1 - ALPHA / 2) ** 2
    p = c / n
    middle, reach = (p + z2 / (2 * n)) / (1 + z2 / n), np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(np.where(c == 0, 0.0, middle - reach), np.where(c == n, 1.0, middle + reach))


def clopper_pearson(right: ArrayLike, trials: ArrayLike) -> Interval:
    """95 % Clopper-Pearson interval of a share: covers at least as often as it says, and so is wide."""
    c, n = _shares(right, trials)
    low = np.where(c == 0, 0.0, betaincinv(np.maximum(c, 1), n - c + 1, ALPHA / 2))
    high = np.where(c == n, 1.0, betaincinv(c + 1, np.maximum(n - c, 1), 1 - ALPHA / 2))
    return Interval(low, high)


def holm(p: ArrayLike) -> Floats:
    """Adjusted p-values: below alpha with chance at most alpha for any true null among them. NaN stays NaN and is not counted."""
    return _adjusted(p, lambda sorted_p, rank, m: np.maximum.accumulate(sorted_p * (m - rank + 1)))


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjusted p-values: of those below q at most a share q is expected false (independent tests). NaN as in `holm`."""
    return _adjusted(p, lambda sorted_p, rank, m: np.minimum.accumulate((sorted_p * m / rank)[::-1])[::-1])


def _adjusted(p: ArrayLike, rule: Callable[[Floats, Floats, int], Floats]) -> Floats:
    raw = np.asarray(p, float)
    if np.any((raw < 0) | (raw > 1)):
        raise ValueError(f"p-values lie between 0 and 1; found {raw[(raw < 0) | (raw > 1)][0]:g}.")
    known = np.flatnonzero(~np.isnan(raw))
    order = known[np.argsort(raw[known], kind="stable")]
    out = np.full(raw.shape, np.nan)
    out[order] = np.minimum(1.0, rule(raw[order], np.arange(1, len(order) + 1).astype(np.float64), len(order)))
    return out


def _shares(right: ArrayLike, trials: ArrayLike) -> tuple[Floats, Floats]:
    c, n = np.broadcast_arrays(np.asarray(right, float), np.asarray(trials, float))
    if np.any((c < 0) | (c > n) | (n < 1)):
        bad = np.flatnonzero((c < 0) | (c > n) | (n < 1))[0]
        raise ValueError(f"interval of a share: {c.flat[bad]:g} right of {n.flat[bad]:g} trials; needs 0 <= right <= trials, trials >= 1.")
    return c, n


def _cluster_sums(values: Floats, code: Ints) -> tuple[Floats, Floats]:
    """Problems in each cluster, and the sum of each column over them."""
    size = np.bincount(code).astype(np.float64)
    total = np.zeros((len(size), values.shape[1]))
    np.add.at(total, code, values)
    return size, total
