"""What n graded samples of a problem say about k of them: at least one right, most of them right, the best of them right.

Why: estimates from the first k samples depend on the order of drawing; here all are exact means over all C(n, k) subsets.
What it does not do: read tables (see `summarize`, `tidy`), weigh votes (see `votes`), say how sure a mean over problems is (see
`inference`), or estimate anything for k > n: that is NaN. The plug-in estimates with replacement, biased and defined for any k, have
names of their own.

Sources: pass@k: Chen et al. 2021, arXiv:2107.03374. maj@k: Wang et al. 2022, arXiv:2203.11171 (the vote); the exact form is derived below.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_EXACT_BINOMIALS = 1000  # C(1000, 500) is the last central binomial that is safely a double
_SOME = 1e-300  # more than nothing
_SAMPLES = 2**18  # at once: 2 MB
_CHUNK = 512  # multisets at once: the arrays of one chunk stay in the processor's cache


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
    value = np.where((k_ == 1) | (c_ == 0), c_ / np.maximum(n_, 1), value)  # accuracy, or nothing, without the rounding of logarithms
    return np.where(defined, value, np.nan)


def pass_at_k_variance(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Floats:
    """Unbiased variance of a problem's pass@k over the drawing of its n samples; may be negative. NaN where 2k > n (nothing to see it by).

    With f_k = C(n-c, k) / C(n, k), f_2k estimates the square of what f_k estimates, so f_k^2 - f_2k is the variance. The problem's own
    part of an interval over problems: see `power.error_budget`.
    """
    k_ = np.asarray(k)
    return np.asarray((1.0 - pass_at_k(n, c, k_)) ** 2 - (1.0 - pass_at_k(n, c, 2 * k_)), dtype=np.float64)


def at_every_k(estimate: Callable[[Ints, Ints, Ints], Floats], n: ArrayLike, c: ArrayLike, ks: Sequence[int]) -> Floats:
    """`estimate` (`pass_at_k`, `pass_at_k_variance`) of each problem at each k, problems × ks; equal counts share one computation."""
    n_, c_ = np.asarray(n, np.int64), np.asarray(c, np.int64)
    width = max(n_.max(initial=0), c_.max(initial=0)) + 1
    pairs, back = np.unique(n_ * width + c_, return_inverse=True)
    return estimate((pairs // width)[:, None], (pairs % width)[:, None], np.array(ks, np.int64)[None, :])[back.reshape(-1)]


def pass_at_k_with_replacement(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Floats:
    """1 - (1 - c/n)^k: k draws with replacement from the n samples. Too low for k > 1, most where c is small; defined for k > n."""
    n_, c_, k_ = np.broadcast_arrays(np.asarray(n, float), np.asarray(c, float), np.asarray(k, float))
    if np.any((c_ < 0) | (c_ > n_)):
        raise ValueError("pass@k with replacement: found a problem with more right than samples, or fewer than none.")
    return np.where((k_ >= 1) & (n_ >= 1), 1.0 - (1.0 - c_ / np.maximum(n_, 1)) ** k_, np.nan)


def best_of_k(value: ArrayLike, score: ArrayLike, problem: ArrayLike, ks: Sequence[int]) -> Floats:
    """Expected value of the sample with the highest score among k, exactly, by order statistics; ties of scores count as their mean.

    The highest of a k-subset stands among the i lowest samples with chance C(i, k) / C(n, k); so a group of level scores at places
    i+1 .. j is chosen with chance (C(j, k) - C(i, k)) / C(n, k). With value = score = correct it is pass@k; with value = score = tokens
    it is the expected length of the longest of k chains, which is what k samples at once are waited for.

    Args:
        value: what the chosen sample is worth, mostly whether it is right; one number per sample.
        score: what chooses: a verifier's score, the log-probability of the answer.
        problem: number of each sample's problem, 0, 1, ...; none left out.
        ks: sample counts.
    Returns: problems × ks; NaN where k > n.
    """
    return _best(value, score, problem, ks, False)


def best_of_k_with_replacement(value: ArrayLike, score: ArrayLike, problem: ArrayLike, ks: Sequence[int]) -> Floats:
    """`best_of_k` of k draws with replacement from the n samples: biased, defined for k > n."""
    return _best(value, score, problem, ks, True)


def _best(value: ArrayLike, score: ArrayLike, problem: ArrayLike, ks: Sequence[int], replace: bool) -> Floats:
    worth, by, at = np.asarray(value, float), np.asarray(score, float), np.asarray(problem, np.int64)
    if np.isnan(by).any():
        raise ValueError(f"best-of-k: {int(np.isnan(by).sum())} of {len(by)} samples have no score; score them or leave the problem out.")
    n = np.bincount(at)
    if not len(n) or (n == 0).any():
        raise ValueError("best-of-k: problems are numbered 0, 1, ... and each has at least one sample.")
    if (at[1:] < at[:-1]).any():
        order = np.argsort(at, kind="stable")
        by, worth = by[order], worth[order]
    start = np.cumsum(n) - n
    out = np.full((len(n), len(ks)), np.nan)
    for size in np.unique(n):
        mine, among = np.flatnonzero(n == size), np.arange(size)
        chance = np.column_stack([_below(size, among + 1, k, replace) - _below(size, among, k, replace) for k in map(abs, ks)])
        known = np.array([k >= 1 and (replace or k <= size) for k in ks])
        step = max(1, _SAMPLES // int(size))
        for some in (mine[i : i + step] for i in range(0, len(mine), step)):
            rows = start[some][:, None] + among
            out[some] = np.where(known, _ranked(worth[rows], by[rows]) @ chance, np.nan)
    return out


def _ranked(worth: Floats, by: Floats) -> Floats:
    """What samples are worth in order of their scores, problems × samples; level ones are worth their mean."""
    order = np.argsort(by, axis=1)
    by, worth = np.take_along_axis(by, order, axis=1), np.take_along_axis(worth, order, axis=1)
    opens = np.ones(by.shape, bool)
    opens[:, 1:] = by[:, 1:] != by[:, :-1]
    first = np.flatnonzero(opens)
    size = np.diff(np.append(first, by.size))
    return np.repeat(np.add.reduceat(worth.ravel(), first) / size, size).reshape(by.shape)


def _below(n: int, i: Ints, k: int, replace: bool) -> Floats:
    """Chance that all k samples are among the i lowest of n."""
    if replace:
        return np.asarray((i / n) ** k, dtype=np.float64)
    inside = np.where((k <= i) & (k <= n), i, k)
    whole = np.maximum(n, k)
    logs = gammaln(inside + 1.0) - gammaln(inside - k + 1.0) - gammaln(whole + 1.0) + gammaln(whole - k + 1.0)
    return np.where((k <= i) & (k <= n), np.where(i == n, 1.0, np.exp(logs)), 0.0)


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
    return _by_multiset(gold, wrong, abstain, ks, _maj_chunk)


def maj_at_k_with_replacement(gold: ArrayLike, wrong: ArrayLike, abstain: ArrayLike, ks: Sequence[int]) -> Floats:
    """`maj_at_k` of k draws with replacement from the n samples (a multinomial): biased, defined for k > n. Slower: use few ks.

    The multinomial is k independent Poisson counts given their sum, so the same product serves with Poisson chances for binomials.
    """
    return _by_multiset(gold, wrong, abstain, ks, _maj_replaced)


_Chunk = Callable[[Ints, Ints, Ints, Sequence[int]], Floats]


def _by_multiset(gold: ArrayLike, wrong: ArrayLike, abstain: ArrayLike, ks: Sequence[int], chunk: _Chunk) -> Floats:
    """Problems with the same multiset of counts share one computation; most do where n is small."""
    gold_, abstain_ = np.atleast_1d(np.asarray(gold, np.int64)), np.atleast_1d(np.asarray(abstain, np.int64))
    wrong_ = np.atleast_2d(np.asarray(wrong, np.int64)).reshape(len(gold_), -1)
    wrong_ = -np.sort(-wrong_, axis=1)
    if min(gold_.min(initial=0), wrong_.min(initial=0), abstain_.min(initial=0)) < 0:
        raise ValueError("maj@k: found a negative number of votes.")
    rows, back = np.unique(np.column_stack([(wrong_ > 0).sum(1), gold_, abstain_, wrong_]), axis=0, return_inverse=True)
    out = np.full((len(rows), len(ks)), np.nan)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        out[start : start + _CHUNK] = chunk(part[:, 1], part[:, 3 : 3 + max(1, int(part[-1, 0]))], part[:, 2], ks)
    return out[back.reshape(-1)]


def _maj_replaced(gold: Ints, wrong: Ints, abstain: Ints, ks: Sequence[int]) -> Floats:
    n = np.maximum(gold + wrong.sum(1) + abstain, 1)

    def chance(mean: Floats, i: Ints) -> Floats:
        return np.asarray(np.exp(xlogy(i, mean) - mean - gammaln(i + 1.0)), dtype=np.float64)

    out = np.full((len(gold), len(ks)), np.nan)
    for column, k in enumerate(ks):
        if k >= 1:
            share = k / n
            won = _won(gold * share, wrong * share[:, None], abstain * share, [k], _Law(chance, True))[:, 0]
            out[:, column] = np.where(gold + wrong.sum(1) + abstain > 0, won / chance(np.array(float(k)), np.array(k)), np.nan)
    return np.clip(out, 0.0, 1.0)


def _maj_chunk(gold: Ints, wrong: Ints, abstain: Ints, ks: Sequence[int]) -> Floats:
    n = gold + wrong.sum(1) + abstain
    out = np.full((len(gold), len(ks)), np.nan)
    inner = [k for k in ks if 1 <= k < n.max(initial=0)]
    if inner and n.max() <= _EXACT_BINOMIALS:
        table = _pascal(int(n.max()), max(inner))
        won = _won(gold, wrong, abstain, inner, _Law(lambda a, i: table[a, i], False))
        for column, k in enumerate(inner):
            out[:, list(ks).index(k)] = won[:, column] / np.maximum(table[n, k], 1.0)
    elif inner:
        for k in inner:
            choose = _tilted(k / float(n.max()), int(n.max()))
            won = _won(gold, wrong, abstain, [k], _Law(choose, False))[:, 0]
            out[:, list(ks).index(k)] = won / np.where(n >= k, choose(n, np.full_like(n, k)), 1.0)
    ties = 1.0 + (wrong == gold[:, None]).sum(1)
    whole = np.where((gold > 0) & (gold >= wrong.max(axis=1, initial=0)), 1.0 / ties, 0.0)
    for column, k in enumerate(ks):
        out[:, column] = np.where(n == k, whole, np.where((n < k) | (k < 1), np.nan, np.clip(out[:, column], 0.0, 1.0)))
    return out


class _Law(NamedTuple):
    """How samples are drawn: the weight of taking i from a class of size a, and whether a class may give more than it holds."""

    choose: Callable[[Any, Any], Floats]
    replace: bool


def _won(gold: Any, wrong: Any, abstain: Any, ks: Sequence[int], law: _Law) -> Floats:
    """Weight of the k-subsets in which gold wins, problems × ks."""
    won = np.zeros((len(gold), len(ks)))
    top = max(ks)
    for j in range(1, (top if law.replace else min(int(gold.max(initial=0)), top)) + 1):
        # A class can reach j votes only beside gold's own j; smaller classes and abstentions are free to take any number of places.
        least = _SOME if law.replace else j
        rivals = (wrong >= least) & (2 * j <= top) & (gold >= least)[:, None]
        singles = (rivals & (wrong == 1) & (not law.replace)).sum(1)
        large = rivals.sum(1) - singles
        live = np.flatnonzero(gold >= least)
        live = live[np.argsort(-large[live], kind="stable")]
        rest = abstain[live] + np.where(rivals[live], 0, wrong[live]).sum(1)
        poly = _product(wrong[live], large[live], singles[live], (j, top), law.choose)
        here = law.choose(gold[live], np.full(len(live), j))
        for column, k in enumerate(ks):
            if k >= j:
                m = np.arange(min(len(poly), k - j + 1))
                won[live, column] += here * np.einsum("mu,mu->u", poly[: len(m)], law.choose(rest[None, :], (k - j - m)[:, None]))
    return won


def _product(wrong: Any, large: Ints, singles: Ints, j_top: tuple[int, int], choose: Callable[[Any, Any], Floats]) -> Floats:
    """Coefficients (power of y × problems) of the rivals' product, integrated over gold's lot x.

    Problems are sorted by `large`, most first. Rivals of one vote (only at j = 1) enter at once: m of them are (1 + x y)^m.
    """
    j, top = j_top
    most = int((large + singles).max(initial=0))
    if most == 0:
        return np.ones((1, len(large)))
    degree = min(most, top // j - 1)  # in x: t level rivals and gold take j * (t + 1) votes
    nodes, weights = _gauss(degree // 2 + 1)
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


_gauss = cache(np.polynomial.legendre.leggauss)  # asked for thousands of times, of few sizes


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
