"""Do samples that agree mean a right answer? Agreement as confidence: its calibration, and confident wrong answers, of every cell.

Why: before a skill's onset a model may say that it does not know, by samples that scatter, or be of one mind and wrong; votes, and anybody
who takes agreement for knowledge, fail on the second.
What it does not do: use log-probabilities, or vote. A sample's confidence is the share of the problem's *other* samples with the same
answer: its expectation is the answer's probability, whatever the number of samples; without an answer it is 0.

Expected calibration error: Naeini et al. 2015; ten bins of equal width. An absolute value grows with noise: compare cells with equally
many problems and samples; `overconfidence`, its signed sister, does not.
"""

from typing import Any

import numpy as np
import pandas as pd

from thinkscale import schema
from thinkscale.findings import Finding, told_apart
from thinkscale.inference import Floats, Ints, Pools, Resampling, agreeing, interval, quantiles
from thinkscale.summarize import typed
from thinkscale.tidy import by_cell, checked, first_rows

CONFIDENT = 0.5
"""At least so many of the other samples agree."""
BINS = 10
_FACTS = ("cell_id", "model", "params", "benchmark", "skill", "prompt", "route", "sampling", "thinking_budget")


def calibration(graded: pd.DataFrame, draws: int = 1000, seed: int | str = 0) -> pd.DataFrame:
    """The calibration table (`schema.CALIBRATION`): one row per cell, of its problems with two samples and more; empty without answers.

    Args:
        graded: one row per answer.
        draws: bootstrap draws of problems.
        seed: fixes them.
    """
    rows = checked(graded)
    if "answer_class" not in rows:
        return typed(pd.DataFrame(columns=schema.CALIBRATION.names), schema.CALIBRATION)
    pools, table = Pools(draws, seed), []
    for mine in by_cell(rows):
        cell = rows.take(mine)
        problem, ids = pd.factorize(cell["problem_id"], sort=True)
        n = np.bincount(problem)
        enough = (n >= 2)[problem]
        if not enough.any():
            continue
        cell, ids = cell[enough], ids[n >= 2]
        problem = pd.factorize(cell["problem_id"], sort=True)[0]
        clusters = cell["cluster_id"].take(first_rows(problem, len(ids))).astype(str).tolist()
        facts = {name: cell[name].iloc[0] for name in _FACTS}
        draw = pools.get(str(facts["benchmark"]), [str(i) for i in ids], clusters)
        right = cell["correct"].to_numpy(dtype=bool)
        found = _measures(agreement(problem, cell["answer_class"]), right, problem, draw)
        table.append({**facts, **found, "num_problems": len(ids), "num_samples": int(n[n >= 2].min())})
    ordered = pd.DataFrame(table, columns=schema.CALIBRATION.names).sort_values(
        ["benchmark", "params", "model", "thinking_budget", "cell_id"]
    )
    return typed(ordered, schema.CALIBRATION)


def confident_before_onset(table: pd.DataFrame, emerged: pd.DataFrame) -> list[Finding]:
    """For each whole skill at its largest thinking budget the model most often wrong and of one mind, and on which side of the onset it is.

    Args:
        table: from `calibration`.
        emerged: from `emergence.emergence` of the same rows.
    """
    sized = emerged[(emerged["axis"] == "size") & (emerged["slice"] == "all")].sort_values("thinking_budget")
    shared = ["benchmark", "prompt", "route", "sampling", "thinking_budget"]
    said = []
    for row in sized.drop_duplicates([*shared[:-1], "family"], keep="last").to_dict("records"):
        cells = table[np.logical_and.reduce([table[name] == row[name] for name in shared])]
        if cells.empty:
            continue
        worst = cells.loc[cells["confident_wrong"].idxmax()].to_dict()
        share, low, high = (float(worst[f"confident_wrong{end}"]) for end in ("", "_low", "_high"))
        side = "below" if worst["params"] < row["onset"] else "above"
        apart = told_apart(row, sized[sized["benchmark"] == row["benchmark"]])
        where = f"{apart}{row['benchmark']}, thinking budget {row['thinking_budget']:.0f}"
        text = (
            f"{where}: {worst['model']}, {side} the onset, is most often wrong and of one mind: in {share:.0%} [{low:.0%}, {high:.0%}] of"
        )
        text += " its samples half of the others or more agree on a wrong answer."
        if low <= 0:
            text = f"{where}: no model is shown to be wrong and of one mind; at most {high:.0%} of {worst['model']}'s samples are."
        said.append(Finding(text, share, low, high, "calibration", {"cell_id": worst["cell_id"]}))
    return said


def agreement(problem: Ints, answer_class: pd.Series) -> Floats:
    """For each sample the share of its problem's other samples that are of its class; 0 where it has none.

    Args:
        problem: number of each sample's problem, from 0; each has two samples at least.
        answer_class: class of each sample's answer; null abstains.
    """
    code, classes = pd.factorize(answer_class)
    _, at, votes = np.unique(problem * (len(classes) + 1) + code, return_inverse=True, return_counts=True)
    others = np.bincount(problem)[problem] - 1
    return np.asarray(np.where(code < 0, 0.0, (votes[at] - 1) / others))


def _measures(confidence: Floats, right: Any, problem: Ints, draw: Resampling) -> dict[str, Any]:
    """Each number with its interval; a problem counts the same whatever the number of its samples."""
    problems = int(problem.max()) + 1
    share = 1 / np.bincount(problem)[problem]
    at = problem * BINS + np.minimum((confidence * BINS + 1e-9).astype(np.int64), BINS - 1)

    def summed(values: Any) -> Floats:
        return np.asarray(np.bincount(at, weights=values * share, minlength=problems * BINS).reshape(problems, BINS), dtype=np.float64)

    everyone = np.vstack([np.full(problems, 1 / problems), draw.weights])  # the first row is the estimate, the others are draws
    sure, true = summed(confidence), summed(right)
    error = np.abs(everyone @ (sure - true)).sum(axis=1)
    ends = quantiles(error[None, 1:])
    if np.ptp(sure - true, axis=0).max() <= 1e-12:  # all problems alike
        ends = agreeing(np.full((problems, 1), error[0]), ends, draw.cluster, (0.0, 1.0))
    (low,), (high,) = ends
    found: dict[str, Any] = {"accuracy": true.sum(axis=1).mean(), "confidence": sure.sum(axis=1).mean()}
    found.update({"ece": error[0], "ece_low": low, "ece_high": high})
    wrong = summed((confidence >= CONFIDENT) & ~right).sum(axis=1)
    for name, value, bounds in (("overconfidence", (sure - true).sum(axis=1), (-1.0, 1.0)), ("confident_wrong", wrong, (0.0, 1.0))):
        (low,), (high,) = interval(value[:, None], draw, bounds)
        found.update({name: value.mean(), f"{name}_low": low, f"{name}_high": high})
    return found
