"""Coverage beyond the samples: known worlds are forecast, laws are judged on samples they did not see, the degenerate says why not."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import betaln

from thinkscale import schema
from thinkscale.advice import beyond_samples
from thinkscale.coverage import BETA, CHOSEN, LAWS, POWER, ZEROS, coverage
from thinkscale.tidy import complete

KEY = list(schema.COVERAGE.key)


def answers(share, n, seed=0, model="m"):
    """Graded rows: n samples of problems with these chances of being right (n may differ by problem)."""
    rng, n = np.random.default_rng(seed), np.broadcast_to(n, len(share))
    problem = np.repeat([f"p{i:04}" for i in range(len(share))], n)
    rows = {"model": model, "params": 1000, "problem_id": problem, "sample_index": np.concatenate([np.arange(m) for m in n])}
    return complete(pd.DataFrame({**rows, "correct": rng.random(len(problem)) < np.repeat(share, n)}))


def world(a, b, zero, problems, seed=0):
    rng = np.random.default_rng([seed, 5])
    return rng.beta(a, b, problems) * (rng.random(problems) >= zero)


def truth(a, b, zero, k):
    return (1 - zero) * -np.expm1(betaln(a, b + k) - betaln(a, b))


def row(table, law, num_samples, k):
    return table.set_index(["law", "num_samples", "k"]).loc[(law, num_samples, k)]


@pytest.mark.parametrize(("a", "b", "zero", "law"), [(2.0, 3.0, 0.4, ZEROS), (0.4, 1.5, 0.0, BETA)])
def test_a_known_world_is_forecast_and_its_law_is_the_one_that_aic_chooses(a, b, zero, law):
    table = coverage(answers(world(a, b, zero, 400), 32), draws=200)
    chosen = row(table, CHOSEN, 32, 512)
    assert chosen["low"] <= truth(a, b, zero, 512) <= chosen["high"] and chosen["high"] - chosen["low"] < 0.2
    assert chosen["value"] == row(table, law, 32, 512)["value"] and chosen["aic"] == row(table, law, 32, 512)["aic"]
    assert (chosen["share_zeros"] > 0.95) if law == ZEROS else (chosen["share_zeros"] < 0.5)
    check = row(table, CHOSEN, 8, 24)
    assert check["error_low"] <= 0 <= check["error_high"] and abs(check["error"]) < 0.06
    assert check["error"] == pytest.approx(check["value"] - check["observed"])


def test_aic_is_that_of_the_likelihood_of_the_counts():
    from scipy.stats import betabinom

    graded = answers(world(1.0, 2.0, 0.0, 80), 8)
    found = row(coverage(graded, draws=20), BETA, 8, 8)
    right = graded.groupby("problem_id")["correct"].sum()
    assert found["aic"] == pytest.approx(4 - 2 * betabinom.logpmf(right, 8, found["alpha"], found["beta"]).sum())


def test_the_power_law_is_the_line_of_least_squares():
    graded = answers(world(0.5, 2.0, 0.0, 50), 8)
    table = coverage(graded, draws=20)
    right = graded.groupby("problem_id")["correct"].sum().to_numpy()
    ks = np.unique(np.round(np.geomspace(1, 8, 16)).astype(int))
    missed = [np.prod([(8 - right - j) / (8 - j) for j in range(k)], axis=0).clip(0).mean() for k in ks]
    slope, height = np.polyfit(np.log(ks), np.log(-np.log(1 - np.array(missed))), 1)
    found = row(table, POWER, 8, 32)
    assert (found["a"], found["b"]) == pytest.approx((-np.exp(height), slope))
    assert found["value"] == pytest.approx(np.exp(found["a"] * 32 ** found["b"]))


def test_every_law_speaks_of_the_samples_there_of_more_and_of_those_left_out():
    table = coverage(answers(world(1.0, 2.0, 0.0, 40), 16), draws=20)
    expected = {(law, *pair) for law in LAWS for pair in ((16, 16), (16, 32), (16, 64), (16, 256), (4, 12))}
    assert set(table[["law", "num_samples", "k"]].itertuples(index=False, name=None)) == expected
    assert table["observed"].notna().sum() == 2 * len(LAWS) and (table["outcome"] == "forecast").all()
    # More samples find more, in the data and at the interval's ends.
    for _, rows in table[table["num_samples"] == 16].groupby("law"):
        assert rows.sort_values("k")[["value", "low", "high"]].apply(lambda c: c.is_monotonic_increasing).all()


def test_unlike_numbers_of_samples_are_cut_to_the_fewest():
    share = world(1.0, 2.0, 0.0, 300)
    table = coverage(answers(share, np.where(np.arange(300) % 3 == 0, 8, 12)), draws=20)
    assert set(table["num_samples"]) == {8, 2}
    assert row(table, BETA, 8, 8)["observed"] == pytest.approx(np.mean(1 - (1 - share) ** 8), abs=0.07)


@pytest.mark.parametrize(
    ("share", "n", "why"),
    [
        (np.zeros(20), 8, "no sample is right"),
        (np.ones(20), 8, "every sample is right"),
        (np.full(20, 0.5), 1, "one sample a problem"),
        (np.full(1, 0.5), 8, "one problem"),
    ],
)
def test_where_there_is_nothing_to_fit_every_law_says_why(share, n, why):
    table = coverage(answers(share, n), draws=20)
    assert (table["outcome"] == f"no forecast: {why}").all() and table["value"].isna().all() and set(table["law"]) == set(LAWS)
    assert beyond_samples(table) == []


def test_two_samples_are_too_few_for_three_parameters():
    table = coverage(answers(world(1.0, 2.0, 0.3, 60), 2), draws=20)
    assert set(table["num_samples"]) == {2}
    assert (table.loc[table["law"] == ZEROS, "outcome"] == "no forecast: three parameters, and 2 samples a problem").all()
    assert row(table, CHOSEN, 2, 8)["value"] == row(table, BETA, 2, 8)["value"]


def test_too_wide_an_interval_is_no_forecast_and_keeps_its_numbers():
    table = coverage(answers(np.array([0.05, 0.1, 0.02, 0.0, 0.2, 0.0]), 4, seed=3), draws=100)
    far = row(table, BETA, 4, 64)
    assert far["outcome"].startswith("no forecast: the interval spans ") and far["high"] - far["low"] > 0.5 and 0 < far["value"] < 1


def test_the_sentence_says_what_four_times_the_samples_would_find_and_names_its_row():
    table = coverage(answers(world(0.4, 2.0, 0.0, 200), 8), draws=100)
    finding, checked = beyond_samples(table)
    found = table.set_index(KEY).loc[tuple(finding.row[c] for c in KEY)]
    assert (found["value"], found["low"], found["high"]) == (finding.value, finding.low, finding.high)
    assert "samples; in 32 it would be" in finding.text and "fitted to 2 samples it missed the other 6's" in finding.text
    assert "(interval holds 0 in " in checked.text and checked.value == abs(row(table, CHOSEN, 2, 6)["error"])


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = []
    for seed in range(150):
        table = coverage(answers(world(0.5, 2.0, 0.0, 80, seed), 16, seed), draws=200, seed=seed)
        found = row(table, BETA, 16, 64)
        held.append(found["low"] <= truth(0.5, 2.0, 0.0, 64) <= found["high"])
    assert 0.88 <= np.mean(held) <= 0.99
