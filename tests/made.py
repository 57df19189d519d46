"""A made `graded` frame with known truth: a small world in which skill grows with size and with thinking.

Why: tests and the bench need answers whose accuracy, votes and cost are known without an engine.
What it does not do: imitate any real model.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from thinkscale.config import Shape

MODELS = {
    **{"nano-12k": 12_000, "nano-25k": 25_000, "nano-50k": 50_000, "nano-100k": 100_000},
    **{"nano-200k": 200_000, "nano-450k": 450_000, "nano-1m": 1_000_000},
}
WIDTH = {"nano-12k": 32, "nano-25k": 48, "nano-50k": 64, "nano-100k": 96, "nano-200k": 128, "nano-450k": 192, "nano-1m": 256}


@dataclass(frozen=True)
class World:
    """What is made. Defaults are small."""

    models: tuple[str, ...] = ("nano-12k", "nano-50k", "nano-200k", "nano-1m")
    benchmarks: tuple[str, ...] = ("sums", "swaps")
    budgets: tuple[int, ...] = (0, 16, 64)
    num_problems: int = 40
    num_samples: int = 8
    difficulties: tuple[float, ...] = (2.0, 4.0)
    wrong_classes: int = 6
    flat: float | None = None
    """P(right) everywhere; None: it grows with size and thinking."""
    seed: int = 0


def shape(model: str) -> Shape:
    """A decoder about as big as the name says."""
    width = WIDTH[model]
    heads = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 32}
    return Shape(hidden_size=width, num_layers=2, **heads, intermediate_size=2 * width, vocab_size=128, tied=True)


def shapes(world: World) -> dict[str, Shape]:
    """Shape of each model."""
    return {m: shape(m) for m in world.models}


def chance(world: World) -> dict[str, float]:
    """Chance level of each benchmark: a tenth."""
    return {b: 0.1 for b in world.benchmarks}


def truth(world: World, benchmark: int, model: str, budget: int) -> np.ndarray:
    """P(right) of each problem: known, smooth in log size and log budget, with problems of unlike difficulty."""
    if world.flat is not None:
        return np.full(world.num_problems, world.flat)
    rng = np.random.default_rng([world.seed, benchmark, 7])
    hard = rng.normal(0.0, 1.2, world.num_problems) + 0.5 * _difficulty(world)
    skill = 0.9 * np.log(MODELS[model] / 12_000) + (0.9 - 0.4 * benchmark) * np.log1p(budget / 4) - 1.0
    return np.asarray(0.05 + 0.93 / (1 + np.exp(-(skill - hard))))


def graded(world: World) -> pd.DataFrame:
    """One row per answer, with the columns of `answers` and `grades` that carry meaning here."""
    cells = [
        _cell(world, number, benchmark, model, budget)
        for number, benchmark in enumerate(world.benchmarks)
        for model in world.models
        for budget in world.budgets
    ]
    frame = pd.concat(cells, ignore_index=True)
    ids = ("trace_set_id", "cell_id", "model", "benchmark", "skill", "prompt", "route", "sampling", "problem_id", "cluster_id", "ended")
    return frame.astype({**{c: "category" for c in (*ids, "status", "answer_finish", "engine", "grader_version")}})


def _difficulty(world: World) -> np.ndarray:
    return np.resize(np.asarray(world.difficulties), world.num_problems)


def _cell(world: World, number: int, benchmark: str, model: str, budget: int) -> pd.DataFrame:
    rng = np.random.default_rng([world.seed, number, MODELS[model], budget])
    problems, n = world.num_problems, world.num_samples
    p = np.repeat(truth(world, number, model, budget), n)
    rows = problems * n
    correct = rng.random(rows) < p
    silent = ~correct & (rng.random(rows) < 0.1)
    # Wrong answers: a few favourites and a long tail, as real ones are.
    wrong = np.minimum((rng.pareto(0.8, rows) * 1.5).astype(int), world.wrong_classes - 1)
    answer = np.where(correct, "gold", np.char.add("w", wrong.astype(str))).astype(object)
    answer[silent] = None
    wanted = rng.integers(4, 100, rows)
    thinking = np.minimum(wanted, budget)
    tokens = rng.integers(2, 5, rows)
    cut = (wanted > budget) & (budget > 0)
    problem = np.repeat([f"{benchmark}-{i:04d}" for i in range(problems)], n)
    trace_set = f"{benchmark}-{model}"
    return pd.DataFrame(
        {
            "trace_set_id": trace_set,
            "cell_id": f"{trace_set}-{budget}",
            "model": model,
            "params": MODELS[model],
            "params_active": MODELS[model],
            "params_non_embedding": MODELS[model] * 9 // 10,
            "benchmark": benchmark,
            "skill": f"made {benchmark}",
            "difficulty": np.repeat(_difficulty(world), n),
            "prompt": "question",
            "route": "cut",
            "sampling": "temperature=1,top_p=1,top_k=-1,min_p=0",
            "problem_id": problem,
            "cluster_id": problem,
            "sample_index": np.tile(np.arange(n, dtype=np.int32), problems),
            "thinking_budget": np.int32(budget),
            "ended": np.where(cut, "cut", "closed" if budget else "off"),
            "prompt_tokens": np.repeat(rng.integers(20, 40, problems), n).astype(np.int32),
            "thinking_tokens": thinking.astype(np.int32),
            "injected_tokens": np.int32(1),
            "answer_tokens": tokens.astype(np.int32),
            "completion_tokens": (thinking + 1 + tokens).astype(np.int32),
            "answer_text": "made",
            "answer_finish": "stop",
            "trace_hash": "0",
            "request_completion_tokens": tokens.astype(np.int32),
            "engine": "made",
            "correct": correct,
            "correct_unforced": correct & ~cut,
            "partial": correct.astype(float),
            "status": np.where(silent, "no_answer", "answered"),
            "extracted_answer": pd.Series(answer, dtype="str"),
            "answer_class": pd.Series(answer, dtype="str"),
            "grader_version": "made-1",
        }
    )
