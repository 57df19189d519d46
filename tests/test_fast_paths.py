"""What is counted once and multiplied in matrices equals a loop over problems, points and draws, on a small table with gaps."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench_analysis
from bench_estimators import loop_maj_at_k, loop_pass_at_k
from thinkscale import cost
from thinkscale.compare import compare
from thinkscale.estimators import at_every_k, pass_at_k, pass_at_k_variance
from thinkscale.inference import Resampling, resample
from thinkscale.summarize import summarize
from thinkscale.tidy import places

DRAWS = 60


def ragged(seed: int) -> pd.DataFrame:
    """Three models × three budgets × eleven problems × up to six samples, in no order; one cell lacks two problems."""
    graded = bench_analysis.table(3, 3, 11, 6, seed)
    gone = (graded["cell_id"] == "m1 16") & graded["problem_id"].isin(["p0003", "p0007"])
    kept = graded[~gone & ((graded["sample_index"] < 4) | (np.random.default_rng(seed).random(len(graded)) < 0.6))]
    difficulty = kept["problem_id"].cat.codes % 2 + 1.0
    return kept.assign(difficulty=difficulty).sample(frac=1, random_state=seed)


def one_problem(rows: pd.DataFrame, metric: str, k: int) -> float:
    """The estimate of a cell's problem, from its rows."""
    n, gold = len(rows), int(rows["correct"].sum())
    if k > n:
        return float("nan")
    if metric == "maj@k":
        wrong = [int(v) for v in rows.loc[~rows["correct"], "answer_class"].value_counts() if v]
        return loop_maj_at_k(gold, wrong, n - gold - sum(wrong), k)
    return loop_pass_at_k(n, gold if metric == "pass@k" else int(rows["correct_unforced"].sum()), k)


def drawn(values: np.ndarray, draw: Resampling) -> np.ndarray:
    """The mean over the problems of each draw, one draw at a time."""
    return np.array([sum(w * v for w, v in zip(row, values, strict=True)) for row in draw.weights])


def by_problem(graded: pd.DataFrame, row: Any) -> dict[str, pd.DataFrame]:
    rows = graded[graded["cell_id"] == row.cell_id]
    if row.slice != "all":
        rows = rows[rows["difficulty"] == float(row.slice.split("=")[1])]
    return {str(p): part for p, part in sorted(rows.groupby("problem_id", observed=True), key=lambda item: item[0])}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_summary_is_what_a_loop_over_problems_points_and_draws_gives(seed: int) -> None:
    graded, shapes = ragged(seed), bench_analysis.shapes(3)
    table = summarize(graded, shapes, {"all": 0.0}, DRAWS, seed)
    assert len(table) > 9 * 9 and table["slice"].nunique() == 3
    for row in table.sample(60, random_state=seed).itertuples():
        problems = by_problem(graded, row)
        values = np.array([one_problem(rows, row.metric, row.k) for rows in problems.values()])
        assert row.num_problems == len(problems)
        assert row.value == pytest.approx(values.mean(), abs=1e-12, nan_ok=True)
        if not np.isnan(values).any() and np.ptp(values) > 0:
            draw = resample(list(problems), DRAWS, seed, f"all {row.slice}")
            assert (row.low, row.high) == pytest.approx(np.quantile(drawn(values, draw), [0.025, 0.975]), abs=1e-11)
        flops = [np.mean(cost.prefill_flops(shapes[row.model], r["prompt_tokens"].to_numpy(float))) for r in problems.values()]
        assert row.cost_prefill_flops == pytest.approx(np.mean(flops))
        assert row.cost_tokens == pytest.approx(row.k * np.mean([r["completion_tokens"].mean() for r in problems.values()]))
        if not np.isnan(values).any():
            steps = [np.mean([max(s) for s in itertools.combinations(r["completion_tokens"], row.k)]) for r in problems.values()]
            assert row.cost_steps == pytest.approx(np.mean(steps))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_comparison_is_what_a_loop_over_pairs_problems_and_draws_gives(seed: int) -> None:
    graded = ragged(seed)
    pairs = compare(graded, summarize(graded, bench_analysis.shapes(3), {"all": 0.0}, DRAWS, seed), DRAWS, seed)
    assert {9, 11} <= set(pairs.loc[pairs["slice"] == "all", "num_problems"])
    for row in pairs.sample(40, random_state=seed).itertuples():
        sides = []
        for side in ("small", "big"):
            named = {name: getattr(row, f"{side}_{name}") for name in ("cell_id", "metric", "k")}
            found = by_problem(graded, pd.Series({**named, "slice": row.slice}))
            sides.append({p: one_problem(rows, named["metric"], named["k"]) for p, rows in found.items()})
        shared = [p for p in sides[0] if p in sides[1]]
        gap = np.array([sides[0][p] - sides[1][p] for p in shared])
        assert (row.num_problems, row.difference) == (len(shared), pytest.approx(gap.mean(), abs=1e-11))
        if np.ptp(gap) > 1e-9:
            draw = resample(shared, DRAWS, seed, f"all {row.slice}")
            assert (row.low, row.high) == pytest.approx(np.quantile(drawn(gap, draw), [0.025, 0.975]), abs=1e-11)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(41, 10**9))
def test_places_are_the_same_counted_and_sorted(numbers: list[int], size: int) -> None:
    truth, back = np.unique(numbers, return_inverse=True)
    for among in (41, size, 10**15):
        found, place = places(np.array(numbers), among)
        assert found.tolist() == truth.tolist() and place.tolist() == back.tolist()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), min_size=1, max_size=30))
def test_problems_with_equal_counts_have_the_estimate_of_one(counts: list[list[int]]) -> None:
    c, n = np.array(counts).T
    ks = [1, 2, 5, 12]
    for estimate in (pass_at_k, pass_at_k_variance):
        assert np.array_equal(at_every_k(estimate, n, c, ks), estimate(n[:, None], c[:, None], np.array(ks)[None, :]), equal_nan=True)


@pytest.mark.parametrize("right", [5, -1])
def test_impossible_counts_are_refused_at_every_k_too(right: int) -> None:
    with pytest.raises(ValueError, match="must be between 0 and n"):
        at_every_k(pass_at_k, [4, 6], [right, 2], [1])
