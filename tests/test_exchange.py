"""Exchange rate: known worlds give their known rate, what is not reached is said, order and units do not matter."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import made
from thinkscale.exchange import COLUMNS, exchange_rates, overall_rate, reach
from thinkscale.summarize import summarize
from thinkscale.tidy import complete

SIZES = (12_500, 25_000, 50_000)
SHAPES = {f"m{size}": made.shape(name) for size, name in zip(SIZES, ("nano-12k", "nano-25k", "nano-50k"), strict=True)}


def world(eta: float, problems: int = 300, n: int = 8, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """logit P(right) = skill + log2(tokens) + eta * log2(params): a doubling of parameters is worth eta doublings of tokens."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.8, problems)
    parts = []
    for size in SIZES:
        for budget in (8, 16, 32, 64, 128):
            p = 1 / (1 + np.exp(-(0.9 * (np.log2(budget / 32) + eta * np.log2(size / 25_000)) + hard + shift)))
            right = rng.random((problems, n)) < p[:, None]
            named = {"model": f"m{size}", "params": size, "thinking_budget": budget, "prompt_tokens": 1, "completion_tokens": budget}
            ids = {"problem_id": np.repeat(np.arange(problems), n).astype(str), "sample_index": np.tile(np.arange(n), problems)}
            parts.append(pd.DataFrame({**named, **ids, "correct": right.ravel()}))
    return complete(pd.concat(parts, ignore_index=True))


def rates(graded: pd.DataFrame, draws: int = 200) -> pd.DataFrame:
    summary = summarize(graded, SHAPES, {"all": 0.0}, draws=20)
    return exchange_rates(graded, summary, draws)


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
def test_a_known_rate_is_found_locally_and_over_all_sizes(eta: float) -> None:
    graded = world(eta)
    table = rates(graded)
    longer = table[table["route"] == "think longer"]
    assert list(table.columns) == list(COLUMNS)
    inside = longer[np.isfinite(longer["low"]) & np.isfinite(longer["high"])]
    assert len(inside) >= 4
    assert inside["eta"].median() == pytest.approx(eta, abs=0.15)
    assert (inside["low"] < inside["eta"]).all() and (inside["eta"] < inside["high"]).all()
    summary = summarize(graded, SHAPES, {"all": 0.0}, draws=20)
    (row,) = [r for r in overall_rate(graded, summary, 200).itertuples() if r.route == "think longer"]
    assert row.low <= eta <= row.high and row.high - row.low < 0.3 and row.r2 > 0.98 and row.sizes == 3


@pytest.mark.slow
def test_intervals_hold_the_known_rate_as_often_as_they_say() -> None:
    covered = []
    for seed in range(40):
        table = rates(world(1.5, problems=200, seed=seed))
        (row,) = table[(table["route"] == "think longer") & (table["big_x"] == 32) & (table["big_params"] == 50_000)].itertuples()
        covered.append(row.low <= 1.5 <= row.high)
    assert np.mean(covered) >= 0.85  # 95 % less three standard errors of forty worlds


def test_what_is_never_reached_is_a_bound_not_a_number() -> None:
    table = rates(world(4.0))
    longer = table[(table["route"] == "think longer") & (table["big_x"] == 128)]
    assert (longer["eta"] == np.inf).all() and (longer["share_never"] == 1).all() and (longer["low"] == np.inf).all()
    assert longer["most"].to_numpy() == pytest.approx(0.0)  # at equal tokens it is not as good: eta is above 0, and no more is known
    assert (longer["cheaper"] == "out of range").all()  # the break-even is above 0 too
    short = table[(table["route"] == "think longer") & (table["big_x"] == 16) & (table["share_never"] == 1)]
    assert (short["most"] == 3).all() and (short["cheaper"] == np.where(short["break_even_flops"] < 3, "bigger", "out of range")).all()
    assert (short["cheaper"] == "bigger").any()


def test_what_is_there_already_is_a_bound_on_the_other_side() -> None:
    table = rates(world(-3.0))
    longer = table[(table["route"] == "think longer") & (table["big_x"] == 8)]
    assert (longer["eta"] == -np.inf).all() and (longer["share_already"] == 1).all()
    assert longer["least"].to_numpy() == pytest.approx(0.0)
    assert (longer["cheaper"] == "smaller, thinking more").all()  # as good at equal tokens, and cheaper a token


def test_break_even_is_where_both_sides_cost_the_same() -> None:
    table = rates(world(1.0))
    longer = table[table["route"] == "think longer"]
    assert longer["break_even_tokens"].to_numpy() == pytest.approx(0.0)
    assert (longer["break_even_flops"] > 0).all()
    more = table[(table["route"] == "sample more") & (table["big_x"] > 1)]
    assert more["break_even_tokens"].to_numpy() == pytest.approx(0.0, abs=1e-9)


def test_samples_have_a_rate_of_their_own_at_each_budget() -> None:
    graded = world(1.0)
    more = rates(graded)
    more = more[more["route"] == "sample more"]
    assert set(more["metric"]) == {"pass@k"}  # no answers are known, so nobody votes
    assert set(more["thinking_budget"]) == {8, 16, 32, 64, 128}
    assert (more["share_never"] + more["share_already"] <= 1).all()


def test_a_level_that_guessing_reaches_has_no_rate() -> None:
    graded = world(1.0)
    summary = summarize(graded, SHAPES, {"all": 0.5}, draws=20)
    assert (exchange_rates(graded, summary, 20)["level"] > 0.5).all()


def test_the_order_of_rows_does_not_matter() -> None:
    graded = world(1.0, problems=40, n=4)
    pd.testing.assert_frame_equal(rates(graded, 50), rates(graded.sample(frac=1, random_state=1), 50))


def test_one_size_has_no_rate() -> None:
    graded = world(1.0, problems=20, n=2)
    one = graded[graded["params"] == SIZES[0]]
    summary = summarize(one, SHAPES, {"all": 0.0}, draws=20)
    assert exchange_rates(one, summary, 20).empty and overall_rate(one, summary, 20).empty


def test_problems_that_one_side_lacks_are_left_out_of_both() -> None:
    graded = world(1.0, problems=40, n=4)
    fewer = graded[(graded["params"] != SIZES[0]) | (graded["problem_id"].astype(int) < 30)]
    table = rates(fewer, 50)
    first = table["small_params"] == SIZES[0]
    assert (table.loc[first, "num_problems"] == 30).all() and (table.loc[~first, "num_problems"] == 40).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1))
def test_what_is_reached_is_reached_first_there(accuracies: list[float], level: float) -> None:
    curve = np.array([accuracies])
    x = np.arange(len(accuracies), dtype=float)
    (found,) = reach(x, curve, np.array([level]))
    best = np.maximum.accumulate(curve[0])
    if found == np.inf:
        assert best[-1] < level
    elif found == -np.inf:
        assert best[0] > level
    else:
        assert np.interp(found, x, best) == pytest.approx(level, abs=1e-6) or abs(best[0] - level) < 1e-6
