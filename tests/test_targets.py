"""Targets: the cheapest is the cheapest by brute force, luck is told from reaching, what nobody reaches is said."""

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale import schema
from thinkscale.advice import cheapest_ways
from thinkscale.boards import boards
from thinkscale.measure import SETTING, setting_name
from thinkscale.summarize import deployable, summarize
from thinkscale.targets import targets

WORLD = made.World(models=("nano-12k", "nano-50k", "nano-1m"), benchmarks=("sums",), num_problems=24, num_samples=4)


def table_of(world, levels=(0.25, 0.5, 0.9), draws=60, change=None):
    graded = made.graded(world)
    summary = summarize(graded, made.shapes(world), made.chance(world), draws=20)
    if change is not None:
        change(summary)
    found = boards(graded, deployable(summary), draws)
    return targets(found, levels), found


def test_the_cheapest_and_its_shares_are_those_of_a_loop_over_settings_and_draws():
    table, found = table_of(WORLD)
    for board in found:
        mine = table[(table["slice"] == board.slice) & (table["axis"] == "kv_bytes")]
        names = [setting_name(*p) for p in board.points[list(SETTING)].itertuples(index=False)]
        cost, model = board.points["cost_kv_bytes"].tolist(), board.points["model"].tolist()

        def cheapest(accuracy, target, cost=cost):
            there = [i for i, a in enumerate(accuracy) if a >= target - 1e-12]
            return min(there, key=lambda i: cost[i], default=None)

        for row in mine.to_dict("records"):
            best = cheapest(board.accuracy.mean(axis=0), row["target"])
            each = [cheapest(draw, row["target"]) for draw in board.replicates]
            assert row["share_never"] == pytest.approx(np.mean([e is None for e in each]))
            if best is None:
                assert pd.isna(row["model"]) and pd.isna(row["cost"]) and pd.isna(row["share_cheapest"])
                continue
            assert row["setting"] == setting_name(*(row[c] for c in SETTING)) == names[best]
            assert row["cost"] == cost[best] and row["low"] <= row["value"] <= row["high"] and row["value"] >= row["target"]
            assert row["share_cheapest"] == pytest.approx(np.mean([e == best for e in each]))
            assert row["share_model"] == pytest.approx(np.mean([e is not None and model[e] == model[best] for e in each]))
            sure = [i for i in range(len(names)) if np.mean([d[i] >= row["target"] - 1e-12 for d in board.replicates]) >= 0.95]
            assert row["safe"] == (names[min(sure, key=lambda i: cost[i])] if sure else "")
            assert min(cost) <= row["cost_low"] <= row["cost_high"]


def test_a_higher_target_never_costs_less_and_is_never_reached_more_often():
    table, _ = table_of(WORLD, levels=(0.2, 0.4, 0.6, 0.8))
    for _, rows in table.groupby(["slice", "axis"]):
        rows = rows.sort_values("target")
        assert rows["cost"].dropna().is_monotonic_increasing and rows["share_never"].is_monotonic_increasing
        assert rows["cost"].isna().is_monotonic_increasing


def test_what_reaches_a_target_by_luck_falls_short_of_it_on_the_other_half():
    world = made.World(benchmarks=("sums",), num_problems=40, num_samples=1, difficulties=(1.0,), flat=0.5)
    table, _ = table_of(world, levels=(0.6,))
    assert (table["held_out"] < 0.58).all() and (table["safe"] == "").all()
    assert "what half of the problems choose is right in" in cheapest_ways(table)[0].text


def test_where_all_are_right_the_cheapest_of_all_is_the_cheapest_way():
    table, (board, *_) = table_of(made.World(benchmarks=("sums",), num_problems=10, num_samples=2, flat=1.0))
    flops = table[(table["axis"] == "flops") & (table["slice"] == "all")]
    assert (flops["cost"] == board.points["cost_flops"].min()).all() and (flops["share_cheapest"] == 1).all()
    assert (flops["share_never"] == 0).all() and (flops["held_out"] == 1).all() and (flops["low"] < 0.75).all()


def test_where_all_are_wrong_nobody_is_named_and_the_sentence_says_so():
    table, _ = table_of(made.World(benchmarks=("sums",), num_problems=10, num_samples=2, flat=0.0))
    assert table["cell_id"].isna().all() and (table["share_never"] == 1).all() and np.isinf(table["cost_low"]).all()
    assert table[["cost", "value", "low", "high", "held_out", "share_cheapest", "safe_cost"]].isna().all(axis=None)
    (finding,) = cheapest_ways(table)
    assert finding.text == "sums: no setting is right in 25% of its answers, nor in 100.0% of the draws."


def test_a_target_that_guessing_reaches_has_no_row():
    table, _ = table_of(WORLD, levels=(0.05, 0.1, 0.3))
    assert set(table["target"]) == {0.3}  # chance is .1


def test_a_setting_of_unknown_cost_is_no_candidate_and_an_unknown_axis_has_no_row():
    def unknown(summary):
        summary.loc[summary["model"] != "nano-1m", "cost_flops"] = np.nan
        summary["cost_kv_bytes"] = np.nan

    table, _ = table_of(WORLD, change=unknown)
    assert set(table["axis"]) == {"flops", "tokens", "steps"}
    flops = table[table["axis"] == "flops"]
    assert set(flops["model"].dropna()) == {"nano-1m"} and flops["num_points"].max() < table["num_points"].max()


def test_one_problem_and_no_cost_at_all_give_an_empty_table():
    assert table_of(made.World(benchmarks=("sums",), num_problems=1, difficulties=(1.0,)))[0].empty

    def unknown(summary):
        summary[[c for c in summary if c.startswith("cost_")]] = np.nan

    table, _ = table_of(WORLD, change=unknown)
    assert table.empty and list(table.columns) == schema.TARGETS.names and cheapest_ways(table) == []


def test_a_sentence_names_the_axes_on_which_another_model_is_cheaper_and_its_row():
    def turned(summary):
        summary["cost_dollars"] = 1e9 / summary["params"]  # the bigger the cheaper

    table, _ = table_of(WORLD, change=turned)
    finding = cheapest_ways(table)[0]
    row = table.set_index(list(schema.TARGETS.key)).loc[tuple(finding.row[c] for c in schema.TARGETS.key)]
    assert finding.value == row["cost"] and row["model"] != "nano-1m" and "nano-1m by dollars" in finding.text
