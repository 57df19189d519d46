"""What n graded samples of a problem say about k of them, and how sure a mean over problems is.

Why: pass@k and maj@k from the first k samples depend on the order of drawing; here both are exact means over all C(n, k) subsets.
Uncertainty is over problems (clusters of problems), never over problems × samples.
What it does not do: read tables (see `summarize`), weigh votes, or estimate anything for k > n: that is NaN.

Sources: pass@k: Chen et al. 2021, arXiv:2107.03374. maj@k: Wang et al. 2022, arXiv:2203.11171 (the vote); the exact form is derived below.
Bootstrap over problems: Miller 2024, arXiv:2411.00640, says why. All problems agree: Clopper and Pearson 1934.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALPHA = 0.05
_EXACT_BINOMIALS = 1000  # C(1000, 500) is the last central binomial that is safely a double
_CHUNK = 512  # multisets at once: the arrays of one chunk stay in the processor's cache
_ROUNDING = 1e-12


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Floats:
    """P(at least one of k samples is right), from c right of n: 1 - C(n-c, k) / C(n, k), in log space.

    Args:
        n: samples of each problem.
        c: how many of them are right.
        k: samples that the estimate pretends to have; broadcast against n and c.
    Returns: the unbiased estimate; NaN where k > n or k < 1.
    """
    n_, c_, k_ = np.broadcast_arrays(np.asarray(n, float), np.asarray(c, float), np.asarray(k, float))
    if np.any((c_ < 0) | (c_ > n_)):
        bad = np.flatnonzero((c_ < 0) | (c_ > n_))[0]
        raise ValueError(f"pass@k: {c_.flat[bad]:g} right of {n_.flat[bad]:g} samples; must be between 0 and n.")
    defined = (k_ >= 1) & (k_ <= n_)
    can_miss = defined & (k_ <= n_ - c_)  # otherwise every subset holds a right one
    steps = np.where(can_miss, k_, 0.0)
    log_none = gammaln(n_ - c_ + 1) - gammaln(n_ - c_ - steps + 1) - gammaln(n_ + 1) + gammaln(n_ - steps + 1)
    value = np.where(can_miss, np.clip(-np.expm1(log_none), 0.0, 1.0), 1.0)
    value = np.where(k_ == 1, c_ / np.maximum(n_, 1), value)  # accuracy, without the rounding of logarithms
    return np.where(defined, value, np.nan)


def maj_at_k(gold: ArrayLike, wrong: ArrayLike, abstain: ArrayLike, ks: Sequence[int]) -> Floats:
    """P(the plurality answer of k samples is right), exactly, ties broken at random in expectation.

    Abstentions: a sample without an answer is drawn like any other but casts no vote. If no vote is cast, the problem scores 0.

    With j votes for gold and t wrong classes that also have j, gold wins 1 / (1 + t) of the draws of lots. Let gold draw lot x and
    every other class a lot of its own, uniform in [0, 1]: then 1 / (1 + t) is the integral of x^t, so a wrong class of size s
    contributes C(s, 0) + ... + C(s, j-1) y^(j-1) + x C(s, j) y^j, the product over classes holds every k at once as powers of y, and
    Gauss-Legendre nodes make the integral exact. All terms are positive: nothing cancels.

    Args:
        gold: votes for the right answer among the n samples, one number per problem (0 where nobody chose it).
        wrong: votes for each wrong answer, problems × classes, padded with 0.
        abstain: samples without an answer.
        ks: sample counts.
    Returns: problems × ks; NaN where k > n.
    """
    gold_, abstain_ = np.atleast_1d(np.asarray(gold, np.int64)), np.atleast_1d(np.asarray(abstain, np.int64))
    wrong_ = np.atleast_2d(np.asarray(wrong, np.int64)).reshape(len(gold_), -1)
    wrong_ = -np.sort(-wrong_, axis=1)
    if min(gold_.min(initial=0), wrong_.min(initial=0), abstain_.min(initial=0)) < 0:
        raise ValueError("maj@k: found a negative number of votes.")
    # Problems with the same multiset of counts share one computation; most do where n is small.
    rows, back = np.unique(np.column_stack([(wrong_ > 0).sum(1), gold_, abstain_, wrong_]), axis=0, return_inverse=True)
    out = np.full((len(rows), len(ks)), np.nan)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        out[start : start + _CHUNK] = _maj_chunk(part[:, 1], part[:, 3 : 3 + max(1, int(part[-1, 0]))], part[:, 2], ks)
    return out[back.reshape(-1)]


def _maj_chunk(gold: Ints, wrong: Ints, abstain: Ints, ks: Sequence[int]) -> Floats:
    n = gold + wrong.sum(1) + abstain
    out = np.full((len(gold), len(ks)), np.nan)
    inner = [k for k in ks if 1 <= k < n.max(initial=0)]
    if inner and n.max() <= _EXACT_BINOMIALS:
        table = _pascal(int(n.max()), max(inner))
        won = _won(gold, wrong, abstain, inner, lambda a, i: table[a, i])
        for column, k in enumerate(inner):
            out[:, list(ks).index(k)] = won[:, column] / np.maximum(table[n, k], 1.0)
    elif inner:
        for k in inner:
            choose = _tilted(k / float(n.max()), int(n.max()))
            won = _won(gold, wrong, abstain, [k], choose)[:, 0]
            out[:, list(ks).index(k)] = won / np.where(n >= k, choose(n, np.full_like(n, k)), 1.0)
    ties = 1.0 + (wrong == gold[:, None]).sum(1)
    whole = np.where((gold > 0) & (gold >= wrong.max(axis=1, initial=0)), 1.0 / ties, 0.0)
    for column, k in enumerate(ks):
        out[:, column] = np.where(n == k, whole, np.where((n < k) | (k < 1), np.nan, np.clip(out[:, column], 0.0, 1.0)))
    return out


def _won(gold: Ints, wrong: Ints, abstain: Ints, ks: Sequence[int], choose: Callable[[Ints, Ints], Floats]) -> Floats:
    """Number of k-subsets (weighted as `choose` is) in which gold wins, problems × ks."""
    won = np.zeros((len(gold), len(ks)))
    top = max(ks)
    for j in range(1, min(int(gold.max(initial=0)), top) + 1):
        # A class can reach j votes only beside gold's own j; smaller classes and abstentions are free to take any number of places.
        rivals = (wrong >= j) & (2 * j <= top) & (gold >= j)[:, None]
        singles = (rivals & (wrong == 1)).sum(1)
        large = rivals.sum(1) - singles
        live = np.flatnonzero(gold >= j)
        live = live[np.argsort(-large[live], kind="stable")]
        rest = abstain[live] + np.where(rivals[live], 0, wrong[live]).sum(1)
        poly = _product(wrong[live], large[live], singles[live], (j, top), choose)
        here = choose(gold[live], np.full_like(live, j))
        for column, k in enumerate(ks):
            if k >= j:
                m = np.arange(min(len(poly), k - j + 1))
                won[live, column] += here * np.einsum("mu,mu->u", poly[: len(m)], choose(rest[None, :], (k - j - m)[:, None]))
    return won


def _product(wrong: Ints, large: Ints, singles: Ints, j_top: tuple[int, int], choose: Callable[[Ints, Ints], Floats]) -> Floats:
    """Coefficients (power of y × problems) of the rivals' product, integrated over gold's lot x.

    Problems are sorted by `large`, most first. Rivals of one vote (only at j = 1) enter at once: m of them are (1 + x y)^m.
    """
    j, top = j_top
    most = int((large + singles).max(initial=0))
    if most == 0:
        return np.ones((1, len(large)))
    degree = min(most, top // j - 1)  # in x: t level rivals and gold take j * (t + 1) votes
    nodes, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    lots = (nodes + 1) / 2
    size, length = min(most * j, top - j) + 1, min(int(singles.max()), top - j) + 1
    old, new = np.zeros((size, len(lots), len(large))), np.zeros((size, len(lots), len(large)))
    for i in range(length):
        old[i] = choose(singles, np.full_like(singles, i)) * lots[:, None] ** i
    for a in range(int(large.max())):
        m = int(np.searchsorted(-large, -a, side="left"))  # problems that have a large rival number a
        grown = min(length + j, size)
        coefficients = choose(wrong[:m, a][None, :], np.arange(j + 1)[:, None])
        new[:length, :, :m] = old[:length, :, :m] * coefficients[0]
        new[length:grown, :, :m] = 0.0
        for i in range(1, j + 1):
            reach = min(length, grown - i)
            scale = coefficients[i][None, :] * (lots[:, None] if i == j else 1.0)
            new[i : i + reach, :, :m] += old[:reach, :, :m] * scale
        new[:grown, :, m:] = old[:grown, :, m:]
        old, new, length = new, old, grown
    return np.asarray(np.einsum("mxu,x->mu", old, weights / 2))


def _pascal(n: int, k: int) -> Floats:
    """C(a, i) for a <= n, i <= k; 0 for i > a."""
    table = np.zeros((n + 1, k + 1))
    table[:, 0] = 1.0
    for a in range(1, n + 1):
        table[a, 1:] = table[a - 1, 1:] + table[a - 1, :-1]
    return table


def _tilted(p: float, n: int) -> Callable[[Ints, Ints], Floats]:
    """C(a, i) p^i (1-p)^(a-i): the tilt cancels in every ratio and keeps large binomials within a double's range."""
    log_factorial = gammaln(np.arange(n + 1) + 1.0)

    def choose(a: Ints, i: Ints) -> Floats:
        a, i = np.broadcast_arrays(a, i)
        taken = np.minimum(i, a)
        logs = log_factorial[a] - log_factorial[taken] - log_factorial[a - taken] + taken * np.log(p) + (a - taken) * np.log1p(-p)
        return np.where(i <= a, np.exp(logs), 0.0)

    return choose


class Interval(NamedTuple):
    """Ends of 95 % intervals, one per column of values."""

    low: Floats
    high: Floats


class Resampling(NamedTuple):
    """Bootstrap weights over one set of problems: every statistic of these problems uses the same draws, so differences are paired."""

    weights: Floats  # draws × problems, each row sums to 1
    num_clusters: int


def resample(clusters: Sequence[str], draws: int, seed: int, name: str = "") -> Resampling:
    """Draw clusters with replacement.

    Args:
        clusters: the cluster of each problem, in the order in which values will stand.
        draws: bootstrap draws.
        seed: together with `name` it fixes the draws.
        name: what the problems are (benchmark and slice), so that slices do not share draws.
    """
    labels, code = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    times = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=draws)
    weights = times[:, code.reshape(-1)].astype(np.float64)
    return Resampling(weights / weights.sum(axis=1, keepdims=True), len(labels))


class Pools:
    """Bootstrap draws by set of problems: whatever is said of the same problems uses the same draws."""

    def __init__(self, draws: int, seed: int) -> None:
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
    return agreeing(values, Interval(np.where(known, low, np.nan), np.where(known, high, np.nan)), draws.num_clusters, bounds)


def quantiles(replicates: Floats) -> Interval:
    """The 2.5 % and 97.5 % percentiles of each row, without the last digits' rounding noise (two equal sides must differ by 0)."""
    low, high = np.quantile(replicates, [ALPHA / 2, 1 - ALPHA / 2], axis=1)
    return Interval(np.round(low, 12), np.round(high, 12))


def agreeing(values: Floats, found: Interval, trials: int, bounds: tuple[float, float]) -> Interval:
    """Replace the intervals of columns in which all problems agree, where a bootstrap sees no spread at all.

    No problem out of `trials` behaved otherwise, so at most a share u = 1 - (alpha/2)^(1/trials) does (Clopper-Pearson); what these would
    score is bounded. For all 0 or all 1 in [0, 1] this is the Clopper-Pearson interval itself.
    """
    if not values.size:
        return found
    first = values[0]
    same = np.all(np.abs(values - first) <= _ROUNDING, axis=0)
    u = -np.expm1(np.log(ALPHA / 2) / trials)
    return Interval(
        np.where(same, (1 - u) * first + u * bounds[0], found.low),
        np.where(same, (1 - u) * first + u * bounds[1], found.high),
    )
