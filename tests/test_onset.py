"""Onset: known curves give their known numbers, fits agree with brute force, what the data do not say is inf or NaN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from thinkscale.inference import clopper_pearson
from thinkscale.onset import compatible_elasticity, curvature, hinge, leaves_floor, pass_until, sigmoid, steadiness

X = np.linspace(4.0, 6.0, 7)


def logistic(x: np.ndarray, onset: float, width: float, ceiling: float, floor: float = 0.1) -> np.ndarray:
    return floor + (ceiling - floor) / (1 + np.exp(-(x - onset) * 4.394 / width))


@pytest.mark.parametrize(("onset", "width", "ceiling"), [(5.0, 0.8, 0.9), (4.6, 0.5, 0.6), (5.4, 1.2, 1.0)])
def test_a_known_sigmoid_is_found(onset: float, width: float, ceiling: float) -> None:
    fit = sigmoid(X, logistic(X, onset, width, ceiling)[None, :], 0.1)
    assert fit.onset[0] == pytest.approx(onset, abs=0.06)
    assert fit.ceiling[0] == pytest.approx(ceiling, abs=0.06)
    assert fit.width[0] == pytest.approx(width, rel=0.35)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_the_grid_is_about_as_good_as_a_search_from_its_best_place(values: list[float]) -> None:
    y = np.array(values)
    fit = sigmoid(X, y[None, :], 0.1)
    if not np.isfinite(fit.onset[0]):
        return
    start = np.array([fit.onset[0], fit.width[0], fit.ceiling[0]])
    sizes = ([3.5, np.diff(X).min() / 4 * 0.99, 0.1 - 1e-9], [7.0, 4.01, 1.0 + 1e-9])
    searched = least_squares(lambda p: logistic(X, *p) - y, np.clip(start, *sizes), bounds=sizes)
    error = ((logistic(X, *start) - y) ** 2).sum()
    assert error <= 2 * searched.cost + 0.02


def test_rows_are_fitted_one_by_one() -> None:
    rows = np.vstack([logistic(X, onset, 0.6, 0.9) for onset in np.linspace(4.2, 5.8, 130)])
    together = sigmoid(X, rows, 0.1)
    alone = np.concatenate([sigmoid(X, row[None, :], 0.1).onset for row in rows])
    assert together.onset.tolist() == alone.tolist()
    assert (leaves_floor(X, rows, 0.1) < together.onset).all()


@pytest.mark.parametrize("fit", [lambda y: sigmoid(X, y, 0.1).onset, lambda y: leaves_floor(X, y, 0.1)], ids=["sigmoid", "hinge"])
def test_what_lies_off_the_axis_is_infinite(fit: object) -> None:
    never, already = np.full((1, 7), 0.12), np.full((1, 7), 0.9)
    assert fit(never)[0] == np.inf  # type: ignore[operator]
    assert fit(already)[0] == -np.inf  # type: ignore[operator]


def test_a_first_sign_at_the_last_size_is_no_onset_yet() -> None:
    """0, ..., 0, then a little: the widest curve that fits has its middle beyond the last size."""
    rows = np.array([[0, 0, 0, 0, 0, 0, 0.13]])
    assert sigmoid(X, rows, 0.0).onset[0] == np.inf
    assert X[-2] - 0.03 <= leaves_floor(X, rows, 0.0)[0] < X[-1]


def test_complete_separation_puts_the_onset_between_the_neighbours() -> None:
    fit = sigmoid(X, np.array([[0.0, 0, 0, 0, 1, 1, 1]]), 0.0)
    assert X[3] < fit.onset[0] < X[4]


def test_the_floor_hinge_finds_its_knot_whatever_happens_after_the_ceiling() -> None:
    rising = 0.1 + 0.8 * np.maximum(0, X - 4.8)
    assert leaves_floor(X, rising[None, :], 0.1)[0] == pytest.approx(4.8, abs=0.02)
    capped = [leaves_floor(X, np.minimum(rising, top)[None, :], 0.1)[0] for top in (0.4, 0.5, 0.6, 0.8)]
    assert capped == pytest.approx([4.8] * 4, abs=0.17)


def test_a_curve_that_is_at_chance_at_the_first_place_leaves_it_there_or_later() -> None:
    at_chance, above = np.array([[0.12, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9]]), np.array([[0.3, 0.6, 0.9, 0.9, 0.9, 0.9, 0.9]])
    assert (leaves_floor(X, at_chance, 0.1)[0], leaves_floor(X, above, 0.1)[0]) == (X[0], -np.inf)


def test_the_hinge_is_the_best_of_all_knots() -> None:
    rng = np.random.default_rng(1)
    y = rng.random((20, 7))
    fit = hinge(X, y)
    for i, row in enumerate(y):
        line = np.polyfit(X, row, 1, full=True)[1][0]
        brute = []
        for knot in np.unique([*X[1:-1], *np.linspace(X[1], X[-2], 21)]):
            design = np.column_stack([np.ones(7), X, np.maximum(0, X - knot)])
            brute.append((np.linalg.lstsq(design, row, rcond=None)[1][0], knot))
        best = min(brute)
        assert fit.sup_f[i] == pytest.approx((line - best[0]) / (best[0] / 4))
        assert fit.knot[i] == pytest.approx(best[1])


def test_a_known_hinge_is_found_and_a_line_has_none() -> None:
    fit = hinge(X, np.vstack([1 + 0.2 * X + 1.5 * np.maximum(0, X - X[3]), 2 - 0.7 * X]))
    assert (fit.knot[0], fit.before[0], fit.change[0]) == pytest.approx((X[3], 0.2, 1.5))
    assert fit.change[1] == pytest.approx(0, abs=1e-9) and fit.line[1] == pytest.approx(-0.7) and fit.sup_f[1] == 0


def test_zero_of_204_then_27_of_204_is_compatible_with_an_elasticity_of_about_one() -> None:
    ends = clopper_pearson([0, 27], [204, 204])
    (slope,) = compatible_elasticity(np.array([27e9, 128e9]), ends.low, ends.high)
    assert slope == pytest.approx(1.03, abs=0.005)


def test_where_the_larger_may_be_at_zero_nothing_is_excluded() -> None:
    assert compatible_elasticity(np.array([1.0, 2.0]), np.array([0.1, 0.0]), np.array([0.2, 0.3])).tolist() == [-np.inf]


def test_linearity_and_breakthroughness_by_hand() -> None:
    found = steadiness(np.array([0.0, 0.1, 0.3, 0.3, 0.7]), np.zeros(5))
    assert found.linearity == pytest.approx(0.7 / np.sqrt((0.01 + 0.04 + 0 + 0.16) / 4))
    assert found.breakthroughness == pytest.approx(0.7 / np.sqrt((0.01 + 0.04) / 2)) == found.with_noise
    falling = steadiness(np.array([0.7, 0.3, 0.3, 0.1, 0.0]), np.zeros(5))
    assert falling.linearity == -found.linearity
    jump = steadiness(np.array([0.0, 0, 0, 0, 0.13]), np.full(5, 0.01))
    assert jump.breakthroughness == np.inf and jump.with_noise == pytest.approx(0.13 / np.sqrt(2e-4))
    assert steadiness(np.full(4, 0.5), np.zeros(4)) == (0.0, 0.0, 0.0)


def test_a_power_law_is_straight_in_pass_until_space_and_acceleration_is_concave() -> None:
    straight = np.exp(-2e2 * (10**X) ** -0.6)
    slowing = np.exp(-np.exp(5 - 2 * X + 0.15 * X**2))
    faster = np.exp(-np.exp(2 - 0.1 * (X - 3.5) ** 2))
    bends = curvature(X, np.vstack([straight, slowing, faster]))
    assert np.diff(pass_until(straight)) == pytest.approx(np.full(6, -0.6 * np.log(10) / 3))
    assert bends == pytest.approx([0.0, 0.3, -0.2], abs=1e-6)


def test_places_at_zero_or_one_say_nothing_of_curvature() -> None:
    assert np.isnan(pass_until(np.array([0.0, 1.0]))).all()
    assert np.isnan(curvature(X, np.array([[0, 0, 0, 0, 0.1, 0.5, 0.9]]))[0])
