import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest

from bench_estimators import loop_maj_at_k
from thinkscale import estimators
from thinkscale.estimators import interval, maj_at_k, pass_at_k, resample


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


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    worlds, problems, n = 400, 100, 4
    right = rng.binomial(n, rng.beta(0.8, 0.8, (problems, worlds)))
    values = np.concatenate([pass_at_k(n, right, 1), pass_at_k(n, right, 2)], axis=1)
    ends = interval(values, resample([str(i) for i in range(problems)], 1000, 0))
    # E[1 - (1-p)^2] for p ~ Beta(a, a)
    truth = np.repeat([0.5, 1 - 0.8 * 1.8 / (1.6 * 2.6)], worlds)
    covered = ((ends.low <= truth) & (truth <= ends.high)).reshape(2, worlds).mean(axis=1)
    assert ((covered >= 0.90) & (covered <= 0.98)).all(), covered


def test_problems_of_one_cluster_count_as_one() -> None:
    rng = np.random.default_rng(5)
    clusters = rng.random((40, 1))
    ends = interval(clusters, resample([str(i) for i in range(40)], 1000, 0, "a"))
    copies = interval(np.repeat(clusters, 5, axis=0), resample([f"{i:02d}" for i in range(40) for _ in range(5)], 1000, 0, "a"))
    naive = interval(np.repeat(clusters, 5, axis=0), resample([str(i) for i in range(200)], 1000, 0, "a"))
    assert copies.high - copies.low == pytest.approx(ends.high - ends.low, rel=0.1)
    assert naive.high - naive.low < 0.6 * (copies.high - copies.low)


def test_clusters_of_unequal_size_keep_weights_that_sum_to_one() -> None:
    draws = resample(["a", "a", "a", "b"], 200, 0)
    assert draws.num_clusters == 2
    assert draws.weights.sum(axis=1) == pytest.approx(1)
    assert set(np.round(draws.weights[:, 3], 6)) == {0.0, 0.25, 1.0}


@pytest.mark.parametrize(("value", "right"), [(0.0, 0), (1.0, 30)])
def test_where_all_problems_agree_the_interval_is_clopper_pearson(value: float, right: int) -> None:
    ends = interval(np.full((30, 1), value), resample([str(i) for i in range(30)], 100, 0))
    exact = binomtest(right, 30).proportion_ci(0.95, "exact")
    assert (ends.low[0], ends.high[0]) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_one_problem_proves_nothing() -> None:
    ends = interval(np.ones((1, 1)), resample(["a"], 100, 0), (-1.0, 1.0))
    assert ends.low[0] < 0


def test_an_undefined_value_has_an_undefined_interval() -> None:
    values = np.array([[0.5, np.nan], [0.1, 0.2], [0.3, 0.3]])
    ends = interval(values, resample(["a", "b", "c"], 100, 0))
    assert np.isnan(ends.low[1]) and np.isnan(ends.high[1]) and not np.isnan(ends.low[0])


def test_the_seed_and_the_name_fix_the_draws() -> None:
    names = [str(i) for i in range(20)]
    assert np.array_equal(resample(names, 50, 0, "a").weights, resample(names, 50, 0, "a").weights)
    assert not np.array_equal(resample(names, 50, 0, "a").weights, resample(names, 50, 0, "b").weights)
    assert not np.array_equal(resample(names, 50, 0, "a").weights, resample(names, 50, 1, "a").weights)


def test_a_paired_interval_is_narrower_on_correlated_sides() -> None:
    rng = np.random.default_rng(6)
    base = rng.random(200)
    a, b = base, np.clip(base + rng.normal(0.02, 0.05, 200), 0, 1)
    draws, other = resample([str(i) for i in range(200)], 1000, 0), resample([str(i) for i in range(200)], 1000, 1)
    paired = interval((b - a)[:, None], draws, (-1.0, 1.0))
    unpaired = estimators.quantiles((draws.weights @ b - other.weights @ a)[None, :])
    assert paired.high[0] - paired.low[0] < 0.5 * (unpaired.high[0] - unpaired.low[0])
