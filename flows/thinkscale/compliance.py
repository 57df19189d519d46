"""Thinking asked for and thinking spent, cell by cell: is a budget what it says?

Why: a budget that nobody reaches, or that the server ignores, makes points that look like an effect of thinking and are none.
What it does not do: judge; it counts answers, without intervals. What a table does not tell (tokens, how thinking ended) is NaN.
"""

from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table as RichTable

from thinkscale import schema
from thinkscale.findings import Finding
from thinkscale.summarize import typed
from thinkscale.tidy import by_cell, checked

_CELL = [c.name for c in schema.COMPLIANCE.columns if c.name in {column.name for column in schema.ANSWERS.columns}]


def compliance(graded: pd.DataFrame) -> pd.DataFrame:
    """The compliance table (`schema.COMPLIANCE`). Args: graded: one row per answer, from `graded.read_graded` or `tidy.complete`."""
    rows = checked(graded)
    table = pd.DataFrame([_row(rows.take(mine)) for mine in by_cell(rows)], columns=schema.COMPLIANCE.names)
    return typed(table.sort_values(["benchmark", "params", "model", "prompt", "route", "thinking_budget", "cell_id"]), schema.COMPLIANCE)


def _row(cell: pd.DataFrame) -> dict[str, Any]:
    facts = {name: cell[name].iloc[0] for name in _CELL}
    spent, ended = cell["thinking_tokens"].to_numpy(), cell["ended"].astype(str)
    asked = spent[(ended != "too_long").to_numpy()]  # of what did not fit nothing was spent, which would look like thrift
    median, p95 = np.percentile(asked, [50, 95]) if len(asked) else (np.nan, np.nan)
    told = (ended != "given").all()  # how the thinking ended; tables of others may not say
    over = (spent > cell["thinking_budget"].to_numpy()).mean() if not np.isnan(spent).any() else np.nan
    return {
        **facts,
        "num_answers": len(cell),
        "median_spent": median,
        "p95_spent": p95,
        "max_spent": spent.max(),
        "share_closed_early": ended.isin(["closed", "eos"]).mean() if told else np.nan,
        "share_cut": (ended == "cut").mean() if told else np.nan,
        "share_over": over,
        "share_too_long": (ended == "too_long").mean(),
        "share_no_answer": cell["extracted_answer"].isna().mean(),
        **_calls(cell),
    }


def _calls(cell: pd.DataFrame) -> dict[str, float]:
    """Was the tool called, and as it can be answered?"""
    names = ("tool_calls", "tool_valid", "tool_tokens")
    if not all(name in cell and cell[name].notna().all() for name in names):
        return dict.fromkeys(("share_called", "mean_calls", "share_valid", "share_tool_tokens"), np.nan)
    calls, valid, put_in = (int(cell[name].sum()) for name in names)
    spent = int(cell["thinking_tokens"].sum())
    return {
        "share_called": (cell["tool_calls"] > 0).mean(),
        "mean_calls": calls / len(cell),
        "share_valid": valid / calls if calls else np.nan,
        "share_tool_tokens": put_in / spent if spent else np.nan,
    }


def unasked(found: pd.DataFrame) -> list[Finding]:
    """Answers that no model was ever asked for, since they did not fit; an accuracy of 0 that is made of them says nothing of a skill."""
    said = []
    for (benchmark, model), cells in found[found["share_too_long"] > 0].groupby(["benchmark", "model"], sort=True):
        all_cells = found[(found["benchmark"] == benchmark) & (found["model"] == model)]
        missed, answers = round(float((cells["share_too_long"] * cells["num_answers"]).sum())), int(all_cells["num_answers"].sum())
        text = f"{benchmark}, {model}: {missed:,} of {answers:,} answers could not be asked for and count as wrong: prompt, thinking and "
        text += "answer are longer than the model's context. A shorter prompt, a smaller budget or fewer examples may fit."
        worst = cells.sort_values("share_too_long", kind="stable").iloc[-1]
        said.append(Finding(text, missed / answers, float("nan"), float("nan"), "compliance", {"cell_id": worst["cell_id"]}))
    return said


def compliance_table(found: pd.DataFrame) -> RichTable:
    """The same for people; a column that is zero everywhere is left out."""
    table = RichTable(title="Thinking asked for and spent", title_justify="left")
    shares = {"share_closed_early": "closed", "share_cut": "cut", "share_over": "over", "share_too_long": "too long"}
    shares |= {"share_no_answer": "no answer", "share_called": "called", "share_valid": "valid calls"}
    shares = {c: name for c, name in shares.items() if found[c].fillna(0).any()}
    varied = [c for c in ("prompt", "route", "sampling") if len(found[c].unique()) > 1]
    for name in ("skill, model", *varied):
        table.add_column(name)
    for name in ("asked", "median", "p95", *shares.values()):
        table.add_column(name, justify="right")
    for row in found.to_dict("records"):
        spent = (f"{row['thinking_budget']:,}", f"{row['median_spent']:,.0f}", f"{row['p95_spent']:,.0f}")
        who = f"{row['benchmark']} {row['model']}"
        table.add_row(who, *(str(row[c]) for c in varied), *spent, *("" if np.isnan(row[c]) else f"{row[c]:.1%}" for c in shares))
    return table
