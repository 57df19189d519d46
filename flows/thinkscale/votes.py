"""Which answers are the same, before anybody votes; and the vote in which answers have weights.

Why: compared pairwise while counting, answers fall into classes that depend on their order; here classes are found first, as the
connected components of "the grader calls them equal" over canonical keys, and named after their own content.
What it does not do: decide what is equal (a grader does), or count plain votes (`estimators.maj_at_k` is exact and faster).

Source of the weighted vote: Li et al. 2023, arXiv:2206.02336; weights are summed, as in best-of-n by a verifier (Snell et al. 2024).
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thinkscale.inference import Floats, Ints, generator

_ENUMERATED = 20_000  # subsets up to which a weighted vote looks at all of them
_SUBSETS = 1024
_CHUNK = 4_000_000  # drawn samples at once: 32 MB
_LEVEL = 1e-9  # weights that differ by less, relative to all of them, are level: sums in another order differ in the last digits


def answer_classes(
    answers: Sequence[str | None], same: Callable[[str, str], bool] | None = None, key: Callable[[str], str] = str.strip
) -> list[str | None]:
    """The class of each answer to one problem, named after its alphabetically first key; None (no answer) abstains.

    Answers with the same canonical key are equal; then so are keys of which `same` says so in either order (graders are not symmetric),
    directly or through others (nor transitive: 1.49, 1.5 and 1.51 may become one class). Add the gold answer to the list to have its
    class named. Neither order nor repetition of the answers changes a class.

    Args:
        answers: extracted answers, None where none was found.
        same: a grader's verdict on two answers; None: keys alone decide.
        key: canonical form; what it maps to one text is one answer.
    """
    keys = [None if a is None else key(a) for a in answers]
    text: dict[str, str] = {}
    for k, a in zip(keys, answers, strict=True):
        if k is not None and a is not None:
            text[k] = min(a, text.get(k, a))
    names = sorted(text)
    root = {k: k for k in names}

    def find(k: str) -> str:
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    for a, b in combinations(names, 2) if same else ():
        low, high = sorted((find(a), find(b)))
        if low != high and same and (same(text[a], text[b]) or same(text[b], text[a])):
            root[high] = low
    return [None if k is None else find(k) for k in keys]


class WeightedVote(NamedTuple):
    """P(the answer with the most weight among k samples is right), problems × ks."""

    value: Floats
    """NaN where k > n."""
    error: Floats
    """Standard error of `value` from drawing subsets; 0 where all of them were looked at. Subsets are drawn for each problem anew, so an
    interval over problems holds it already."""


def weighted_vote(
    correct: ArrayLike,
    answer_class: Sequence[str | None],
    log_weight: ArrayLike,
    problem: ArrayLike,
    ks: Sequence[int],
    seed: int | str = 0,
) -> WeightedVote:
    """The weighted vote of k of n samples; ties in expectation, abstentions and no votes at all as in `estimators.maj_at_k`.

    No closed form for unlike weights: all C(n, k) subsets where they are at most 20,000, else 1,024 drawn ones. With equal weights it is
    maj@k. Weights come as logarithms: those of whole answers are less than any float (e^-760) and still tell answers apart.

    Args:
        correct: one per sample; a class is right or wrong, never both.
        answer_class: class of each sample's answer within its problem; None abstains.
        log_weight: of what its vote counts: an answer's log-probability, the log of a verifier's score in [0, 1] (-inf for 0).
        problem: number of each sample's problem, 0, 1, ...; none left out.
        ks: sample counts.
        seed: fixes the drawn subsets.
    """
    right, heavy, at = np.asarray(correct, bool), np.asarray(log_weight, float), np.asarray(problem, np.int64)
    if not (heavy < np.inf).all():
        raise ValueError(f"weighted vote: logarithms of weights must be numbers, found {heavy[~(heavy < np.inf)][0]:g}.")
    label = np.unique(np.array(["" if a is None or a != a else f"={a}" for a in answer_class]), return_inverse=True)[1].reshape(-1)
    votes = np.array([a is not None and a == a for a in answer_class], bool)
    order = np.lexsort((heavy, label, at))  # the order of samples decides nothing, nor which subsets are drawn
    right, heavy, at, label, votes = right[order], np.where(votes, heavy, -np.inf)[order], at[order], label[order], votes[order]
    n = np.bincount(at)
    start = np.concatenate([[0], np.cumsum(n)[:-1]])
    value, error = np.full((len(n), len(ks)), np.nan), np.full((len(n), len(ks)), np.nan)
    rng = generator(seed, "weighted vote")
    for size in np.unique(n):
        mine = np.flatnonzero(n == size)
        for column, k in enumerate(ks):
            if 1 <= k <= size:
                subsets = _all_subsets(int(size), k)
                step = max(1, _CHUNK // (k * (_SUBSETS if subsets is None else len(subsets))))
                for first in range(0, len(mine), step):
                    some = mine[first : first + step]
                    rows = start[some][:, None, None] + (_drawn(rng, len(some), int(size), k) if subsets is None else subsets[None])
                    won = _won(right[rows], label[rows], heavy[rows], votes[rows])
                    value[some, column] = won.mean(axis=1)
                    error[some, column] = won.std(axis=1) / np.sqrt(won.shape[1]) if subsets is None else 0.0
    return WeightedVote(value, error)


def _all_subsets(n: int, k: int) -> Ints | None:
    """Every k-subset of n, or None where they are too many."""
    return np.array(list(combinations(range(n), k)), np.int64) if comb(n, k) <= _ENUMERATED else None


def _drawn(rng: np.random.Generator, problems: int, n: int, k: int) -> Ints:
    """Random k-subsets of n, other ones for each problem: problems × subsets × k."""
    return np.argpartition(rng.random((problems, _SUBSETS, n), dtype=np.float32), k - 1, axis=2)[:, :, :k].astype(np.int64)


def _won(right: NDArray[np.bool_], label: Ints, log_weight: Floats, votes: NDArray[np.bool_]) -> Floats:
    """Share of a right class among the heaviest classes of each subset (last axis: its samples)."""
    order = np.argsort(label, axis=-1, kind="stable")
    right, label = np.take_along_axis(right, order, axis=-1), np.take_along_axis(label, order, axis=-1)
    log_weight, votes = np.take_along_axis(log_weight, order, axis=-1), np.take_along_axis(votes, order, axis=-1)
    shape, k = label.shape[:-1], label.shape[-1]
    opens = np.ones(label.shape, bool)
    opens[..., 1:] = label[..., 1:] != label[..., :-1]
    flat = np.flatnonzero(opens.reshape(-1))
    top = log_weight.max(axis=-1, keepdims=True)
    weight = np.exp(log_weight - np.where(top > -np.inf, top, 0.0))  # only their ratios count
    total = np.add.reduceat(weight.reshape(-1), flat)
    subset = flat // k
    heaviest = np.zeros(int(np.prod(shape)))
    np.maximum.at(heaviest, subset, np.where(votes.reshape(-1)[flat], total, 0.0))
    best = votes.reshape(-1)[flat] & (total >= heaviest[subset] * (1 - _LEVEL))
    tied = np.bincount(subset, weights=best, minlength=len(heaviest))
    good = np.bincount(subset, weights=best & right.reshape(-1)[flat], minlength=len(heaviest))
    return np.asarray((good / np.maximum(tied, 1.0)).reshape(shape))


def classes_by_problem(
    problem: Iterable[object], answers: Sequence[str | None], same: Callable[[str, str], bool] | None = None
) -> list[str | None]:
    """`answer_classes` of many problems at once: the class of each row, found among the rows of its own problem."""
    rows: dict[object, list[int]] = {}
    for i, p in enumerate(problem):
        rows.setdefault(p, []).append(i)
    out: list[str | None] = [None] * len(answers)
    for mine in rows.values():
        for i, name in zip(mine, answer_classes([answers[i] for i in mine], same), strict=True):
            out[i] = name
    return out
