"""The scaling table: known laws come out with their intervals, what was held out was not seen, and few points make no row."""

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale.forecast import Sizes, by_size
from thinkscale.laws import JOINT, scaling_table

WORLD = made.World(models=tuple(made.MODELS), benchmarks=("sums",), budgets=(0, 16), num_problems=60, num_samples=8)
TOKENS = (1e6, 4e6, 1.6e7, 6.4e7)


def catalogue(scatter: float = 0.01, law: tuple[float, ...] = (30.0, 0.4, 300.0, 0.45, 0.3)) -> pd.DataFrame:
    """Seven sizes × four checkpoints whose loss follows Chinchilla's law."""
    rng, rows = np.random.default_rng(0), {}
    a, alpha, b, beta, e = law
    for model, params in made.MODELS.items():
        for tokens in TOKENS:
            name = model if tokens == TOKENS[-1] else f"{model}-{tokens:.0f}"
            loss = (e + a / params**alpha + b / tokens**beta) * np.exp(rng.normal(0, scatter))
            rows[name] = {"family": "made", "params": params, "training_tokens": tokens, "bits_per_byte": loss}
    return pd.DataFrame.from_dict(rows, orient="index")


@pytest.fixture(scope="module")
def skills() -> list[Sizes]:
    """Both budgets of one skill."""
    return by_size(made.graded(WORLD), made.chance(WORLD), catalogue(), 100)


def test_chinchilla_s_law_comes_out_with_its_intervals_and_beats_kaplan_s() -> None:
    table = scaling_table(catalogue(), [], 200)
    joint = table[table["against"] == JOINT].set_index("law")
    row = joint.loc["Chinchilla"]
    for name, truth in (("exponent", 0.4), ("exponent_tokens", 0.45), ("offset", 0.3)):
        assert row[f"{name}_low"] < truth < row[f"{name}_high"]
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert row["aicc"] < joint.loc["Kaplan", "aicc"]
    assert row["predicted"] == pytest.approx(row["held_out_value"], rel=0.05)
    assert (row["num_points"], row["held_out"]) == (28, "nano-1m")


def test_what_is_held_out_was_not_seen() -> None:
    plain = catalogue()
    other = plain.copy()
    other.loc[other["params"] == other["params"].max(), "bits_per_byte"] *= 3
    columns = ["among", "law", "predicted", "predicted_low", "predicted_high"]
    tables = [scaling_table(t, [], 50).query("among in ['sizes', 'all']") for t in (plain, other)]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns])
    assert not tables[1]["covered"].any()
    assert (tables[1]["held_out_value"] / tables[0]["held_out_value"]).to_numpy() == pytest.approx(3.0)


def test_each_size_s_checkpoints_are_a_law_of_tokens() -> None:
    table = scaling_table(catalogue(), [], 20)
    tokens = table[table["against"] == "training_tokens"]
    assert set(tokens["among"]) == set(made.MODELS)
    assert set(tokens["law"]) == {"power law"}  # an offset needs more than the three points that are left without the last
    assert (tokens["held_out"] == tokens["among"]).all()


def test_errors_follow_losses_per_skill_and_budget(skills: list[Sizes]) -> None:
    table = scaling_table(catalogue(), skills, 20).query("quantity == 'error'")
    assert table["thinking_budget"].tolist() == [0, 16] and (table["num_points"] == 7).all()
    for row, sizes in zip(table.to_dict("records"), skills, strict=True):
        observed = 1 - (sizes.right / sizes.samples).mean(axis=0)
        assert row["held_out_value"] == pytest.approx(observed[-1])
        assert row["scatter"] < 0.05 and row["exponent_low"] <= row["exponent"] <= row["exponent_high"]


def test_unknown_losses_and_few_sizes_make_no_row(skills: list[Sizes]) -> None:
    unknown = catalogue().assign(bits_per_byte=np.nan)
    blind = [s._replace(loss=np.full(len(s.models), np.nan)) for s in skills]
    assert scaling_table(unknown, blind, 20).empty
    few = catalogue().query("params < 40000 and training_tokens > 5e7")
    assert scaling_table(few, [s._replace(models=s.models[:3], loss=s.loss[:3]) for s in skills], 20).empty
