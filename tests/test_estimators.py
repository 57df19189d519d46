import itertools
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_estimators import loop_maj_at_k
from thinkscale.estimators import (
    best_of_k,
    best_of_k_with_replacement,
    maj_at_k,
    maj_at_k_with_replacement,
    pass_at_k,
    pass_at_k_variance,
    pass_at_k_with_replacement,
)


def brute_maj(gold: int, wrong: list[int], abstain: int, k: int) -> Fraction:
    """Every k-subset, ties in expectation, no vote scores 0."""
    samples = ["gold"] * gold + [f"wrong{a}" for a, size in enumerate(wrong) for _ in range(size)] + [None] * abstain
    won = Fraction(0)
    for subset in itertools.combinations(samples, k):
        votes = {a: subset.count(a) for a in subset if a is not None}
        best = [a for a in votes if votes[a] == max(votes.values())]
        won += Fraction(int("gold" in best), max(1, len(best)))
    return won / comb(len(samples), k)


def test_pass_at_k_is_the_mean_over_all_subsets() -> None:
    for n in range(1, 9):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-13), (n, c, k)


def test_pass_at_k_of_more_samples_than_drawn_is_undefined_never_one() -> None:
    assert np.isnan(pass_at_k([4, 4, 4], [0, 2, 4], 8)).all()
    assert np.isnan(pass_at_k(4, 2, 0))
    assert np.isnan(pass_at_k(0, 0, 1))


def test_pass_at_k_grows_with_k_and_with_c() -> None:
    table = pass_at_k(100, np.arange(101)[:, None], np.arange(1, 101)[None, :])
    assert (np.diff(table, axis=0) >= -1e-12).all()
    assert (np.diff(table, axis=1) >= -1e-12).all()
    assert (table[:, 0] == np.arange(101) / 100).all()


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5, abs=1e-9)
    assert pass_at_k(10_000, 10_000, 10_000) == 1
    assert pass_at_k(10_000, 0, 10_000) == 0


def test_more_right_than_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="5 right of 4"):
        pass_at_k(4, 5, 1)


@pytest.mark.parametrize(
    ("gold", "wrong", "abstain"),
    [
        *((2, [2], 0), (3, [1, 1, 1], 2), (2, [2, 2], 2), (1, [1, 1, 1, 1, 1, 1], 1), (4, [4], 0), (1, [7], 0), (5, [], 3), (3, [3, 2], 0)),
        *((0, [3, 2], 1), (0, [], 4), (8, [], 0), (1, [], 7)),
    ],
)
def test_maj_at_k_is_the_mean_over_all_subsets(gold: int, wrong: list[int], abstain: int) -> None:
    n = gold + sum(wrong) + abstain
    found = maj_at_k([gold], [wrong or [0]], [abstain], range(1, n + 2))[0]
    assert found[:-1] == pytest.approx([float(brute_maj(gold, wrong, abstain, k)) for k in range(1, n + 1)], abs=1e-13)
    assert np.isnan(found[-1])


def test_maj_at_k_is_the_mean_over_all_subsets_for_random_votes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        gold, abstain, *wrong = (int(v) for v in rng.multinomial(rng.integers(1, 9), rng.dirichlet(np.ones(6))))
        n = gold + abstain + sum(wrong)
        found = maj_at_k([gold], [wrong], [abstain], range(1, n + 1))[0]
        assert found == pytest.approx([float(brute_maj(gold, wrong, abstain, k)) for k in range(1, n + 1)], abs=1e-13)


@pytest.mark.parametrize(("n", "ks"), [(100, (2, 8, 32, 64)), (256, (4, 16, 64)), (1300, (2, 4, 16, 32))])
def test_maj_at_k_agrees_with_whole_numbers_for_many_samples(n: int, ks: tuple[int, ...]) -> None:
    rng = np.random.default_rng(n)
    gold, abstain, *wrong = (int(v) for v in rng.multinomial(n, [0.25, 0.05, *rng.dirichlet(np.full(8, 0.6)) * 0.7]))
    assert maj_at_k([gold], [wrong], [abstain], ks)[0] == pytest.approx([loop_maj_at_k(gold, wrong, abstain, k) for k in ks], abs=1e-11)


def test_maj_at_1_and_maj_at_2_are_accuracy_where_all_vote() -> None:
    counts = np.random.default_rng(3).multinomial(16, [0.4, 0.3, 0.2, 0.1], size=50)
    found = maj_at_k(counts[:, 0], counts[:, 1:], np.zeros(50), [1, 2])
    assert found == pytest.approx(np.repeat(counts[:, :1] / 16, 2, axis=1), abs=1e-13)


def test_an_abstention_leaves_the_vote_to_the_others() -> None:
    assert maj_at_k([1], [[0]], [1], [1, 2])[0] == pytest.approx([0.5, 1.0])


def test_votes_do_not_depend_on_order_padding_or_neighbours() -> None:
    one = maj_at_k([3], [[2, 2, 1]], [1], [1, 2, 4, 8, 9])[0]
    many = maj_at_k([5, 3, 3, 0], [[0, 0, 0, 1, 0], [1, 0, 2, 0, 2], [2, 1, 2, 0, 0], [9, 0, 0, 0, 0]], [0, 1, 1, 2], [1, 2, 4, 8, 9])
    assert np.array_equal(many[1], many[2])
    assert many[1] == pytest.approx(one, abs=1e-14)
    assert np.isnan(many[0, 3:]).all()
    assert (many[3] == 0).all()


def test_each_problem_has_its_own_number_of_samples() -> None:
    found = maj_at_k([3, 1], [[1], [1]], [0, 0], [1, 2, 4])
    assert found[0] == pytest.approx([0.75, 0.75, 1.0])
    assert found[1, :2] == pytest.approx([0.5, 0.5])
    assert np.isnan(found[1, 2])


def test_negative_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        maj_at_k([1], [[-1]], [0], [1])


def test_the_variance_of_pass_at_k_is_unbiased() -> None:
    n, p, worlds = 8, 0.3, np.arange(9)
    chance = np.array([comb(n, c) * p**c * (1 - p) ** (n - c) for c in worlds])
    for k in range(1, 5):
        value = pass_at_k(n, worlds, k)
        truth = chance @ value**2 - (chance @ value) ** 2
        assert chance @ pass_at_k_variance(n, worlds, k) == pytest.approx(truth, abs=1e-14), k
    assert np.isnan(pass_at_k_variance(n, worlds, 5)).all()


def test_the_variance_of_accuracy_is_p_times_1_minus_p_over_n_minus_1() -> None:
    p = np.arange(11) / 10
    assert pass_at_k_variance(10, np.arange(11), 1) == pytest.approx(p * (1 - p) / 9, abs=1e-14)


def test_plug_in_estimates_are_the_mean_over_all_sequences() -> None:
    samples = ["gold"] * 2 + ["a"] * 2 + ["b", None]
    scores = {"gold": 1.0, "a": 2.0, "b": 1.0, None: 0.0}
    for k in (1, 2, 3, 4, 7):
        if k > 4:
            assert pass_at_k_with_replacement(6, 2, k) == pytest.approx(1 - (4 / 6) ** k)
            assert 0 < maj_at_k_with_replacement([2], [[2, 1]], [1], [k])[0, 0] < 1
            continue
        right, won, best = 0.0, 0.0, 0.0
        for drawn in itertools.product(samples, repeat=k):
            votes = {a: drawn.count(a) for a in drawn if a is not None}
            top = [a for a in votes if votes[a] == max(votes.values())]
            high = [a == "gold" for a in drawn if scores[a] == max(scores[b] for b in drawn)]
            right += "gold" in drawn
            won += ("gold" in top) / max(1, len(top))
            best += sum(high) / len(high)
        assert pass_at_k_with_replacement(6, 2, k) == pytest.approx(right / 6**k, abs=1e-13)
        assert maj_at_k_with_replacement([2], [[2, 1]], [1], [k])[0, 0] == pytest.approx(won / 6**k, abs=1e-12)
        correct, by = [a == "gold" for a in samples], [scores[a] for a in samples]
        # A group of level scores counts as its mean over the n samples, however often each was drawn.
        found = best_of_k_with_replacement(correct, by, np.zeros(6, int), [k])[0, 0]
        assert found == pytest.approx(best / 6**k, abs=1e-12)


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[bool], list[int]]:
    n = draw(st.integers(1, 8))
    return draw(st.lists(st.booleans(), min_size=n, max_size=n)), draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))


@given(scored(), st.randoms(use_true_random=False))
def test_best_of_k_is_the_mean_over_all_subsets_in_any_order(made: tuple[list[bool], list[int]], random: Any) -> None:
    rows = list(zip(*made, strict=True))
    found = best_of_k(*made, np.zeros(len(rows), int), range(1, len(rows) + 2))[0]
    for k in range(1, len(rows) + 1):
        truth = []
        for subset in itertools.combinations(rows, k):
            high = [c for c, s in subset if s == max(s for _, s in subset)]
            truth.append(sum(high) / len(high))
        assert found[k - 1] == pytest.approx(np.mean(truth), abs=1e-13)
    assert np.isnan(found[-1])
    random.shuffle(rows)
    shuffled = best_of_k([c for c, _ in rows], [s for _, s in rows], np.zeros(len(rows), int), range(1, len(rows) + 1))
    assert shuffled[0] == pytest.approx(found[:-1], abs=1e-13)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=5))
def test_best_of_k_by_the_truth_is_pass_at_k(problems: list[list[bool]]) -> None:
    right, at = np.concatenate(problems), np.repeat(np.arange(len(problems)), [len(p) for p in problems])
    n, c, ks = np.array([len(p) for p in problems]), np.array([sum(p) for p in problems]), np.arange(1, 31)
    assert best_of_k(right, right, at, ks.tolist()) == pytest.approx(pass_at_k(n[:, None], c[:, None], ks[None, :]), abs=1e-10, nan_ok=True)


def test_the_longest_of_k_chains_is_their_expected_maximum() -> None:
    tokens = [5.0, 9.0, 9.0, 40.0]
    truth = [np.mean([max(s) for s in itertools.combinations(tokens, k)]) for k in (1, 2, 3, 4)]
    assert best_of_k(tokens, tokens, np.zeros(4, int), [1, 2, 3, 4])[0] == pytest.approx(truth)


def test_a_sample_without_a_score_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 samples have no score"):
        best_of_k([True, False], [0.1, np.nan], [0, 0], [1])


@given(st.integers(1, 60), st.data())
def test_pass_at_k_is_monotone_in_k_and_c_and_undefined_beyond_n(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n))
    assert pass_at_k(n, c + 1, k) >= pass_at_k(n, c, k) - 1e-12
    assert k == n or pass_at_k(n, c, k + 1) >= pass_at_k(n, c, k) - 1e-12
    assert np.isnan(pass_at_k(n, c, n + k))


votes = st.tuples(st.integers(0, 12), st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 4)).filter(
    lambda v: v[0] + sum(v[1]) + v[2] > 0
)


@given(votes, st.randoms(use_true_random=False))
def test_a_vote_knows_no_order_of_classes(vote: tuple[int, list[int], int], random: Any) -> None:
    gold, wrong, abstain = vote
    ks = range(1, gold + sum(wrong) + abstain + 2)
    shuffled = random.sample(wrong, len(wrong))
    found = maj_at_k([gold], [wrong], [abstain], ks)[0]
    assert maj_at_k([gold], [shuffled], [abstain], ks)[0] == pytest.approx(found, nan_ok=True)
    assert np.isnan(found[-1]) and ((found[:-1] >= 0) & (found[:-1] <= 1)).all()


@given(votes)
def test_two_votes_are_worth_one_where_all_vote(vote: tuple[int, list[int], int]) -> None:
    gold, wrong, _ = vote
    n = gold + sum(wrong)
    if n >= 2:
        assert maj_at_k([gold], [wrong], [0], [1, 2])[0] == pytest.approx([gold / n] * 2, abs=1e-12)
