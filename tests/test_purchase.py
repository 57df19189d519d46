"""Purchases: each step leads where it says, gains are paired, the best is the best by brute force, the degenerate is told honestly."""

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale import schema
from thinkscale.advice import worth_buying
from thinkscale.boards import boards
from thinkscale.curves import About
from thinkscale.purchase import BOUGHT, LEAST_COST, next_steps, purchases
from thinkscale.summarize import deployable, summarize

KEY = ["cell_id", "slice", "metric", "k"]


def tables(world, draws=200, change=None):
    graded = made.graded(world)
    summary = summarize(graded, made.shapes(world), made.chance(world), draws=20)
    if change is not None:
        change(summary)
    return boards(graded, deployable(summary), draws), summary


def points(*rows):
    columns = ("model", "params", "thinking_budget", "metric", "k")
    same = {"prompt": "question", "route": "cut", "sampling": "temperature=1,top_p=1,top_k=-1,min_p=0"}
    frame = pd.DataFrame([{**same, **dict(zip(columns, row, strict=True))} for row in rows])
    return frame.assign(thinking_level=frame["thinking_budget"])


def led(frame, about=None):
    steps = next_steps(frame, about or {})
    return {(int(a), BOUGHT[b]): int(e) for a, e, b in zip(steps.start, steps.end, steps.bought, strict=True)}


def test_each_route_leads_to_its_next_step_and_nowhere_else():
    frame = points(
        ("a", 10, 0, "pass@k", 1),
        ("a", 10, 16, "pass@k", 1),
        ("b", 20, 0, "pass@k", 1),
        ("c", 40, 0, "pass@k", 1),
        ("a", 10, 0, "maj@k", 2),
        ("a", 10, 0, "maj@k", 4),
    )
    bigger, longer, more = BOUGHT
    assert led(frame) == {(0, bigger): 2, (2, bigger): 3, (0, longer): 1, (0, more): 5, (4, more): 5}


def test_two_votes_are_bought_where_four_are_not_to_be_had():
    assert led(points(("a", 10, 0, "pass@k", 1), ("a", 10, 0, "maj@k", 2))) == {(0, "sample more"): 1}


def test_the_next_budget_is_the_one_closest_to_twice():
    frame = points(*(("a", 10, b, "pass@k", 1) for b in (0, 8, 10, 14, 40, 64)))
    assert led(frame) == {(i, "think longer"): j for i, j in ((0, 1), (1, 3), (2, 3), (3, 4), (4, 5))}


def test_families_do_not_mix_and_a_checkpoint_is_no_size():
    frame = points(("a", 10, 0, "pass@k", 1), ("b-early", 20, 0, "pass@k", 1), ("b", 20, 0, "pass@k", 1), ("x", 15, 0, "pass@k", 1))
    about = {"a": About("f", 100), "b-early": About("f", 50), "b": About("f", 100), "x": About("g", 100)}
    assert led(frame, about) == {(0, "bigger"): 2}


def test_prompts_routes_and_greedy_answers_do_not_mix():
    frame = points(("a", 10, 0, "pass@k", 1), ("b", 20, 0, "pass@k", 1), ("b", 20, 16, "pass@k", 1))
    for column, value in (("prompt", "other"), ("route", "effort=low"), ("sampling", "temperature=0,top_p=1,top_k=-1,min_p=0")):
        assert led(frame.assign(**{column: np.where(frame["model"] == "b", value, frame[column])})) == {(1, "think longer"): 2}


WORLD = made.World(models=("nano-12k", "nano-50k", "nano-1m"), benchmarks=("sums",), num_problems=30, num_samples=8)


def test_gains_are_the_summary_s_differences_and_shares_add_up():
    found, summary = tables(WORLD)
    table = purchases(found, {})
    value = summary.set_index(KEY)["value"]
    assert table["gain"].to_numpy() == pytest.approx(
        [value[tuple(row)] for row in table[["to_cell_id", "slice", "to_metric", "to_k"]].itertuples(index=False)]
        - table["value"].to_numpy()
    )
    assert (table["low"] <= table["gain"] + 1e-9).all() and (table["gain"] <= table["high"] + 1e-9).all()
    each = table.groupby([*KEY, "reach", "axis"]).agg(best=("share_best", "sum"), nothing=("share_nothing", "first"), rows=("k", "size"))
    assert (each["best"] + each["nothing"]).to_numpy() == pytest.approx(1.0)
    assert (
        table.set_index([*KEY, "reach", "axis"])["num_open"]
        .groupby(level=[*KEY, "reach", "axis"])
        .first()
        .equals(each["rows"].astype("int32").rename("num_open"))
    )
    cost = summary.set_index(KEY)["cost_flops"]
    flops = table[table["axis"] == "flops"]
    ends = flops[["to_cell_id", "slice", "to_metric", "to_k"]].itertuples(index=False)
    paid = np.array([cost[tuple(e)] / cost[tuple(s)] for e, s in zip(ends, flops[KEY].itertuples(index=False), strict=True)])
    assert flops["cost_ratio"].to_numpy() == pytest.approx(paid)
    assert flops["per_doubling"].to_numpy() == pytest.approx((flops["gain"] / np.log2(np.maximum(paid, LEAST_COST))).to_numpy())


@pytest.mark.parametrize("reach", ["next", "further"])
def test_the_share_of_the_best_is_that_of_a_loop_over_draws(reach):
    (board, *_), _ = tables(WORLD, draws=40)
    plain = board.points[board.points["metric"].isin(["pass@k", "maj@k"])]
    table, steps = purchases([board], {}), led(plain.reset_index(drop=True))
    table = table[(table["axis"] == "kv_bytes") & (table["reach"] == reach)]
    number = {(r.cell_id, r.metric, r.k): i for i, r in enumerate(plain.itertuples())}
    cost = plain["cost_kv_bytes"].to_numpy()

    def ends(start, bought):
        found, end = [], steps.get((start, bought))
        while end is not None:
            found.append(end)
            end = steps.get((end, bought)) if reach == "further" else None
        return found

    def rate(values, start, bought):
        each = {e: (values[e] - values[start]) / np.log2(max(cost[e] / cost[start], LEAST_COST)) for e in ends(start, bought)}
        best = max(each, key=lambda e: each[e])
        return best, each[best]

    columns = plain.index.to_numpy()
    for key, rows in table.groupby(KEY):
        start = number[(key[0], key[2], key[3])]
        won = dict.fromkeys(rows["bought"], 0.0)
        for draw in board.replicates[:, columns]:
            rates = {bought: rate(draw, start, bought)[1] for bought in won}
            best = [name for name, x in rates.items() if x == max(rates.values()) and x > 0]
            for name in best:
                won[name] += 1 / len(best) / len(board.replicates)
        assert dict(zip(rows["bought"], rows["share_best"], strict=True)) == pytest.approx(won)
        for r in rows.itertuples():
            end, per_doubling = rate(board.accuracy[:, columns].mean(axis=0), start, r.bought)
            assert number[(r.to_cell_id, r.to_metric, r.to_k)] == end and r.per_doubling == pytest.approx(per_doubling)


def test_where_a_short_thought_gains_nothing_and_a_long_one_much_looking_further_says_so():
    graded = made.graded(made.World(models=("nano-50k",), benchmarks=("sums",), budgets=(0, 8, 64), num_problems=80, difficulties=(1.0,)))
    right = np.random.default_rng(2).random(len(graded)) < graded["thinking_budget"].map({0: 0.2, 8: 0.2, 64: 0.9}).astype(float)
    answer = pd.Series(np.where(right, "gold", "wrong"), dtype="str")
    graded = graded.assign(correct=right, correct_unforced=right, answer_class=answer, extracted_answer=answer)
    summary = summarize(graded, {"nano-50k": made.shape("nano-50k")}, {"sums": 0.1}, draws=20)
    table = purchases(boards(graded, deployable(summary), 200), {})
    start = table[(table["k"] == 1) & (table["thinking_budget"] == 0) & (table["bought"] == "think longer") & (table["axis"] == "flops")]
    near, far = (start[start["reach"] == reach].iloc[0] for reach in ("next", "further"))
    assert near["to_thinking_budget"] == 8 and near["low"] < 0 < near["high"]
    assert far["to_thinking_budget"] == 64 and far["low"] > 0.5 and far["share_best"] > 0.99
    assert "one answer of nano-50k at budget 0, looking further along each route: think longer is the best" in worth_buying(table)[1].text


def test_where_only_thinking_helps_it_is_the_best_purchase_and_the_sentence_says_so():
    world = made.World(models=("nano-12k", "nano-25k"), benchmarks=("sums",), budgets=(0, 64), num_problems=150, num_samples=8)
    found, _ = tables(
        world,
        change=lambda summary: summary.update(summary["cost_flops"].where(summary["thinking_budget"] == 0, summary["cost_flops"] / 4)),
    )
    table = purchases(found, {"nano-12k": About("one"), "nano-25k": About("another")})
    start = table[(table["slice"] == "all") & (table["k"] == 1) & (table["thinking_budget"] == 0) & (table["axis"] == "flops")]
    longer = start[start["bought"] == "think longer"]
    assert (longer["share_best"] > 0.95).all() and "bigger" not in set(start["bought"])
    (finding,) = worth_buying(table)
    assert finding.text.startswith("sums, one answer of nano-12k to nano-25k at budget 0: think longer is the best next purchase (in ")
    row = table.set_index(list(schema.PURCHASE.key)).loc[tuple(finding.row[name] for name in schema.PURCHASE.key)]
    assert (row["gain"], row["low"], row["high"]) == (finding.value, finding.low, finding.high)


def test_one_size_one_budget_and_one_sample_have_nothing_to_buy():
    found, _ = tables(made.World(models=("nano-12k",), benchmarks=("sums",), budgets=(0,), num_samples=1, num_problems=10))
    table = purchases(found, {})
    assert table.empty and list(table.columns) == schema.PURCHASE.names and worth_buying(table) == []


def test_one_problem_is_no_ground_for_advice():
    found, _ = tables(made.World(benchmarks=("sums",), num_problems=1, num_samples=4, difficulties=(1.0,)))
    assert purchases(found, {}).empty


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_where_all_are_right_or_wrong_nothing_gains_and_the_interval_still_has_room(flat):
    found, _ = tables(made.World(benchmarks=("sums",), num_problems=20, num_samples=4, flat=flat))
    table = purchases(found, {})
    assert (table["gain"] == 0).all() and (table["share_nothing"] == 1).all() and (table["share_best"] == 0).all()
    assert (table["low"] < -0.1).all() and (table["high"] > 0.1).all()
    assert worth_buying(table)[0].text.startswith(
        "sums, one answer of nano-12k to nano-1m at budget 0: no purchase is shown to gain (none does in 100.0% of draws); "
    )


def test_unknown_costs_leave_gains_without_a_price():
    def unknown(summary):
        summary[[c for c in summary if c.startswith("cost_")]] = np.nan

    found, _ = tables(WORLD, change=unknown)
    table = purchases(found, {})
    assert len(table) and set(table["axis"]) == {"flops"} and table["gain"].notna().all()
    assert table[["cost_ratio", "per_doubling", "share_best", "share_nothing"]].isna().all(axis=None) and (table["num_open"] == 0).all()
    assert worth_buying(table) == []


def test_one_cell_of_unknown_cost_is_out_of_the_contest_and_the_others_are_in_it():
    def unknown(summary):
        summary.loc[summary["thinking_budget"] == 16, "cost_flops"] = np.nan

    found, _ = tables(WORLD, change=unknown)
    table = purchases(found, {})
    table = table[(table["axis"] == "flops") & (table["thinking_budget"] == 0) & (table["k"] == 1) & (table["model"] == "nano-50k")]
    table = table[table["reach"] == "next"]
    priced = table.set_index(["slice", "bought"])["share_best"]
    assert priced.xs("think longer", level="bought").isna().all() and priced.drop("think longer", level="bought").notna().all()
    assert (table["num_open"] == 2).all()
