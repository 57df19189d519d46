"""Votes: classes know no order, the weighted vote is the mean over all subsets, equal weights are maj@k."""

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.estimators import maj_at_k
from thinkscale.votes import WeightedVote, answer_classes, classes_by_problem, weighted_vote


def near(a: str, b: str) -> bool:
    """A grader that is neither symmetric nor transitive."""
    return float(a) <= float(b) <= float(a) + 0.1


numbers = st.lists(st.one_of(st.none(), st.integers(0, 12).map(lambda i: f"{i / 10}"), st.sampled_from([" 0.5", "0.50"])), max_size=10)


@given(numbers, st.randoms(use_true_random=False))
def test_classes_depend_on_neither_order_nor_repetition(answers: list[str | None], random: Any) -> None:
    of = dict(zip(answers, answer_classes(answers, near), strict=True))
    shuffled = random.sample(answers, len(answers)) + answers[:2]
    assert answer_classes(shuffled, near) == [of[a] for a in shuffled]


@given(numbers)
def test_classes_are_an_equivalence_that_holds_what_the_grader_calls_equal(answers: list[str | None]) -> None:
    found = answer_classes(answers, near)
    for (a, x), (b, y) in itertools.combinations(zip(answers, found, strict=True), 2):
        assert (a is None) == (x is None)
        if a is not None and b is not None and (near(a, b) or near(b, a) or a.strip() == b.strip()):
            assert x == y


def test_what_no_chain_of_equals_joins_stays_apart() -> None:
    assert answer_classes(["0.1", "0.9", "0.2", None, "0.3"], near) == ["0.1", "0.9", "0.1", None, "0.1"]
    assert answer_classes(["7", " 7", "07"]) == ["7", "7", "07"]
    assert answer_classes(["7", "07"], key=lambda a: str(int(a))) == ["7", "7"]


def test_classes_are_found_within_a_problem() -> None:
    assert classes_by_problem(["p", "q", "p"], ["0.1", "0.15", "0.2"], near) == ["0.1", "0.15", "0.1"]


def vote(correct: Any, answers: Any, weight: Any, *rest: Any, **options: Any) -> WeightedVote:
    """The weighted vote by weights themselves."""
    with np.errstate(divide="ignore"):
        return weighted_vote(correct, answers, np.log(np.asarray(weight, float)), *rest, **options)


def brute(rows: list[tuple[bool, str | None, float]], k: int) -> float:
    won = []
    for subset in itertools.combinations(rows, k):
        total: dict[str, float] = {}
        for _, name, weight in subset:
            if name is not None:
                total[name] = total.get(name, 0.0) + weight
        best = [name for name in total if total[name] == max(total.values())]
        won.append(("gold" in best) / max(1, len(best)))
    return float(np.mean(won))


row = st.tuples(st.sampled_from(["gold", "a", "b", None]), st.integers(0, 4)).map(lambda r: (r[0] == "gold", r[0], float(r[1])))


@given(st.lists(row, min_size=1, max_size=7), st.randoms(use_true_random=False))
def test_the_weighted_vote_is_the_mean_over_all_subsets_in_any_order(rows: list[tuple[bool, str | None, float]], random: Any) -> None:
    ks = range(1, len(rows) + 2)
    found = vote(*zip(*rows, strict=True), np.zeros(len(rows), int), ks)
    assert found.value[0, :-1] == pytest.approx([brute(rows, k) for k in ks if k <= len(rows)], abs=1e-12)
    assert np.isnan(found.value[0, -1]) and (found.error[0, :-1] == 0).all()
    shuffled = random.sample(rows, len(rows))
    assert vote(*zip(*shuffled, strict=True), np.zeros(len(rows), int), ks).value == pytest.approx(found.value, nan_ok=True)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["gold", "a", "b", "c", None]), min_size=1, max_size=9), st.floats(0.1, 10))
def test_equal_weights_are_maj_at_k(answers: list[str | None], weight: float) -> None:
    n = len(answers)
    counts = [answers.count(a) for a in ("gold", "a", "b", "c", None)]
    right = [a == "gold" for a in answers]
    found = vote(right, answers, np.full(n, weight), np.zeros(n, int), range(1, n + 1))
    assert found.value == pytest.approx(maj_at_k(counts[:1], [counts[1:4]], counts[4:], range(1, n + 1)), abs=1e-9)


def many(problems: int, n: int) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    answers = rng.choice(["gold", "a", "b", "c"], size=problems * n, p=[0.35, 0.3, 0.2, 0.15])
    return answers == "gold", answers.tolist(), rng.random(problems * n), np.repeat(np.arange(problems), n)


def test_drawn_subsets_are_off_by_no_more_than_they_say() -> None:
    right, answers, _, at = many(60, 40)
    counts = np.array([[(np.array(answers)[at == p] == a).sum() for a in ("gold", "a", "b", "c")] for p in range(60)])
    found = vote(right, answers, np.ones(len(right)), at, [8])
    z = (found.value[:, 0] - maj_at_k(counts[:, 0], counts[:, 1:], np.zeros(60), [8])[:, 0]) / found.error[:, 0]
    assert np.abs(z).max() < 4.5 and 0.7 < z.std() < 1.3


def test_the_seed_fixes_drawn_subsets_and_the_order_of_samples_does_not_change_them() -> None:
    right, answers, weight, at = many(3, 40)
    found = vote(right, answers, weight, at, [8, 16], seed="abc")
    order = np.random.default_rng(1).permutation(len(right))
    again = vote(right[order], [answers[i] for i in order], weight[order], at[order], [8, 16], seed="abc")
    assert np.array_equal(found.value, again.value)
    assert not np.array_equal(found.value, vote(right, answers, weight, at, [8, 16], seed="abd").value)


def test_each_problem_has_its_own_number_of_samples() -> None:
    found = vote([True, False, True], ["g", "x", "g"], [1.0, 2.0, 1.0], [0, 0, 1], [1, 2]).value
    assert found[0].tolist() == [0.5, 0.0]
    assert found[1, 0] == 1 and np.isnan(found[1, 1])


def test_weights_smaller_than_any_float_still_tell_answers_apart() -> None:
    rows = [(True, "gold", -760.0), (False, "a", -900.0), (False, "b", -901.0), (False, "b", -902.0), (False, "c", 0.0)]
    right, answers, logs = zip(*rows, strict=True)
    assert weighted_vote(right[:4], answers[:4], logs[:4], [0] * 4, [1, 2, 4]).value[0].tolist() == [0.25, 0.5, 1.0]
    lone = weighted_vote(right, answers, logs, [0] * 5, [2]).value  # those without the heaviest, too: gold wins 3 of 10 pairs
    assert lone[0, 0] == pytest.approx(0.3)


@pytest.mark.parametrize("log_weight", [np.inf, np.nan])
def test_weights_that_are_none_are_refused(log_weight: float) -> None:
    with pytest.raises(ValueError, match="logarithms of weights must be numbers"):
        weighted_vote([True], ["g"], [log_weight], [0], [1])


@pytest.mark.slow
def test_a_hundred_thousand_samples_are_a_matter_of_seconds() -> None:
    start = time.perf_counter()
    vote(*many(1000, 100), [2, 8, 32])
    assert time.perf_counter() - start < 120
