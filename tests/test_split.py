"""Splits: the best of what a budget buys by brute force, known worlds have known splits, the degenerate is told honestly."""

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale import schema
from thinkscale.advice import how_to_split
from thinkscale.boards import boards, halves
from thinkscale.split import splits
from thinkscale.summarize import deployable, summarize

WORLD = made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), num_problems=22, num_samples=4)


def table_of(world, draws=50, change=None, graded=None):
    graded = made.graded(world) if graded is None else graded
    summary = summarize(graded, made.shapes(world), made.chance(world), draws=20)
    if change is not None:
        change(summary)
    found = boards(graded, deployable(summary), draws)
    return splits(found), found


def test_the_best_split_its_shares_and_its_score_are_those_of_loops():
    table, found = table_of(WORLD)
    for board in found:
        split = halves(board, 0)
        for row in table[(table["slice"] == board.slice) & (table["axis"] == "tokens")].to_dict("records"):
            points = board.points.assign(at=range(len(board.points)), mean=board.accuracy.mean(axis=0))
            points = points[(points["model"] == row["model"]) & points["metric"].isin(["pass@k", "maj@k"])]
            longest = points.loc[points["k"] == 1, "cost_tokens"].max()
            assert row["budget"] == pytest.approx(row["longest"] * longest) and np.log2(row["longest"]) % 1 == 0
            points = points[points["cost_tokens"] <= row["budget"] * (1 + 1e-12)].sort_values("cost_tokens")
            assert row["num_points"] == len(points)
            ks, budgets = points["k"].to_numpy(), points["thinking_budget"].to_numpy()

            def best(accuracy, among, points=points):
                values = np.round(accuracy[points["at"].to_numpy()], 12)[among]
                return np.arange(len(points))[among][np.argmax(values)]

            every, single = np.ones(len(points), bool), ks == 1
            chosen = best(board.accuracy.mean(axis=0), every)
            assert (row["k"], row["thinking_budget"]) == (ks[chosen], budgets[chosen])
            drawn = np.array([best(draw, every) for draw in board.replicates])
            assert row["share_best"] == pytest.approx(np.mean(drawn == chosen))
            assert row["share_votes"] == pytest.approx(np.mean(ks[drawn] > 1))
            assert ks[drawn].min() <= row["k_low"] <= row["k_high"] <= ks[drawn].max()
            for name, among in (("held_out", every), ("single", single)):
                scored = []
                for half in split:
                    for mine in (half > 0, half == 0):
                        column = points["at"].to_numpy()[best(board.accuracy[~mine].mean(axis=0), among)]
                        scored.append(board.accuracy[mine, column].sum())
                assert row[name] == pytest.approx(2 * np.sum(scored) / len(scored) / len(board.accuracy))
            assert row["difference"] == pytest.approx(row["held_out"] - row["single"])
            assert row["low"] - 1e-9 <= row["difference"] <= row["high"] + 1e-9


def world_in_which(thinking, votes):
    """Rows of one model: p(right) by thinking budget; wrong answers all differ, so votes help, or all are the same."""
    rng = np.random.default_rng(3)
    graded = made.graded(made.World(models=("nano-50k",), benchmarks=("sums",), budgets=(0, 64), num_problems=150, num_samples=8))
    right = rng.random(len(graded)) < graded["thinking_budget"].map(thinking).astype(float)
    wrong = np.array([f"w{i}" for i in range(len(graded))]) if votes else np.full(len(graded), "w")
    answer = pd.Series(np.where(right, "gold", wrong), dtype="str")
    return graded.assign(correct=right, correct_unforced=right, answer_class=answer, extracted_answer=answer)


@pytest.mark.parametrize(("thinking", "votes", "several"), [({0: 0.45, 64: 0.5}, True, True), ({0: 0.3, 64: 0.9}, False, False)])
def test_votes_are_the_best_split_where_only_they_help_and_one_thought_where_only_it_does(thinking, votes, several):
    world = made.World(models=("nano-50k",), benchmarks=("sums",))
    table, _ = table_of(world, graded=world_in_which(thinking, votes))
    row = table[(table["slice"] == "all") & (table["axis"] == "tokens") & (table["longest"] == 1)].iloc[0]
    assert (row["share_votes"] > 0.95) == several and (row["share_votes"] < 0.05) != several
    assert (row["k"] > 1) == several and (row["low"] > 0) == several
    (finding,) = how_to_split(table)
    assert ("several shorter thoughts are the best" if several else "one thought is the best") in finding.text
    found = table.set_index(list(schema.SPLIT.key)).loc[tuple(finding.row[c] for c in schema.SPLIT.key)]
    assert (found["difference"], found["low"], found["high"]) == (finding.value, finding.low, finding.high)


def test_choosing_among_equal_settings_is_not_rewarded():
    world = made.World(models=("nano-50k",), benchmarks=("sums",), num_problems=200, num_samples=2, difficulties=(1.0,), flat=0.5)
    table, _ = table_of(world)  # of two samples a vote is one: all settings are about equal
    assert (table["held_out"] < table["value"] + 1e-9).all() and (table["low"] < 0.02).all()


def test_one_budget_one_sample_or_no_known_cost_leave_nothing_to_split():
    for world in (
        made.World(models=("nano-12k",), benchmarks=("sums",), budgets=(16,)),
        made.World(models=("nano-12k",), benchmarks=("sums",), num_samples=1),
        made.World(models=("nano-12k",), benchmarks=("sums",), num_problems=1, difficulties=(1.0,)),
    ):
        table, _ = table_of(world)
        assert table.empty and list(table.columns) == schema.SPLIT.names and how_to_split(table) == []

    def unknown(summary):
        summary[[c for c in summary if c.startswith("cost_")]] = np.nan

    assert table_of(WORLD, change=unknown)[0].empty


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_where_all_is_right_or_wrong_the_cheapest_sample_is_the_split_and_nothing_is_gained(flat):
    table, _ = table_of(made.World(models=("nano-12k",), benchmarks=("sums",), num_problems=10, num_samples=4, flat=flat))
    assert (table["k"] == 1).all() and (table["thinking_budget"] == 0).all() and (table["share_best"] == 1).all()
    assert (table[["difference", "low", "high"]] == 0).all(axis=None) and (table["held_out_high"] - table["held_out_low"] > 0.2).all()


def test_a_setting_at_which_nothing_could_be_asked_is_no_split():
    def never(summary):
        unasked = summary["thinking_budget"] == 0
        summary.loc[unasked, ["cost_tokens", "cost_flops"]] = 0.0

    table, _ = table_of(WORLD, change=never)
    assert len(table) and (table["thinking_budget"] > 0).all() and (table["cost"] > 0).all()
