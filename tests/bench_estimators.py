"""Speed of `summarize` on a million graded answers; run as `python tests/bench_estimators.py`.

Target: 1,000 problems × 100 samples × 10 cells, all k, 1,000 bootstrap draws, under 60 s and 4 GB on 2 cores.
The ratio is against a loop as peers write it: per problem and k, `math.comb` for pass@k, and the vote's dynamic programme with Python
integers (without intervals and cost, which ours includes).
"""

import json
import resource
import time
from collections import Counter
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd

import made
from thinkscale.summarize import measure, summarize

WORLD = made.World(
    models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0, 16, 32, 64, 96), num_problems=1000, num_samples=100, wrong_classes=30
)


class Bench(NamedTuple):
    """What was measured."""

    answers: int
    seconds: float
    peak_rss_gb: float
    subset_problems: int
    subset_seconds: float
    subset_loop_seconds: float
    ratio: float
    largest_difference: float


def loop_pass_at_k(n: int, c: int, k: int) -> float:
    """pass@k of one problem."""
    return 1 - comb(n - c, k) / comb(n, k)


def loop_maj_at_k(gold: int, wrong: list[int], abstain: int, k: int) -> float:
    """maj@k of one problem: ways to take m votes from the wrong classes with t of them level with gold's j."""
    n, won = gold + sum(wrong) + abstain, 0.0
    for j in range(1, min(gold, k) + 1):
        ways = {(0, 0): 1}
        for size in wrong:
            grown: Counter[tuple[int, int]] = Counter()
            for (t, m), count in ways.items():
                for i in range(min(size, j, k - j - m) + 1):
                    grown[t + (i == j), m + i] += count * comb(size, i)
            ways = grown
        won += sum(comb(gold, j) * count * comb(abstain, k - j - m) / (1 + t) for (t, m), count in ways.items()) / comb(n, k)
    return won


def loop(graded: pd.DataFrame, ks: list[int]) -> dict[tuple[str, str, str, int], float]:
    """Value of each (cell, problem, metric, k), one problem at a time."""
    values = {}
    for (cell, problem), rows in graded.groupby(["cell_id", "problem_id"], observed=True):
        gold, unforced = int(rows["correct"].sum()), int(rows["correct_unforced"].sum())
        wrong = list(rows.loc[~rows["correct"], "answer_class"].value_counts())
        for k in ks:
            values[cell, problem, "pass@k", k] = loop_pass_at_k(len(rows), gold, k)
            values[cell, problem, "unforced pass@k", k] = loop_pass_at_k(len(rows), unforced, k)
            values[cell, problem, "maj@k", k] = loop_maj_at_k(gold, wrong, len(rows) - gold - sum(wrong), k)
    return values


def bench_summarize(subset: int = 2) -> Bench:
    """Summarize a million made answers; measure a few problems of each cell also with the loop."""
    graded = made.graded(WORLD)
    start = time.perf_counter()
    summarize(graded, made.shapes(WORLD), made.chance(WORLD), draws=1000)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    few = graded[graded["problem_id"].isin(sorted(graded["problem_id"].unique())[:subset])]
    start = time.perf_counter()
    cells = measure(few)
    mine = time.perf_counter() - start
    start = time.perf_counter()
    slow = loop(few, sorted({p.k for p in cells[0].points}))
    theirs = time.perf_counter() - start
    # Per problem the whole run is cheaper than the subset (calls are shared), so the ratio is taken from the whole run.
    per_problem = seconds / (len(graded) / WORLD.num_samples)
    difference = max(
        abs(slow[cell.facts["cell_id"], problem, point.metric, point.k] - cell.estimates[row, column])
        for cell in cells
        for row, problem in enumerate(cell.problems["problem_id"])
        for column, point in enumerate(cell.points)
    )
    problems = sum(len(cell.problems) for cell in cells)
    return Bench(len(graded), seconds, peak, problems, mine, theirs, theirs / problems / per_problem, float(np.round(difference, 16)))


if __name__ == "__main__":
    print(json.dumps(bench_summarize()._asdict(), indent=1))
