"""Inference: intervals cover, clusters count once, exact intervals are the published ones, peers' standard errors agree."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest

from thinkscale import inference
from thinkscale.estimators import pass_at_k
from thinkscale.inference import (
    bca,
    benjamini_hochberg,
    clopper_pearson,
    clustered_se,
    generator,
    holm,
    interval,
    paired_difference,
    resample,
    t_interval,
    wilson,
)


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
    unpaired = inference.quantiles((draws.weights @ b - other.weights @ a)[None, :])
    assert paired.high[0] - paired.low[0] < 0.5 * (unpaired.high[0] - unpaired.low[0])


def ids(n: int) -> list[str]:
    return [f"{i:04d}" for i in range(n)]


def test_any_text_is_a_seed_and_names_do_not_share_draws() -> None:
    assert generator("a1b2", "x").random() == generator("a1b2", "x").random()
    assert len({generator(s, n).random() for s in ("a1b2", "a1b3", 0) for n in ("x", "y")}) == 6


def test_bca_agrees_with_scipy_on_skewed_values() -> None:
    values = np.random.default_rng(7).exponential(size=(40, 1)) ** 2
    mine = bca(values, resample(ids(40), 20_000, 0), (0.0, 100.0))
    theirs = stats.bootstrap((values[:, 0],), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    plain = interval(values, resample(ids(40), 20_000, 0), (0.0, 100.0))
    assert (mine.low[0], mine.high[0]) == pytest.approx((theirs.low, theirs.high), rel=0.03)
    assert mine.high[0] > plain.high[0]  # the long tail is to the right


def test_bca_covers_skewed_truth_more_often_than_percentiles() -> None:
    rng, worlds, problems = np.random.default_rng(8), 400, 25
    values = rng.beta(0.3, 3.0, (problems, worlds))
    draws = resample(ids(problems), 1000, 0)
    covered = {f.__name__: np.mean([(e.low <= 1 / 11) & (e.high >= 1 / 11)]) for f in (bca, interval) for e in [f(values, draws)]}
    assert covered["bca"] >= covered["interval"] and covered["bca"] > 0.88, covered


def test_bca_and_t_leave_undefined_and_agreeing_columns_as_the_bootstrap_does() -> None:
    values = np.array([[0.5, np.nan, 1.0], [0.1, 0.2, 1.0], [0.3, 0.3, 1.0]])
    draws = resample(ids(3), 200, 0)
    for ends in (bca(values, draws), t_interval(values, ids(3))):
        assert np.isnan(ends.low[1]) and np.isnan(ends.high[1])
        assert (ends.low[2], ends.high[2]) == (interval(values, draws).low[2], 1.0)


def test_t_is_the_textbook_interval_without_clusters() -> None:
    values = np.random.default_rng(9).random((30, 2))
    ends = t_interval(values, ids(30))
    for column in (0, 1):
        truth = stats.t.interval(0.95, 29, values[:, column].mean(), stats.sem(values[:, column]))
        assert (ends.low[column], ends.high[column]) == pytest.approx(truth)


def test_samples_of_a_problem_as_a_cluster_give_the_standard_error_over_problems() -> None:
    right = np.random.default_rng(10).random((50, 8)) < np.linspace(0, 1, 50)[:, None]
    over_problems = stats.sem(right.mean(axis=1))
    over_samples = clustered_se(right.reshape(-1, 1).astype(float), np.repeat(ids(50), 8).tolist())
    assert over_samples[0] == pytest.approx(over_problems, rel=1e-12)


def test_one_cluster_has_no_standard_error() -> None:
    assert np.isnan(clustered_se(np.array([[0.1], [0.9]]), ["a", "a"]))[0]


def test_a_paired_difference_is_the_textbook_t_test() -> None:
    rng = np.random.default_rng(11)
    base = rng.random(60)
    other = np.clip(base + rng.normal(0.05, 0.1, 60), 0, 1)
    found = paired_difference(other, base, resample(ids(60), 2000, 0))
    truth = stats.ttest_rel(other, base)
    assert found.p == pytest.approx(truth.pvalue, rel=1e-9)
    assert found.se == pytest.approx(stats.sem(other - base), rel=1e-12)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("better", "worse", "p"), [([1.0] * 5, [0.0] * 5, 2**-4), ([0.5] * 5, [0.5] * 5, 1.0), ([1.0], [0.0], 1.0)])
def test_the_same_difference_everywhere_has_the_sign_test_s_p(better: list[float], worse: list[float], p: float) -> None:
    assert paired_difference(better, worse, resample(ids(len(better)), 100, 0)).p == p


def test_sides_over_other_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="give one number a problem"):
        paired_difference([1.0, 0.0], [1.0], resample(ids(2), 10, 0))


@given(st.integers(1, 400), st.data())
def test_shares_have_scipy_s_intervals(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    for mine, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        truth = binomtest(c, n).proportion_ci(0.95, method)
        assert [float(e) for e in mine(c, n)] == pytest.approx([truth.low, truth.high], abs=1e-10)


def test_nothing_right_of_thirty_may_still_be_eleven_percent() -> None:
    assert float(wilson(0, 30).high) == pytest.approx(0.114, abs=5e-4)
    assert float(clopper_pearson(30, 30).low) == pytest.approx(0.8843, abs=5e-5)


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="5 right of 4"):
        wilson([1, 5], 4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_many_comparisons_are_adjusted_as_published(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p), abs=1e-12)
    order, m, worst, truth = np.argsort(p, kind="stable"), len(p), 0.0, np.zeros(len(p))
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (m - rank) * p[i]))
        truth[i] = worst
    assert holm(p) == pytest.approx(truth, abs=1e-12)


def test_an_undefined_comparison_is_not_counted() -> None:
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    with pytest.raises(ValueError, match=r"found 1\.5"):
        holm([1.5])


def test_an_end_among_infinite_replicates_is_infinite_and_not_unknown() -> None:
    up = np.r_[np.arange(95.0), np.full(5, np.inf)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = inference.quantiles(np.array([up, -up, np.r_[np.nan, up[1:]], np.arange(100.0)]))
    assert found.low.tolist()[:2] == pytest.approx([2.475, -np.inf]) and found.high.tolist()[:2] == pytest.approx([np.inf, -2.475])
    assert np.isnan([found.low[2], found.high[2]]).all() and (found.low[3], found.high[3]) == pytest.approx((2.475, 96.525))
