"""Boards: all points on the problems that all cells share; who chooses never scores."""

import numpy as np
import pytest

import made
from thinkscale.boards import SPLITS, boards, crossfit, half_means, halves
from thinkscale.summarize import deployable, summarize

WORLD = made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0, 16), num_problems=11, num_samples=4)


def board(graded=None, draws=30):
    graded = made.graded(WORLD) if graded is None else graded
    summary = summarize(graded, made.shapes(WORLD), made.chance(WORLD), draws=20)
    return next(b for b in boards(graded, deployable(summary), draws) if b.slice == "all")


def test_values_are_the_summary_s_and_draws_are_means_of_them():
    found = board()
    assert found.accuracy.mean(axis=0) == pytest.approx(found.points["value"].to_numpy())
    assert found.replicates[7] == pytest.approx(np.average(found.accuracy, axis=0, weights=found.sample.weights[7]))


def test_a_problem_that_a_cell_lacks_is_left_out_for_all():
    graded = made.graded(WORLD)
    lacking = (graded["cell_id"] == graded["cell_id"].iloc[0]) & (graded["problem_id"] == "sums-0003")
    assert len(board(graded[~lacking]).accuracy) == WORLD.num_problems - 1


def test_cells_that_share_no_problem_have_no_board():
    graded = made.graded(WORLD)
    first = graded["problem_id"].astype(str) < "sums-0005"
    apart = graded[first == (graded["model"] == "nano-12k")]
    summary = summarize(apart, made.shapes(WORLD), made.chance(WORLD), draws=20)
    assert not [b for b in boards(apart, deployable(summary), 20) if b.slice == "all"]


def test_halves_split_clusters_and_choosing_and_scoring_never_share_a_problem():
    found = board()
    split = halves(found, 1)
    assert split.shape == (SPLITS, 11) and set(split.sum(axis=1)) == {6.0}
    first, second = half_means(found.accuracy, split)
    choices = first.argmax(axis=1), second.argmax(axis=1)
    scored = crossfit(found.accuracy, split, choices)
    for problem in range(11):  # brute force
        each = []
        for row in split:
            other = found.accuracy[row != row[problem]].mean(axis=0)
            each.append(found.accuracy[problem, int(np.argmax(np.round(other, 12)))])
        assert scored[problem] == pytest.approx(np.mean(each))


def test_a_split_in_which_nothing_was_chosen_does_not_count():
    values, split = np.array([[0.0, 1.0], [0.5, 0.25]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    none, some = np.array([-1, -1]), np.array([1, 0])
    # Split 1: problem 0 in the first half, scored by the second's choice; split 2: problem 0 in the second, scored by the first's.
    assert crossfit(values, split, (none, some)).tolist() == [1.0, 0.5]
    assert np.isnan(crossfit(values, split, (none, none))).all()
