"""Could it have been foreseen? Laws and forecasts of an experiment, their tables, and the sentences that can be read off them.

Why: what the smaller sizes would have told is said for every skill, in one place, with the row that each sentence is from.
What it does not do: compute laws or forecasts (see `laws`, `forecast`), or say which method did best on these few skills: `PassUntil` is
the one named beforehand, the others stand beside it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from thinkscale.findings import Finding, told_apart
from thinkscale.forecast import METHODS, PREVIOUS, by_size, forecast
from thinkscale.inference import wilson
from thinkscale.laws import scaling_table
from thinkscale.sources import Chance

NAMED_BEFOREHAND = "PassUntil"
_ROW = ("family", "benchmark", "prompt", "route", "sampling", "thinking_budget", "k", "left_out")


class Foresight(NamedTuple):
    """What the smaller sizes would have told."""

    scaling: pd.DataFrame
    forecast: pd.DataFrame
    findings: list[Finding]


def foresee(graded: pd.DataFrame, chance: Mapping[str, Chance], models: pd.DataFrame, draws: int = 1000, seed: int | str = 0) -> Foresight:
    """The scaling and forecast tables and their findings.

    Args:
        graded: one row per answer.
        chance: accuracy of guessing, of each benchmark; or of each of its difficulties.
        models: indexed by name, with columns `family`, `params`, `training_tokens`, `bits_per_byte` (NaN where unknown).
        draws: bootstrap draws.
        seed: fixes them.
    """
    skills = by_size(graded, chance, models, draws, seed)
    laws, told = scaling_table(models, skills, draws, seed), forecast(skills, seed)
    return Foresight(laws, told, [*_losses(laws), *_skills(told), *_methods(told)])


def _losses(laws: pd.DataFrame) -> list[Finding]:
    """The power law of loss over sizes."""
    said = []
    for row in laws[(laws["against"] == "params") & (laws["law"] == "power law")].to_dict("records"):
        found, ahead = (f"[{row[f'{c}_low']:.2g}, {row[f'{c}_high']:.2g}]" for c in ("exponent", "predicted"))
        text = f"Loss of {row['family']}: bits per byte fall as parameters^-{row['exponent']:.2g} {found} over {row['num_points']} sizes; "
        text += f"from the others {row['held_out']} was to have {row['predicted']:.2g} {ahead} and has {row['held_out_value']:.2g}: "
        text += f"{_inside(row['covered'])}."
        where = {c: row[c] for c in ("family", "quantity", "against", "among", "law")}
        said.append(Finding(text, row["exponent"], row["exponent_low"], row["exponent_high"], "scaling", where))
    return said


def _skills(told: pd.DataFrame) -> list[Finding]:
    """Each skill at the smallest and the largest budget: the largest size alone left out, one sample."""
    said = []
    alone = told[(told["left_out"] == 1) & (told["k"] == 1)]
    for _, skill in alone.groupby(list(_ROW[:5]), sort=True):
        budgets = sorted(skill["thinking_budget"].unique())
        for budget in dict.fromkeys((budgets[0], budgets[-1])):
            rows = skill[skill["thinking_budget"] == budget].set_index("method").to_dict("index")
            found = _skill({str(k): v for k, v in rows.items()})
            said.append(found._replace(text=told_apart(found.row, alone) + found.text))
    return said


def _skill(rows: dict[str, dict[Any, Any]]) -> Finding:
    row, previous = rows[NAMED_BEFOREHAND], rows[PREVIOUS]["predicted"]
    where = {**{c: row[c] for c in _ROW}, "method": NAMED_BEFOREHAND}
    text = f"{row['benchmark']}, budget {row['thinking_budget']}, without {row['model']}: "
    if row["outcome"] == "forecast":
        text += f"{row['predicted']:.1%} [{row['low']:.1%}, {row['high']:.1%}] was foretold, it does {row['observed']:.1%}: "
        text += _inside(row["covered"])
        if row["low"] <= previous <= row["high"]:
            text += f"; no difference from the previous size ({previous:.1%}) was foretold"
    else:
        text += f"{row['outcome']}; it does {row['observed']:.1%}, the size before it {previous:.1%}"
    scores = [(m, rows[m]["skill_score"]) for m in METHODS if m in rows and m != PREVIOUS and rows[m]["outcome"] == "forecast"]
    listed = ", ".join(f"{m} {score:+.2f}" for m, score in scores if not np.isnan(score))
    text += f". Skill score: {listed}." if listed else "."
    return Finding(text, row["predicted"], row["low"], row["high"], "forecast", where)


def _methods(told: pd.DataFrame) -> list[Finding]:
    """How each method did over all skills and budgets, one sample; a sentence for all where none had a forecast."""
    said = []
    for left_out in (1, 2):
        rows = told[(told["k"] == 1) & (told["left_out"] == left_out) & (told["method"] != PREVIOUS)]
        if len(rows) and not (rows["outcome"] == "forecast").any():
            text = f"{left_out} largest left out: no method has a forecast for any of {(rows['method'] == NAMED_BEFOREHAND).sum()} cells."
            said.append(Finding(text, float("nan"), float("nan"), float("nan"), "forecast", {"k": 1, "left_out": left_out}))
        elif len(rows):
            both = told[(told["k"] == 1) & (told["left_out"] == left_out)]
            said += [_method(method, left_out, both) for method in METHODS if method in set(rows["method"])]
    return said


def _method(method: str, left_out: int, told: pd.DataFrame) -> Finding:
    rows = told[told["method"] == method]
    made = rows[rows["outcome"] == "forecast"]
    where = {"k": 1, "left_out": left_out, "method": method}
    text = f"{method}, {left_out} largest left out: {len(made)} forecasts for {len(rows)} cells"
    if made.empty:
        return Finding(text + ".", float("nan"), float("nan"), float("nan"), "forecast", where)
    right = int(made["covered"].sum())
    low, high = (float(v) for v in wilson(right, len(made)))
    text += f", {right} of them hold what came ({right / len(made):.0%} [{low:.0%}, {high:.0%}] if cells were independent)"
    rival = float(made.merge(told[told["method"] == PREVIOUS], on=list(_ROW), suffixes=("", "_previous"))["crps_previous"].sum())
    if rival > 0:
        text += f"; pooled skill score {1 - made['crps'].sum() / rival:+.2f} against the previous size"
    return Finding(text + ".", right / len(made), low, high, "forecast", where)


def _inside(covered: Any) -> str:
    return "inside" if covered else "outside"
