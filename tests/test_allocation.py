"""Loss in parameters and tokens: both published optima of the Chinchilla points, bootstrap errors, how to spend training FLOPs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize, minimize_scalar

from thinkscale.allocation import CHINCHILLA, KAPLAN, compute_optimal, fit_absolute, fit_free_scale, fit_huber
from thinkscale.scaling import OFFSET, POWER, Fit, fit

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "chinchilla_epoch"
published = pytest.mark.skipif(not FOLDER.exists(), reason="the Chinchilla points are not beside this clone (shared/data/chinchilla_epoch)")


@pytest.fixture(scope="module")
def runs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters, tokens and loss of the 240 published points."""
    table = pd.read_csv(FOLDER / "svg_extracted_data.csv").sort_values("loss").iloc[:-5]
    size = table["Model Size"].to_numpy(float)
    return size, table["Training FLOP"].to_numpy(float) / 6 / size, table["loss"].to_numpy(float)


def named(found: Fit) -> tuple[float, ...]:
    """A, B, E, alpha, beta."""
    return (*(float(np.exp(found[c])) for c in "abe"), found["alpha"], found["beta"])


@published
def test_the_sum_of_huber_s_loss_has_its_published_optimum(runs: tuple[np.ndarray, ...]) -> None:
    size, tokens, loss = runs
    assert len(loss) == 240
    found = fit_huber(CHINCHILLA, (size, tokens), loss)
    assert named(found) == pytest.approx((477.83, 2143.4, 1.8172, 0.3473, 0.3672), rel=2e-4)
    assert found.objective == pytest.approx(0.00101827, abs=1e-8)


@published
def test_huber_s_density_with_a_free_scale_has_its_published_optimum(runs: tuple[np.ndarray, ...]) -> None:
    size, tokens, loss = runs
    found = fit_free_scale(CHINCHILLA, (size, tokens), loss)
    assert named(found.fit) == pytest.approx((482.006, 2085.43, 1.81686, 0.347813, 0.365854), rel=5e-6)
    assert found.log_likelihood == pytest.approx(879.773, abs=5e-4)
    assert found.scale == pytest.approx(4.7e-6, rel=0.01)


@published
@pytest.mark.parametrize(
    ("delta", "a", "b", "alpha", "beta"),
    [(1e-5, 481, 2081, 0.348, 0.366), (1e-2, 539, 2906, 0.354, 0.382), (1.0, 593, 4876, 0.360, 0.406)],
)
def test_the_optimum_moves_with_delta_as_known(
    delta: float, a: float, b: float, alpha: float, beta: float, runs: tuple[np.ndarray, ...]
) -> None:
    found = fit_huber(CHINCHILLA, runs[:2], runs[2], delta=delta)
    assert named(found)[:2] == pytest.approx((a, b), rel=2e-3)
    assert named(found)[3:] == pytest.approx((alpha, beta), abs=6e-4)
    if delta == 1.0:  # no residual is that large: least squares, by another road
        assert found.theta == pytest.approx(fit(CHINCHILLA, runs[:2], runs[2]).theta, rel=1e-4)


@published
def test_training_flops_are_spent_as_published(runs: tuple[np.ndarray, ...]) -> None:
    found = fit_free_scale(CHINCHILLA, runs[:2], runs[2]).fit
    best = compute_optimal(found, 5.76e23)
    assert (best.params, best.tokens, best.loss) == pytest.approx((72e9, 1.33e12, 1.974), rel=0.01)
    assert best.tokens / best.params == pytest.approx(18.3, abs=0.1)


@published
def test_kaplan_s_form_does_not_bend_as_these_points_do(runs: tuple[np.ndarray, ...]) -> None:
    assert fit(KAPLAN, runs[:2], runs[2]).aicc > fit(CHINCHILLA, runs[:2], runs[2]).aicc + 100


@published
@pytest.mark.slow
def test_resampled_points_give_the_published_standard_errors(runs: tuple[np.ndarray, ...]) -> None:
    size, tokens, loss = runs
    start, rng, draws = fit_huber(CHINCHILLA, (size, tokens), loss), np.random.default_rng(0), []
    for _ in range(400):
        at = rng.integers(0, len(loss), len(loss))
        found = named(fit_huber(CHINCHILLA, (size[at], tokens[at]), loss[at], start))
        draws.append([*found, found[4] / (found[3] + found[4])])
    errors = np.std(draws, axis=0, ddof=1)
    # Published: 124, 1293, .026, .015, .021, .020; 400 draws know a standard error to 4 %, that of the skewed A and B far less.
    assert errors[:2] == pytest.approx([114, 1348], rel=0.25)
    assert errors[2:] == pytest.approx([0.025, 0.0144, 0.0213, 0.020], rel=0.12)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Sizes and tokens."""
    size, ratio = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e10, 6), [5.0, 20.0, 80.0]))
    return size, size * ratio


def test_robust_fits_shrug_off_a_point_that_went_wrong() -> None:
    size, tokens = grid()
    loss = (1.8 + 480 / size**0.35 + 2000 / tokens**0.37) * np.exp(np.random.default_rng(0).normal(0, 1e-4, len(size)))
    loss[4] *= 1.5
    for found in (fit_huber(CHINCHILLA, (size, tokens), loss), fit_absolute(CHINCHILLA, (size, tokens), loss)):
        assert (found["alpha"], found["beta"], np.exp(found["e"])) == pytest.approx((0.35, 0.37, 1.8), rel=0.05)
    assert fit(CHINCHILLA, (size, tokens), loss)["beta"] != pytest.approx(0.37, rel=0.05)


def test_absolute_deviations_are_the_least_that_brute_force_finds() -> None:
    rng, x = np.random.default_rng(1), np.geomspace(1, 100, 9)
    y = 3 / x**0.5 * np.exp(rng.laplace(0, 0.1, 9))
    found = fit_absolute(POWER, (x,), y)

    def absolute(p: np.ndarray) -> float:
        return float(np.abs(np.log(y) - p[0] + p[1] * np.log(x)).sum())

    # The optimum meets two points exactly: all pairs of points.
    pairs = [np.linalg.solve([[1, -np.log(x[i])], [1, -np.log(x[j])]], np.log(y[[i, j]])) for i in range(9) for j in range(i)]
    assert found.objective == pytest.approx(min(map(absolute, pairs)), abs=1e-9)


def test_a_free_scale_is_the_likeliest_fit() -> None:
    rng, x = np.random.default_rng(2), np.geomspace(1, 100, 30)
    y = 3 / x**0.5 * np.exp(rng.laplace(0, 0.1, 30))
    found = fit_free_scale(POWER, (x,), y)

    def loss(p: np.ndarray) -> float:
        """Minus the log-likelihood of Laplace's density, which Huber's is but for its very middle."""
        return float(np.abs(np.log(y) - p[0] + p[1] * np.log(x)).sum() / np.exp(p[2]) + 30 * (np.log(2) + p[2]))

    best = minimize(loss, [1.0, 0.5, -2.0], method="Nelder-Mead", options={"maxiter": 5000, "xatol": 1e-9, "fatol": 1e-9})
    assert found.log_likelihood == pytest.approx(-best.fun, abs=0.02)
    assert np.log(found.scale / 1e-3) == pytest.approx(best.x[2], abs=0.01)


def test_no_other_split_of_the_flops_has_less_loss() -> None:
    law = Fit(CHINCHILLA, np.array([np.log(480), 0.35, np.log(2000), 0.37, np.log(1.8)]), 0.0, 10)
    for flops in (1e18, 1e24):
        best = compute_optimal(law, flops)
        assert 6 * best.params * best.tokens == pytest.approx(flops)
        other = minimize_scalar(lambda n, c=flops: law(np.exp(n), c / 6 / np.exp(n))[0], bounds=(10, 35), method="bounded")
        assert best.loss <= other.fun + 1e-12
        assert np.log(best.params) == pytest.approx(other.x, abs=1e-3)


def test_a_law_of_one_variable_has_no_split() -> None:
    with pytest.raises(ValueError, match="fit CHINCHILLA"):
        compute_optimal(fit(OFFSET, (np.array([1.0, 2.0, 4.0, 8.0]),), [3.0, 2.0, 1.5, 1.3]), 1e20)
