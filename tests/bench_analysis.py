"""All points and comparisons of up to 10 million graded answers; run as `python tests/bench_analysis.py PROBLEMS`.

Target: 10 models × 10 budgets × 1,000 problems × 100 samples, 1,000 bootstrap draws, under 10 minutes and 8 GB on 2 cores, and time that
grows no faster than the rows.
"""

import json
import resource
import sys
import time
from typing import Any

import numpy as np
import pandas as pd

from thinkscale.boards import boards
from thinkscale.compare import compare, headline
from thinkscale.config import Shape
from thinkscale.exchange import exchange_rates, overall_rate
from thinkscale.regions import frontier_membership, win_regions
from thinkscale.summarize import deployable, summarize

MODELS, BUDGETS, SAMPLES, DRAWS = 10, 10, 100, 1000
WRONG = 30
"""Wrong answers that a problem may get: a few favourites and a long tail, as real ones are."""


def table(models: int, budgets: int, problems: int, samples: int, seed: int = 0) -> pd.DataFrame:
    """Graded answers of models that grow by half a decade in a benchmark; ids are categories, as `graded.read_graded` gives them.

    Skill grows with size and with thinking; problems are unlike; every tenth wrong answer is none.
    """
    rng = np.random.default_rng(seed)
    shape = (models, budgets, problems, samples)
    size, spent, hard = np.arange(models), np.arange(budgets), rng.normal(0.0, 1.5, problems)
    skill = 0.8 * size[:, None, None] + 0.5 * spent[None, :, None] - 5.0 - hard
    right = rng.random(shape, dtype=np.float32) < (0.98 / (1 + np.exp(-skill)))[..., None]
    wrong = np.minimum(rng.standard_exponential(shape, dtype=np.float32) ** 2 * 3, WRONG - 1).astype(np.int8)
    wrong[rng.random(shape, dtype=np.float32) < 0.1] = -2
    answer = np.where(right, np.int8(0), wrong + np.int8(1)).ravel()
    right = right.ravel()
    caps = np.where(spent > 0, 2 ** (spent + 3), 0).astype(np.int32)
    wanted = rng.integers(4, 2048, shape, dtype=np.int32)
    cut = (wanted > caps[None, :, None, None]) & (caps > 0)[None, :, None, None]
    thinking = np.minimum(wanted, caps[None, :, None, None]).ravel()
    prompt = np.broadcast_to(rng.integers(20, 40, problems, dtype=np.int32)[:, None], shape).ravel()

    def named(names: list[str], axis: int | None = None, codes: Any = None) -> pd.Categorical:
        """One name for each place along an axis of `shape`; without one, by code."""
        if axis is not None:
            codes = np.arange(len(names), dtype=np.int32).reshape([-1 if i == axis else 1 for i in range(4)])
        return pd.Categorical.from_codes(np.broadcast_to(codes, shape).ravel(), categories=names)

    who, ids = [f"m{i}" for i in size], [f"p{i:04d}" for i in range(problems)]
    params = np.repeat(parameters(models), budgets * problems * samples)
    cells = np.arange(models * budgets, dtype=np.int32).reshape(models, budgets, 1, 1)
    one = {name: named(["all"], codes=np.int8(0)) for name in ("benchmark", "skill", "prompt", "route", "sampling")}
    return pd.DataFrame(
        {
            **one,
            "cell_id": named([f"{m} {b}" for m in who for b in caps], codes=cells),
            "model": named(who, 0),
            **{name: params for name in ("params", "params_active", "params_non_embedding")},
            "difficulty": 1.0,
            "problem_id": named(ids, 2),
            "cluster_id": named(ids, 2),
            "sample_index": np.broadcast_to(np.arange(samples, dtype=np.int32), shape).ravel(),
            "thinking_budget": np.broadcast_to(caps[None, :, None, None], shape).ravel(),
            "ended": named(["closed", "cut"], codes=cut.astype(np.int8)),
            "prompt_tokens": prompt,
            "thinking_tokens": thinking,
            "injected_tokens": np.int32(1),
            "answer_tokens": np.int32(4),
            "completion_tokens": thinking + np.int32(5),
            "correct": right,
            "correct_unforced": right & ~cut.ravel(),
            "extracted_answer": named(["gold", *(f"w{i}" for i in range(WRONG))], codes=answer.reshape(shape)),
            "answer_class": named(["gold", *(f"w{i}" for i in range(WRONG))], codes=answer.reshape(shape)),
        },
        copy=False,
    )


def parameters(models: int) -> np.ndarray:
    """Parameters of each model."""
    return (1e6 * 10 ** (0.5 * np.arange(models))).astype(np.int64)


def shapes(models: int) -> dict[str, Shape]:
    """A decoder for each model, wider from one to the next."""
    heads = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 32}
    rest = {"num_layers": 2, **heads, "vocab_size": 128, "tied": True}
    return {f"m{i}": Shape(hidden_size=int(32 * 10 ** (i / 4)), intermediate_size=int(64 * 10 ** (i / 4)), **rest) for i in range(models)}


def bench_analysis(problems: int) -> dict[str, Any]:
    """Seconds of each table, wall and processor, and the most memory of this process, the answers in it."""
    graded, known = table(MODELS, BUDGETS, problems, SAMPLES), shapes(MODELS)
    took: dict[str, float] = {}
    begun, busy = time.perf_counter(), time.process_time()

    def timed(name: str, found: pd.DataFrame) -> pd.DataFrame:
        took[name] = time.perf_counter() - begun - sum(took.values())
        return found

    summary = timed("summary", summarize(graded, known, {"all": 0.0}, DRAWS))
    pairs = timed("comparison", compare(graded, summary, DRAWS))
    timed("headline", headline(graded, summary, DRAWS))
    timed("regions", win_regions(boards(graded, deployable(summary), DRAWS)))
    timed("membership", frontier_membership(graded, summary, DRAWS))
    timed("exchange rates", exchange_rates(graded, summary, DRAWS))
    timed("overall rate", overall_rate(graded, summary, DRAWS))
    return {
        "answers": len(graded),
        "points": len(summary),
        "pairs": len(pairs),
        "seconds": sum(took.values()),
        "cpu_seconds": time.process_time() - busy,
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "took": took,
    }


if __name__ == "__main__":
    print(json.dumps(bench_analysis(int(sys.argv[1])), indent=1))
