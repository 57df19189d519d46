"""Power: Miller's number, a table of smallest visible differences, and simulation."""

import numpy as np
import pytest

from thinkscale.estimators import pass_at_k, pass_at_k_variance
from thinkscale.power import TYPICAL, Spread, best_samples, error_budget, measured_spread, outlook, problems_needed, visible_difference


def test_three_points_need_miller_s_969_problems() -> None:
    assert problems_needed(0.03, 1, Spread(1 / 9, 0.0)) == 969


@pytest.mark.parametrize(
    ("problems", "points"),
    [
        *((30, (29, 19, 15, 14)), (100, (16, 10.4, 8.4, 7.9)), (200, (11.3, 7.3, 6.0, 5.6))),
        *((500, (7.1, 4.6, 3.8, 3.5)), (1319, (4.4, 2.9, 2.3, 2.2))),
    ],
)
def test_what_typical_benchmarks_show(problems: int, points: tuple[float, ...]) -> None:
    found = 100 * visible_difference(problems, np.array([1, 4, 16, 64]))
    assert found == pytest.approx(points, abs=0.5 if problems == 30 else 0.06)


def test_problems_for_three_points_at_1_4_and_16_samples() -> None:
    assert problems_needed(0.03, np.array([1, 4, 16])) == pytest.approx([2835, 1200, 791], abs=1)


def test_what_is_needed_shows_what_was_asked_for() -> None:
    for gap in (0.01, 0.03, 0.2):
        n = problems_needed(gap, 8)
        assert visible_difference(n, 8) <= gap < visible_difference(n - 1, 8)


def world(rng: np.random.Generator, problems: int, samples: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Right samples of two sides whose true accuracies differ by `gap` on average and by more or less on single problems."""
    p = rng.uniform(0.3, 0.5, problems)
    q = p + gap + rng.choice([-0.2, 0.2], problems)
    return rng.binomial(samples, q), rng.binomial(samples, p)


def test_a_difference_is_seen_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    spread, gap, samples = Spread(0.04, float(np.mean([0.4 * 0.6 - 0.01 / 3, 0.45 * 0.55 - 0.04 - 0.01 / 3]))), 0.05, 4
    problems = int(problems_needed(gap, samples, spread))
    seen = 0
    for _ in range(1000):
        a, b = world(rng, problems, samples, gap)
        d = (a - b) / samples
        seen += d.mean() / (d.std(ddof=1) / np.sqrt(problems)) > 1.96
    assert 0.76 < seen / 1000 < 0.84


def test_the_measured_spread_is_the_true_one() -> None:
    a, b = world(np.random.default_rng(1), 20_000, 4, 0.05)
    found = measured_spread(a, b, 4, 4)
    assert found.between == pytest.approx(0.04, abs=0.003)
    assert found.within == pytest.approx(np.mean([0.4 * 0.6 - 0.01 / 3, 0.45 * 0.55 - 0.04 - 0.01 / 3]), abs=0.003)
    with pytest.raises(ValueError, match="one sample"):
        measured_spread(a, b, 1, 4)


def test_the_error_budget_adds_up_and_finds_the_noise_of_sampling() -> None:
    rng, n = np.random.default_rng(2), 8
    p = rng.beta(2, 2, 5000)
    c = rng.binomial(n, p)[:, None]
    budget = error_budget(pass_at_k(n, c, 1), pass_at_k_variance(n, c, 1))
    assert budget.between + budget.within == pytest.approx(budget.se**2)
    truth = np.mean(p * (1 - p)) / n
    assert budget.share_within == pytest.approx(truth / (truth + p.var()), abs=0.02)


def test_all_noise_is_a_share_of_one_and_no_error_is_no_share() -> None:
    c = np.random.default_rng(3).binomial(4, 0.5, 2000)[:, None]
    assert error_budget(pass_at_k(4, c, 1), pass_at_k_variance(4, c, 1)).share_within == pytest.approx(1.0, abs=0.1)
    same = np.full((10, 1), 4)
    assert np.isnan(error_budget(pass_at_k(4, same, 1), pass_at_k_variance(4, same, 1)).share_within)
    assert np.isnan(error_budget(np.ones((1, 1)), np.zeros((1, 1))).se)


def test_dear_problems_want_more_samples() -> None:
    assert best_samples(0.0, 1.0) == 1.0
    assert best_samples(16.0, 1.0) == pytest.approx(np.sqrt(2 * TYPICAL.within / TYPICAL.between * 16))
    assert best_samples(1.0, 1.0, Spread(0.0, 0.1)) == np.inf


def test_a_plan_says_what_it_can_show_and_what_more_would_take() -> None:
    assert outlook("sums", 200, 16) == (
        "sums: 200 problems × 16 samples show differences from 6.0 points on; 3 points take 791 problems × 16 samples"
    )
    assert outlook("sums", 2000, 16).endswith("from 1.9 points on")
