"""What the smaller sizes would have told: every skill has its sentence, and every sentence its row."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from upath import UPath

import made
from thinkscale.foresight import Foresight, foresee
from thinkscale.plots import forecasts

WORLD = made.World(models=tuple(made.MODELS), budgets=(0, 16, 64), num_problems=60, num_samples=8)


def models(world: made.World = WORLD) -> pd.DataFrame:
    """A catalogue whose losses follow a power law."""
    params = np.array([made.MODELS[m] for m in world.models])
    loss = 2 * (params / 1e4) ** -0.2 * np.exp(np.random.default_rng(0).normal(0, 0.02, len(params)))
    return pd.DataFrame({"family": "made", "params": params, "training_tokens": 1e6, "bits_per_byte": loss}, index=list(world.models))


@pytest.fixture(scope="module")
def seen() -> Foresight:
    """Two skills at three budgets over seven sizes."""
    return foresee(made.graded(WORLD), made.chance(WORLD), models(), 200)


def test_every_sentence_s_number_and_interval_stand_in_its_row(seen: Foresight) -> None:
    tables = {"scaling": (seen.scaling, "exponent", "exponent_"), "forecast": (seen.forecast, "predicted", "")}
    found = 0
    for finding in seen.findings:
        table, value, ends = tables[finding.table]
        rows = table[np.logical_and.reduce([table[c] == v for c, v in finding.row.items()])]
        assert len(rows)
        if len(rows) == 1:
            found += 1
            assert rows[[value, f"{ends}low", f"{ends}high"]].iloc[0].tolist() == [finding.value, finding.low, finding.high]
    assert found == 1 + 2 * 2  # the loss, and each skill at the smallest and the largest budget


def test_every_skill_has_a_sentence_also_where_nothing_is_foretold() -> None:
    world = made.World(models=tuple(made.MODELS)[:3], num_problems=30, num_samples=4)
    seen = foresee(made.graded(world), made.chance(world), models(world), 50)
    said = [f.text for f in seen.findings]
    for benchmark in world.benchmarks:
        assert any(re.match(rf"{benchmark}, budget 0, without nano-50k: no forecast: .*it does \d", text) for text in said)
    assert any(text.startswith("2 largest left out: no method has a forecast for any of 6 cells") for text in said)


def test_methods_are_pooled_over_the_cells_for_which_they_had_a_forecast(seen: Foresight) -> None:
    rows = seen.forecast.query("k == 1 and left_out == 1 and method == 'logit' and outcome == 'forecast'")
    (finding,) = [f for f in seen.findings if f.text.startswith("logit, 1 largest")]
    assert f"{len(rows)} forecasts for 6 cells, {int(rows['covered'].sum())} of them" in finding.text
    previous = seen.forecast.query("k == 1 and left_out == 1 and method == 'same as the previous size'")
    kept = previous.merge(rows[["benchmark", "thinking_budget"]], on=["benchmark", "thinking_budget"])
    assert f"pooled skill score {1 - rows['crps'].sum() / kept['crps'].sum():+.2f}" in finding.text


def test_an_interval_that_holds_the_previous_size_is_said_to_show_no_difference(seen: Foresight) -> None:
    for finding in seen.findings:
        if finding.table == "forecast" and "was foretold" in finding.text and "benchmark" in finding.row:
            same = seen.forecast.query("k == 1 and left_out == 1 and method == 'same as the previous size'")
            previous = same[(same["benchmark"] == finding.row["benchmark"]) & (same["thinking_budget"] == finding.row["thinking_budget"])]
            holds = finding.low <= previous["predicted"].iloc[0] <= finding.high
            assert ("no difference from the previous size" in finding.text) == holds


def test_one_model_has_nothing_to_be_foretold_from(tmp_path: Path) -> None:
    world = made.World(models=("nano-50k",), num_problems=10, num_samples=2)
    seen = foresee(made.graded(world), made.chance(world), models(world), 20)
    assert seen.scaling.empty and seen.forecast.empty and seen.findings == []
    assert forecasts(seen.forecast, UPath(tmp_path / "forecast.png")) == []


def test_the_figure_is_drawn(seen: Foresight, tmp_path: Path) -> None:
    (path,) = forecasts(seen.forecast, UPath(tmp_path / "forecast.png"), "What was foretold?")
    assert path.read_bytes().startswith(b"\x89PNG")
