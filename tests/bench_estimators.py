"""Speed of pass@k and maj@k for every k; run as `python tests/bench_estimators.py`.

Target: 10 cells × 1,000 problems × 100 samples, all k from 1 to 100, at least 50 times as fast as a loop as peers write it: per problem and
k, `math.comb` for pass@k, and the vote's dynamic programme with Python integers.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from math import comb
from typing import Any, NamedTuple

import numpy as np

import bench_analysis
from thinkscale.estimators import at_every_k, maj_at_k, pass_at_k

CELLS, PROBLEMS, SAMPLES = 10, 1000, 100
LOOPED = {"pass@k": 500, "maj@k": 8}
"""Problems that the loops are timed on: on all of them the second would take two hours."""


class Bench(NamedTuple):
    """What was measured of one estimator; seconds are the processor's."""

    problems: int
    seconds: float
    loop_seconds: float
    """Of all problems, from those that were looped over."""
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


def counts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right samples, votes of each wrong class, and abstentions, of every problem of every cell."""
    graded = bench_analysis.table(CELLS, 1, PROBLEMS, SAMPLES)
    at, code = np.arange(len(graded)) // SAMPLES, graded["answer_class"].cat.codes.to_numpy().astype(int)
    votes = np.zeros((CELLS * PROBLEMS, bench_analysis.WRONG + 2), int)
    np.add.at(votes, (at, code), 1)  # code -1, no answer, counts in the last column
    return votes[:, 0], votes[:, 1:-1], votes[:, -1]


def measured(ours: Callable[[], np.ndarray], loop: Callable[[int], list[float]], looped: np.ndarray, problems: int) -> Bench:
    """Time both: the loop on some problems."""
    start = time.process_time()
    found = ours()
    seconds = time.process_time() - start
    start = time.process_time()
    slow = [loop(i) for i in looped]
    loop_seconds = (time.process_time() - start) * problems / len(looped)
    return Bench(problems, seconds, loop_seconds, loop_seconds / seconds, float(np.abs(found[looped] - slow).max()))


def bench_estimators() -> dict[str, Any]:
    """pass@k and maj@k of 10,000 problems at all k."""
    gold, wrong, abstain = counts()
    n, ks, rng = np.full(len(gold), SAMPLES), list(range(1, SAMPLES + 1)), np.random.default_rng(0)
    some = {name: rng.choice(len(gold), number, replace=False) for name, number in LOOPED.items()}
    plain = [(int(g), [int(w) for w in row if w], int(a)) for g, row, a in zip(gold, wrong, abstain, strict=True)]
    found = {
        "pass@k": measured(
            lambda: at_every_k(pass_at_k, n, gold, ks),
            lambda i: [loop_pass_at_k(SAMPLES, plain[i][0], k) for k in ks],
            some["pass@k"],
            len(gold),
        ),
        "maj@k": measured(
            lambda: maj_at_k(gold, wrong, abstain, ks), lambda i: [loop_maj_at_k(*plain[i], k) for k in ks], some["maj@k"], len(gold)
        ),
    }
    return {name: bench._asdict() for name, bench in found.items()}


if __name__ == "__main__":
    print(json.dumps(bench_estimators(), indent=1))
