"""Regions and frontier: known worlds have known winners, choosing and scoring never share a problem, luck is told from standing."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale.boards import SPLITS, boards
from thinkscale.regions import frontier_membership, win_regions
from thinkscale.summarize import deployable, summarize


def tables(world: made.World) -> tuple[pd.DataFrame, pd.DataFrame]:
    graded = made.graded(world)
    return graded, summarize(graded, made.shapes(world), made.chance(world), draws=20)


def regions(graded: pd.DataFrame, summary: pd.DataFrame, num_budgets: int = 12, draws: int = 200, **told: Any) -> pd.DataFrame:
    return win_regions(boards(graded, deployable(summary), draws, told.get("seed", 0)), num_budgets, **told)


def test_where_all_settings_are_equally_good_nobody_wins() -> None:
    # The best of many equal settings looks better on the problems that chose it: that must not make a winner. Nominal: 9 of 10 undecided.
    decided = []
    for seed in range(30):
        models = ("nano-12k", "nano-25k", "nano-1m")
        world = made.World(models, ("sums",), num_problems=60, num_samples=4, difficulties=(1.0,), flat=0.5, seed=seed)
        graded, summary = tables(world)
        dearest = regions(graded, summary, num_budgets=2, seed=seed).iloc[-1]  # where both sides can afford everything
        decided.append(dearest["winner"] != "undecided")
    assert np.mean(decided) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 30)


def test_the_winner_changes_where_it_should() -> None:
    world = made.World(models=("nano-450k", "nano-1m"), benchmarks=("sums",), budgets=(0, 64), num_problems=200, num_samples=8)
    graded, summary = tables(world)
    summary.loc[(summary["model"] == "nano-1m") & (summary["thinking_budget"] == 64), "cost_flops"] *= 1000
    table = regions(graded, summary, num_budgets=10)
    table = table[table["slice"] == "all"].sort_values("budget")
    # As long as only the smaller can afford to think it wins; where both can, it does not.
    assert "smaller" in set(table["winner"].iloc[:-1]) and table["winner"].iloc[-1] != "smaller"
    assert table["win"].iloc[-1] < 0.5 < table["win"].max()
    assert (table["low"] <= table["difference"] + 1e-9).all() and (table["difference"] <= table["high"] + 1e-9).all()


def test_each_axis_has_its_own_budgets_and_an_unknown_one_none() -> None:
    graded, summary = tables(made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0, 16), num_problems=20))
    summary = summary.assign(cost_dollars=summary["cost_tokens"].where(summary["params"] < 1_000_000))
    table = regions(graded, summary, num_budgets=3, axes=("flops", "tokens", "dollars"))
    assert set(table["axis"]) == {"flops", "tokens"}  # what the biggest costs in dollars is not known
    for axis, rows in table[table["slice"] == "all"].groupby("axis"):
        assert rows["budget"].max() == pytest.approx(deployable(summary).query("slice == 'all'")[f"cost_{axis}"].max())
    ends = table[table["slice"] == "all"].sort_values("budget").groupby("axis")["difference"].last()
    assert ends["flops"] == pytest.approx(ends["tokens"])  # where all is affordable the axis does not matter


def test_there_is_one_budget_where_the_dearest_point_is_the_cheapest_of_its_side() -> None:
    world = made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0,), num_problems=20, num_samples=1)
    graded, summary = tables(world)
    table = regions(graded, summary)
    assert set(table["slice"]) >= {"all"} and not table.duplicated(["slice", "axis"]).any()
    dearest = deployable(summary).query("slice == 'all'")["cost_flops"].max()
    assert table.loc[table["slice"] == "all", "budget"].tolist() == [dearest]


def test_one_size_has_no_region() -> None:
    graded, summary = tables(made.World(models=("nano-12k",), benchmarks=("sums",), num_problems=10, num_samples=2))
    assert regions(graded, summary).empty
    assert SPLITS >= 50


def test_membership_is_sure_for_the_clear_and_shared_by_the_level() -> None:
    world = made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0, 64), num_problems=200, num_samples=8)
    graded, summary = tables(world)
    table = frontier_membership(graded, summary, draws=200).merge(summary, on=["cell_id", "slice", "metric", "k", "benchmark"])
    assert len(table) == len(summary) and table["membership"].between(0, 1).all()
    cheapest = table.sort_values("cost_flops").groupby(["slice", "metric"]).head(1)
    assert (cheapest.loc[cheapest["metric"] == "unforced pass@k", "membership"] == 1).all()
    # What stands on the frontier of the data stands there in more draws than what does not.
    assert table.loc[table["frontier"], "membership"].mean() > 0.5 > table.loc[~table["frontier"], "membership"].mean()


def test_a_point_that_costs_more_and_is_never_better_is_never_on_the_frontier() -> None:
    world = made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0, 64), num_problems=50, num_samples=4)
    graded, summary = tables(world)
    summary.loc[summary["model"] == "nano-12k", "cost_flops"] *= 1e6
    table = frontier_membership(graded, summary, draws=200).merge(summary, on=["cell_id", "slice", "metric", "k", "benchmark"])
    small = table[(table["model"] == "nano-12k") & (table["slice"] == "all") & (table["thinking_budget"] == 0)]
    assert small["membership"].to_numpy() == pytest.approx(0.0, abs=0.05)
