"""Sampling until the vote is settled, against a walk through every order of few samples, and what is refused."""

from fractions import Fraction
from itertools import permutations
from math import comb

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale.adaptive import CONFIDENCES, adaptive, replay, settled
from thinkscale.estimators import maj_at_k
from thinkscale.summarize import summarize
from thinkscale.tidy import TableError


def posterior(first, second):
    """P(Beta(first + 1, second + 1) > 1/2): the chance that of first + second + 1 fair coins at most `first` show heads."""
    n = first + second + 1
    return float(Fraction(sum(comb(n, i) for i in range(first + 1)), 2**n))


def walked(classes, correct, cost, confidence):
    """One sample after the other, in every order."""
    value, used, spent = [], [], []
    for order in permutations(range(len(classes))):
        votes, paid, drawn = {}, 0.0, 0
        for i in order:
            paid, drawn = paid + cost[i], drawn + 1
            if classes[i] is not None:
                votes[classes[i]] = votes.get(classes[i], 0) + 1
            counts = [*sorted(votes.values(), reverse=True), 0, 0]
            if posterior(counts[0], counts[1]) >= confidence:
                break
        leaders = [c for c, v in votes.items() if v == counts[0]]
        right = {c for c, r in zip(classes, correct, strict=True) if r}
        value.append(sum(c in right for c in leaders) / max(1, len(leaders)))
        used.append(drawn)
        spent.append(paid)
    return np.mean(value), np.mean(used), np.mean(spent)


CASES = [
    ["g", "g", "g", "g", "g"],
    ["g", "g", "a", "a", "b", None],
    ["a", "a", "a", "g", "g"],
    [None, None, "g", "a"],
    [None, None, None],
    ["g", "a"],
]


@pytest.mark.parametrize("classes", CASES, ids=str)
@pytest.mark.parametrize("confidence", [0.5, 0.75, 0.8, 0.9, 0.95, 2.0])
def test_a_replay_is_the_mean_of_a_walk_through_every_order(classes, confidence):
    correct, cost = [c == "g" for c in classes], [1.0 + i for i in range(len(classes))]
    (found,) = replay(classes, correct, cost, [confidence])
    assert (found.value, found.used, found.spent) == pytest.approx(walked(classes, correct, cost, confidence))
    assert found.error == 0


def test_the_posterior_is_the_beta_s():
    for first in range(8):
        for second in range(first + 1):
            assert settled(first, second) == pytest.approx(posterior(first, second))
    assert settled(3, 0) < 0.95 < settled(4, 0), "four samples that agree settle it at 95 %"


def test_drawn_orders_agree_with_all_of_them():
    """Eight samples have 40,320 orders: the walk over some of them stays within four standard errors of the walk over all."""
    classes = ["g", "g", "g", "a", "a", "b", None, "g"]
    correct, cost = [c == "g" for c in classes], [1.0] * 8
    (found,) = replay(classes, correct, cost, [0.85])
    value, used, _ = walked(classes, correct, cost, 0.85)
    assert found.error > 0 and abs(found.value - value) <= 4 * found.error and found.used == pytest.approx(used, abs=0.4)


def table(world=None, **changes):
    world = world or made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0, 64), num_problems=30, num_samples=6)
    rows = made.graded(world)
    return rows.assign(**changes), adaptive(rows, made.shapes(world), draws=200), made.shapes(world), made.chance(world)


def test_all_samples_are_maj_at_n_at_the_cost_that_the_summary_says():
    rows, found, shapes, chance = table()
    points = summarize(rows, shapes, chance, 100).set_index(["cell_id", "slice", "metric", "k"])
    assert len(found) == 4 * len(CONFIDENCES)
    for row in found.to_dict("records"):
        whole = points.loc[(row["cell_id"], "all", "maj@k", 6)]
        assert row["fixed_value"] == pytest.approx(whole["value"]) and row["fixed_cost_flops"] == pytest.approx(whole["cost_flops"])
        assert row["cost_flops"] <= row["fixed_cost_flops"] and row["low"] <= row["value"] <= row["high"]
        assert row["mean_samples"] == pytest.approx(6 * (1 - row["saved_share"]))
        assert row["difference"] == pytest.approx(row["value"] - row["fixed_value"])
    used = found.sort_values(["cell_id", "confidence"])["mean_samples"].to_numpy().reshape(-1, len(CONFIDENCES))
    assert (np.diff(used, axis=1) >= 0).all(), "who wants to be surer draws more"


def test_where_all_agree_drawing_stops_as_soon_as_it_may():
    world = made.World(models=("nano-1m",), benchmarks=("sums",), budgets=(64,), num_problems=5, num_samples=6, flat=1.0)
    _, found, _, _ = table(world)
    assert found.set_index("confidence")["mean_samples"].to_dict() == {0.8: 2, 0.9: 3, 0.95: 4, 0.99: 6}
    assert found["value"].eq(1).all() and found["difference"].eq(0).all()


def test_the_vote_at_the_cap_is_the_exact_majority():
    classes = ["g", "g", "a", "a", "b", None]
    (found,) = replay(classes, [c == "g" for c in classes], [1.0] * 6, [2.0])
    assert found.value == pytest.approx(maj_at_k([2], [[2, 1]], [1], [6])[0, 0]) and found.used == 6


def test_rows_of_drawing_that_was_stopped_are_refused_by_every_estimate():
    rows, _, shapes, chance = table()
    stopped = rows.assign(stopped=rows["problem_id"] == rows["problem_id"].iloc[0])
    for estimate in (lambda: summarize(stopped, shapes, chance, 10), lambda: adaptive(stopped, shapes, draws=10)):
        with pytest.raises(TableError, match="drawing was stopped because of the answers"):
            estimate()
    summarize(rows.assign(stopped=False), shapes, chance, 10)


def test_cells_whose_problems_have_unlike_numbers_of_samples_are_left_out():
    rows, found, shapes, _ = table()
    cell = rows["cell_id"].iloc[0]
    fewer = rows[(rows["cell_id"] != cell) | (rows["problem_id"] != rows["problem_id"].iloc[0]) | (rows["sample_index"] < 3)]
    left = adaptive(pd.DataFrame(fewer), shapes, draws=50)
    assert set(found["cell_id"]) - set(left["cell_id"]) == {cell}


def test_a_replay_is_unbiased_for_stopping_on_samples_as_they_come():
    """The replay on n samples, averaged over many sets of n, is what stopping gives on samples as they come."""
    rng, law = np.random.default_rng(3), [("g", 0.5), ("a", 0.3), ("b", 0.2)]
    names, chances = zip(*law, strict=True)
    replays, fresh = [], []
    for _ in range(400):
        drawn = list(rng.choice(names, 6, p=chances))
        (found,) = replay(drawn, [c == "g" for c in drawn], [1.0] * 6, [0.85])
        replays.append((found.value, found.used))
        votes, used = dict.fromkeys(names, 0), 0
        for answer in rng.choice(names, 6, p=chances):
            votes[answer], used = votes[answer] + 1, used + 1
            first, second, _ = sorted(votes.values(), reverse=True)
            if posterior(first, second) >= 0.85:
                break
        leaders = [c for c in names if votes[c] == first]
        fresh.append((("g" in leaders) / len(leaders), used))
    gap, noise = np.mean(replays, axis=0) - np.mean(fresh, axis=0), np.std(fresh, axis=0) / 20 + np.std(replays, axis=0) / 20
    assert (abs(gap) < 3 * noise).all()
