"""Sampling until the vote is settled: accuracy and samples used, where drawing stopped, and replayed where all samples were drawn.

Why: a problem on which the samples agree needs few of them; what stopping saves, and what it costs in accuracy, is a point of its own on
the axis of compute (Adaptive-Consistency: Aggarwal et al. 2023, arXiv:2305.11860).
The rule: after each sample, v of which voted for the leading answer and w for the second, stop when P(the first is the more probable of the
two) is at least the confidence, with a uniform prior: that a Beta(v + 1, w + 1) is above a half. Samples are alike, so n of them in random
order have the law of n as they would come: the replay is unbiased for drawing so with at most n.
Where drawing really stopped (`stop:` in the YAML) a problem counts by the vote at its stop, one outcome of the same rule: unbiased too.
What it does not do: stop any drawing (see `stopping`). A sample count that the answers decided is no n of a binomial: pass@k, maj@k,
best-of-k, votes, their intervals, calibration and everything made from them are wrong on stopped data, whose rows (`stopped`: true) are
refused everywhere else (`tidy.checked`); fixed-n and stopped data never meet in one estimate.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from thinkscale import schema
from thinkscale.config import Shape, Stop
from thinkscale.inference import Ints, Pools, Resampling, generator, interval
from thinkscale.measure import row_flops
from thinkscale.stopping import samples_wanted, settled
from thinkscale.summarize import typed
from thinkscale.tidy import checked

CONFIDENCES = (0.8, 0.9, 0.95, 0.99)
_FACTS = ("cell_id", "model", "params", "benchmark", "skill", "prompt", "route", "sampling", "thinking_budget")
_WHOLE = 6  # samples up to which all orders are looked at: 720
_ORDERS = 256


class Replay(NamedTuple):
    """One problem under one confidence, means over orders of its samples."""

    value: float
    """P(the vote at the stop is right), ties in expectation; no vote is wrong."""
    used: float
    """Samples drawn."""
    spent: float
    """Cost of those."""
    error: float
    """Standard error of `value` from drawing orders; 0 where all were looked at."""


def replay(
    answer_class: Sequence[Any], correct: ArrayLike, cost: ArrayLike, confidences: Sequence[float], seed: int | str = 0
) -> list[Replay]:
    """Draw the samples of one problem in random order until the vote is settled, or all are drawn.

    Args:
        answer_class: of each sample; null abstains: it is drawn and paid for, and votes for nothing.
        correct: of each sample; a class is right or wrong, never both.
        cost: of each sample.
        confidences: at which drawing stops, one replay each.
        seed: fixes the orders, which are all of them for up to six samples.
    """
    label = pd.factorize(pd.Series(list(answer_class), dtype=object))[0]
    classes, n = max(1, int(label.max(initial=-1)) + 1), len(label)
    right = np.bincount(label[label >= 0], weights=np.asarray(correct, float)[label >= 0], minlength=classes) > 0
    order = _orders(n, seed)
    drawn = label[order]
    votes = np.cumsum((drawn[:, :, None] == np.arange(classes)).astype(np.int64), axis=1)  # orders × samples drawn × classes
    leading = votes.max(axis=2)
    second = np.partition(votes, -2, axis=2)[:, :, -2] if classes > 1 else np.zeros_like(leading)
    sure = settled(leading, second)
    tied = (votes == leading[:, :, None]) & (leading > 0)[:, :, None]
    share = (tied & right).sum(axis=2) / np.maximum(tied.sum(axis=2), 1)
    spent = np.cumsum(np.asarray(cost, float)[order], axis=1)
    found, rows = [], np.arange(len(order))
    for confidence in confidences:
        stops = sure >= confidence
        stops[:, -1] = True
        at = stops.argmax(axis=1)
        value = share[rows, at]
        error = 0.0 if n <= _WHOLE else float(value.std() / np.sqrt(len(order)))
        found.append(Replay(float(value.mean()), float(at.mean() + 1), float(spent[rows, at].mean()), error))
    return found


def _orders(n: int, seed: int | str) -> Ints:
    if n <= _WHOLE:
        return np.array(list(permutations(range(n))), np.int64)
    return generator(seed, "adaptive").random((_ORDERS, n)).argsort(axis=1).astype(np.int64)


def adaptive(
    graded: pd.DataFrame,
    shapes: Mapping[str, Shape],
    confidences: Sequence[float] = CONFIDENCES,
    draws: int = 1000,
    seed: int | str = 0,
) -> pd.DataFrame:
    """The adaptive table (`schema.ADAPTIVE`), replayed: one row per cell and confidence, of cells with equally many samples, two or more.

    Args:
        graded: one row per answer, drawn with a fixed number of samples.
        shapes: of each model whose tokens are known.
        confidences: at which drawing stops.
        draws: bootstrap draws of problems.
        seed: fixes them and the orders.
    """
    rows = checked(graded)
    if "answer_class" not in rows:
        return typed(pd.DataFrame(columns=schema.ADAPTIVE.names), schema.ADAPTIVE)
    rows, pools, table = rows.assign(**row_flops(rows, shapes)), Pools(draws, seed), []
    for _, cell in rows.groupby("cell_id", observed=True, sort=True):
        problems = [(str(p), mine) for p, mine in cell.groupby("problem_id", observed=True, sort=True)]
        sizes = {len(mine) for _, mine in problems}
        if len(sizes) == 1 and sizes != {1}:
            facts = {name: cell[name].iloc[0] for name in _FACTS}
            table += [{**facts, **row} for row in _cell(problems, confidences, pools, (str(facts["benchmark"]), seed))]
    found = pd.DataFrame(table, columns=schema.ADAPTIVE.names)
    return typed(found.sort_values(["benchmark", "params", "model", "thinking_budget", "cell_id", "confidence"]), schema.ADAPTIVE)


def stopped(
    graded: pd.DataFrame,
    shapes: Mapping[str, Shape],
    stop: Stop,
    num_samples: int,
    num_problems: Mapping[str, int],
    draws: int = 1000,
    seed: int | str = 0,
) -> pd.DataFrame:
    """The adaptive table of data whose drawing stopped: one row per cell, of the cells that are finished.

    What a folder holds beyond a problem's stop (it was drawn before with a fixed number) is left out. So is a cell in which a problem is
    not done, since those that are done first are the easy ones.

    Args:
        graded: one row per answer, whatever its number of samples.
        shapes, draws, seed: as of `adaptive`.
        stop: the rule.
        num_samples: the most that are drawn.
        num_problems: of each benchmark; a cell with fewer is not finished.
    """
    rows = checked(graded.drop(columns="stopped", errors="ignore"))  # the one estimate that is right for such rows
    rows, pools, table = rows.assign(**row_flops(rows, shapes)), Pools(draws, seed), []
    for _, cell in rows.groupby("cell_id", observed=True, sort=True):
        used = [_used(mine, stop, num_samples) for _, mine in cell.groupby("problem_id", observed=True, sort=True)]
        finished = [mine for mine in used if mine is not None]
        facts = {name: cell[name].iloc[0] for name in _FACTS}
        if len(finished) == len(used) == num_problems[str(facts["benchmark"])]:
            sample = pools.get(
                str(facts["benchmark"]), [str(m["problem_id"].iloc[0]) for m in finished], [str(m["cluster_id"].iloc[0]) for m in finished]
            )
            table.append({**facts, **_stopped_cell(finished, stop, num_samples, sample)})
    found = pd.DataFrame(table, columns=schema.ADAPTIVE.names)
    return typed(found.sort_values(["benchmark", "params", "model", "thinking_budget", "cell_id"]), schema.ADAPTIVE)


def _used(mine: pd.DataFrame, stop: Stop, most: int) -> pd.DataFrame | None:
    """The samples of a problem up to its stop; None where more are wanted than are there."""
    classes = {int(i): None if pd.isna(c) else str(c) for i, c in zip(mine["sample_index"], mine["answer_class"], strict=True)}
    wanted = samples_wanted(classes, stop, most)
    rows = mine[mine["sample_index"] < wanted]
    return rows if len(rows) == wanted else None


def vote(answer_class: Sequence[Any], correct: ArrayLike) -> float:
    """P(the vote is right), ties in expectation; no vote is wrong."""
    classes = pd.Series(list(answer_class), dtype=object)
    votes = classes.value_counts()
    leading = votes.index[votes == votes.max()] if len(votes) else votes.index
    right = pd.Series(np.asarray(correct, float)).groupby(classes).max()
    return float(np.mean([right[name] for name in leading])) if len(leading) else 0.0


def _stopped_cell(problems: list[pd.DataFrame], stop: Stop, most: int, sample: Resampling) -> dict[str, Any]:
    values = np.array([[vote(mine["answer_class"].tolist(), mine["correct"].to_numpy())] for mine in problems])
    used = np.array([len(mine) for mine in problems], dtype=np.float64)
    ends = interval(values, sample)
    cost = [mine["prefill_flops"].mean() + mine["decode_flops"].sum(skipna=False) for mine in problems]
    return {
        "confidence": stop.confidence,
        "every": stop.every,
        "drawn": True,
        "value": values.mean(),
        "low": ends.low[0],
        "high": ends.high[0],
        "draw_error": 0.0,
        "mean_samples": used.mean(),
        "saved_share": 1.0 - used.mean() / most,
        "cost_flops": float(np.mean(cost)),
        "num_problems": len(problems),
        "num_samples": most,
    }


def _cell(problems: list[tuple[str, pd.DataFrame]], confidences: Sequence[float], pools: Pools, about: tuple[str, int | str]) -> list[Any]:
    benchmark, seed = about
    sample = pools.get(benchmark, [p for p, _ in problems], [str(mine["cluster_id"].iloc[0]) for _, mine in problems])
    never = [*confidences, 2.0]  # the last draws them all: the vote of n
    each = [
        replay(mine["answer_class"].tolist(), mine["correct"].to_numpy(), mine["decode_flops"].to_numpy(), never, f"{seed} {problem}")
        for problem, mine in problems
    ]
    values, used, spent, errors = (np.array([[r[i] for r in row] for row in each], dtype=np.float64) for i in range(4))
    prompt = np.array([mine["prefill_flops"].mean() for _, mine in problems])
    ends, lost = interval(values, sample), interval(values - values[:, -1:], sample, (-1.0, 1.0))
    return [
        {
            "confidence": confidence,
            "every": 1,
            "drawn": False,
            "value": values[:, i].mean(),
            "low": ends.low[i],
            "high": ends.high[i],
            "draw_error": float(np.sqrt((errors[:, i] ** 2).sum()) / len(problems)),
            "difference": (values[:, i] - values[:, -1]).mean(),
            "difference_low": lost.low[i],
            "difference_high": lost.high[i],
            "mean_samples": used[:, i].mean(),
            "saved_share": 1.0 - used[:, i].mean() / len(problems[0][1]),
            "cost_flops": (prompt + spent[:, i]).mean(),
            "fixed_value": values[:, -1].mean(),
            "fixed_cost_flops": (prompt + spent[:, -1]).mean(),
            "num_problems": len(problems),
            "num_samples": len(problems[0][1]),
        }
        for i, confidence in enumerate(confidences)
    ]
