"""Forecasts of the largest size: intervals cover, scores are what they say, and where there is nothing to go on there is no forecast."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from thinkscale.forecast import METHODS, PREVIOUS, WIDEST, by_size, crps, forecast
from thinkscale.tidy import complete

SIZES = np.geomspace(1e4, 1e6, 6)


def models(loss: np.ndarray | float = np.nan, family: str = "made", sizes: np.ndarray = SIZES) -> pd.DataFrame:
    """A catalogue of made models."""
    names = [f"m{i}" for i in range(len(sizes))]
    about = {"family": family, "params": sizes.astype(int), "training_tokens": 1e6, "bits_per_byte": loss}
    return pd.DataFrame(about, index=names)


def answers(share: np.ndarray, n: int = 8, sizes: np.ndarray = SIZES, seed: int | None = None) -> pd.DataFrame:
    """Graded rows: problems × sizes of P(right), drawn, or as near to it as n samples allow where there is no seed."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, params in enumerate(sizes):
        p = np.repeat(share[:, i], n)
        right = rng.random(len(p)) < p if seed is not None else _staggered(len(share), n) < p
        problem = np.repeat([f"p{q:03d}" for q in range(len(share))], n)
        index = np.tile(np.arange(n), len(share))
        named = {"model": f"m{i}", "params": int(params), "problem_id": problem, "sample_index": index, "correct": right}
        parts.append(pd.DataFrame(named))
    return complete(pd.concat(parts, ignore_index=True))


def _staggered(problems: int, n: int) -> np.ndarray:
    """Thresholds that no two samples share: the mean over problems is the share to 1 / (problems × n)."""
    return np.asarray((np.arange(n)[None, :] + (np.arange(problems)[:, None] + 0.5) / problems) / n).ravel()


def table(graded: pd.DataFrame, about: pd.DataFrame | None = None, chance: float = 0.0, draws: int = 200) -> pd.DataFrame:
    """The forecast table."""
    return forecast(by_size(graded, {"all": chance}, models() if about is None else about, draws))


def rows(frame: pd.DataFrame, method: str, left_out: int = 1, k: int = 1) -> dict[str, object]:
    """The one row."""
    (row,) = frame[(frame["method"] == method) & (frame["left_out"] == left_out) & (frame["k"] == k)].to_dict("records")
    return row


def mean_curve(values: np.ndarray, problems: int = 50) -> np.ndarray:
    """All problems alike."""
    return np.tile(values, (problems, 1))


@pytest.mark.parametrize("method", ["PassUntil", "logit", "loss"])
@pytest.mark.parametrize("left_out", [1, 2])
def test_a_skill_that_follows_the_method_s_law_is_foretold(method: str, left_out: int) -> None:
    x, chance = np.log(SIZES / 1e4), 0.1
    loss = 2.0 * (SIZES / 1e4) ** -0.2
    u = {"PassUntil": np.exp(-4 * np.exp(-0.5 * x)), "logit": 1 / (1 + np.exp(3.5 - 0.9 * x)), "loss": np.exp(-2.5 * loss)}[method]
    graded = answers(mean_curve(chance + (1 - chance) * u, 60), n=8)
    row = rows(table(graded, models(loss), chance), method, left_out)
    assert row["predicted"] == pytest.approx(chance + (1 - chance) * u[-1], abs=0.02)
    assert row["covered"] and row["skill_score"] > 0.8
    assert row["num_sizes"] == 6 - left_out


def test_intervals_cover_what_the_largest_size_really_does() -> None:
    rng, covered, x = np.random.default_rng(0), [], np.log(SIZES / 1e4)
    for world in range(25):
        size = -2.5 + 0.8 * x + rng.normal(0, 0.25, len(x))  # each size is one training run, and luck has a part in it
        share = 1 / (1 + np.exp(-(size + rng.normal(0, 1, (40, 1)))))
        found = table(answers(share, 4, seed=world), draws=100)
        covered += [bool(rows(found, method)["covered"]) for method in ("logit", "PassUntil")]
    assert np.mean(covered) > 0.86


def test_the_previous_size_scores_nothing_by_definition_and_its_error_is_the_step() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.55, 0.7])
    found = table(answers(mean_curve(values), n=100))
    for left_out, previous in ((1, 0.55), (2, 0.4)):
        row = rows(found, PREVIOUS, left_out)
        assert (row["predicted"], row["crps"], row["skill_score"]) == pytest.approx((previous, 0.7 - previous, 0.0))
    other = rows(found, "logit")
    assert other["skill_score"] == pytest.approx(1 - other["crps"] / 0.15)


def test_every_skill_has_its_row_of_every_method() -> None:
    found = table(answers(mean_curve(np.full(6, 0.5))))
    for k, methods in ((1, set(METHODS) - {"beta-binomial"}), (8, set(METHODS))):
        for left_out in (1, 2):
            assert set(found[(found["k"] == k) & (found["left_out"] == left_out)]["method"]) == methods
    assert rows(found, "loss")["outcome"] == "no forecast: the loss of a size is not known"


def test_a_skill_that_appears_at_the_largest_size_is_not_foretold() -> None:
    values = np.array([0.0, 0.0, 0.0, 0.0, 0.05, 0.9])
    row = rows(table(answers(mean_curve(values), n=100)), "PassUntil")
    assert row["outcome"] == "no forecast: 1 of the smaller sizes above chance, a line needs 3"
    assert np.isnan(row["predicted"]) and np.isnan(row["skill_score"]) and row["covered"] is None


def test_guessing_is_not_a_skill_to_draw_a_line_through() -> None:
    found = table(answers(np.full((60, 6), 0.25), 8, seed=1), chance=0.25)
    assert rows(found, "logit")["outcome"].startswith("no forecast")


def test_an_interval_that_says_nothing_is_no_forecast_and_keeps_its_numbers() -> None:
    values = np.array([0.1, 0.6, 0.2, 0.7, 0.3, 0.5])
    row = rows(table(answers(mean_curve(values), n=100)), "logit")
    assert row["high"] - row["low"] > WIDEST and row["outcome"].startswith("no forecast: the interval spans")
    assert row["low"] < row["predicted"] < row["high"]


@pytest.mark.parametrize(("count", "said"), [(2, "no forecast"), (3, "no forecast")])
def test_two_or_three_sizes_are_too_few(count: int, said: str) -> None:
    found = table(answers(mean_curve(np.linspace(0.3, 0.6, count)), sizes=SIZES[:count]))
    assert found[found["method"] != PREVIOUS]["outcome"].str.startswith(said).all()
    assert (found[(found["method"] == PREVIOUS) & (found["left_out"] == 1)]["outcome"] == "forecast").all()


def test_one_size_is_no_ladder() -> None:
    assert table(answers(mean_curve(np.array([0.5])), sizes=SIZES[:1])).empty


def test_checkpoints_are_no_sizes_and_families_do_not_mix() -> None:
    graded = answers(mean_curve(np.linspace(0.2, 0.7, 6)))
    early = graded[graded["model"] == "m3"].assign(model="m3-early", cell_id="early", correct=False, correct_unforced=False)
    other = graded[graded["model"] == "m4"].assign(model="other", cell_id="other")
    about = models()
    about.loc["m3-early"] = {**about.loc["m3"], "training_tokens": 1e3}
    about.loc["other"] = {**about.loc["m4"], "family": "lonely"}
    pd.testing.assert_frame_equal(table(pd.concat([graded, early, other], ignore_index=True), about), table(graded))


def test_only_problems_that_all_sizes_answered_count() -> None:
    graded = answers(mean_curve(np.linspace(0.2, 0.7, 6), 20))
    cut = graded[(graded["model"] != "m2") | (graded["problem_id"] > "p004")]
    assert set(table(cut)["num_problems"]) == {15}


def test_many_samples_are_forecast_from_the_spread_of_problems() -> None:
    rng, x = np.random.default_rng(3), np.log(SIZES / 1e4)
    mean, total = 1 / (1 + np.exp(3.0 - 0.5 * x)), 2.0
    share = np.column_stack([rng.beta(m * total, (1 - m) * total, 600) for m in mean])
    found = table(answers(share[:300], 16, seed=4))
    row = rows(found, "beta-binomial", k=16)
    assert row["covered"] and row["predicted"] == pytest.approx(row["observed"], abs=0.05)


def test_the_score_of_a_normal_forecast_is_its_closed_form() -> None:
    draws = np.random.default_rng(7).normal(0.3, 0.1, 200_000)
    for observed in (0.3, 0.5):
        z = (observed - 0.3) / 0.1
        truth = 0.1 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
        assert crps(draws, observed) == pytest.approx(truth, rel=0.01)
    assert crps(np.full(10, 0.4), 0.5) == pytest.approx(0.1)
    assert np.isnan(crps(np.empty(0), 0.5))
