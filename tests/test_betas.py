"""The spread of problems: fits are the likeliest by brute force, known truths come back, pass@k is the Beta's integral."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import betaln
from scipy.stats import beta as beta_law
from scipy.stats import betabinom

from thinkscale.betas import Beta, fit_beta, fit_counts


def test_the_beta_binomial_fit_is_the_likeliest() -> None:
    rng = np.random.default_rng(5)
    for a, b in ((0.3, 2.0), (2.0, 5.0), (5.0, 1.0)):
        n = rng.choice([8, 16], 300)
        c = rng.binomial(n, rng.beta(a, b, 300))
        mean, total = (v[0] for v in fit_beta(c.astype(float), n.astype(float), np.full((1, 300), 1 / 300)))

        def loss(p: np.ndarray, c: np.ndarray = c, n: np.ndarray = n) -> float:
            m, s = 1 / (1 + np.exp(-p[0])), np.exp(p[1])
            return -float(betabinom.logpmf(c, n, m * s, (1 - m) * s).sum())

        best = minimize(loss, [0.0, 1.0], method="Nelder-Mead")
        assert loss(np.array([mean, total])) == pytest.approx(best.fun, abs=0.15)  # an interval's end is 1.92 away
        assert (mean, total) == pytest.approx(best.x, abs=0.1)


def test_draws_of_problems_move_the_beta_binomial_fit() -> None:
    rng = np.random.default_rng(6)
    c = rng.binomial(8, rng.beta(1, 2, 50)).astype(float)
    times = rng.multinomial(50, np.full(50, 1 / 50), 30)
    mean, total = fit_beta(c, np.full(50, 8.0), times / 50)
    for i in (0, 17):
        again = np.repeat(c, times[i])
        alone = fit_beta(again, np.full(50, 8.0), np.full((1, 50), 1 / 50))
        assert (mean[i + 1], total[i + 1]) == pytest.approx((alone[0][0], alone[1][0]))


def counts(c: np.ndarray, n: int, draws: int = 0) -> np.ndarray:
    """Shares of problems with 0 .. n right: of the data, then of draws of problems."""
    times = np.vstack([np.ones(len(c)), np.random.default_rng(1).multinomial(len(c), np.full(len(c), 1 / len(c)), draws)])
    return np.array([np.bincount(c, weights=t, minlength=n + 1) for t in times]) / len(c)


def loss(p: np.ndarray, share: np.ndarray) -> float:
    """Minus the log-likelihood a problem; p: logit of the mean, log of alpha + beta, share of zeros."""
    n, m, s = len(share) - 1, 1 / (1 + np.exp(-p[0])), np.exp(p[1])
    c = np.arange(n + 1)
    each = np.exp(betaln(c + m * s, n - c + (1 - m) * s) - betaln(m * s, (1 - m) * s))
    return -float((share * np.log((1 - p[2]) * each + p[2] * (c == 0))).sum())


@pytest.mark.parametrize(("a", "b", "zero", "n"), [(0.5, 2.0, 0.3, 16), (2.0, 5.0, 0.4, 16), (1.0, 1.0, 0.5, 8), (5.0, 1.0, 0.0, 8)])
def test_the_zero_inflated_fit_is_the_likeliest_in_the_data_and_in_draws(a: float, b: float, zero: float, n: int) -> None:
    rng = np.random.default_rng(8)
    share = counts(rng.binomial(n, rng.beta(a, b, 100) * (rng.random(100) > zero)), n, draws=20)
    found = fit_counts(share, True)
    for i in (0, 3, 11):

        def free(p: np.ndarray, i: int = i) -> float:
            inside = np.clip(p, -15, 15)  # the simplex may wander off where the likelihood is flat
            return loss(np.array([inside[0], inside[1], 1 / (1 + np.exp(-inside[2]))]), share[i])

        starts = [[m, s, z] for m in (-2.0, 1.0) for s in (0.0, 2.0) for z in (-3.0, 0.0)]
        best = min(minimize(free, start, method="Nelder-Mead", options={"maxiter": 3000}).fun for start in starts)
        mine = loss(np.array([found.mean[i], found.total[i], found.zero[i]]), share[i])
        assert found.loglik[i] == pytest.approx(-mine) and mine - best < 0.15 / 100  # an interval's end is 1.92 / 100 away


def test_a_share_of_hopeless_problems_is_found_and_none_is_made_up() -> None:
    rng = np.random.default_rng(9)
    p = rng.beta(2.0, 3.0, 4000)
    some = fit_counts(counts(rng.binomial(24, p * (rng.random(4000) > 0.35)), 24), True)
    assert some.zero[0] == pytest.approx(0.35, abs=0.03) and some.alpha[0] == pytest.approx(2.0, abs=0.2)
    none = fit_counts(counts(rng.binomial(24, p), 24), True)
    assert none.zero[0] < 0.02
    plain = fit_counts(counts(rng.binomial(24, p), 24), False)
    assert plain.zero[0] == 0 and (plain.alpha[0], plain.beta[0]) == pytest.approx((2.0, 3.0), rel=0.1)


@pytest.mark.parametrize("rare", [0.0005, 0.9995])
def test_means_at_the_ends_of_the_grid_are_found(rare: float) -> None:
    rng = np.random.default_rng(10)
    found = fit_counts(counts(rng.binomial(16, np.full(3000, rare)), 16, draws=5), False)
    assert 1 / (1 + np.exp(-found.mean)) == pytest.approx(np.full(6, rare), abs=0.0005)


def test_pass_at_k_is_the_integral_over_the_problems() -> None:
    found = Beta(np.array([-1.0]), np.array([0.7]), np.array([0.25]), np.zeros(1))
    a, b = float(found.alpha[0]), float(found.beta[0])
    for k in (1, 5, 100):
        whole = quad(lambda p, k=k: (1 - (1 - p) ** k) * beta_law.pdf(p, a, b), 0, 1)[0]
        assert found.pass_at(k)[0] == pytest.approx(0.75 * whole, rel=1e-5)


def test_draws_in_which_all_is_wrong_or_right_are_no_error() -> None:
    share = np.array([[0.9, 0.1, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for inflated in (False, True):
        found = fit_counts(share, inflated).pass_at(10)
        assert np.isfinite(found).all() and found[1] < 0.05 and found[2] > 0.95
