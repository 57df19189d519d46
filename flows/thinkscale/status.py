"""How far an experiment is, from its results folder alone: `python flows/sweep.py EXPERIMENT --status`, and the tables that flows show.

Why: the folder is the record; Prefect's database may be gone, or be another machine's. What it does not do: change anything.
"""

import math
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable

from thinkscale import files, loss, scores
from thinkscale.claims import Seen, at_work
from thinkscale.metering import engine_seconds
from thinkscale.outlook import AT_MOST, held, plan
from thinkscale.plan import Study, saved

RECENT_SECONDS = 600.0
"""Speed is that of the last ten minutes in which the engines did something."""
LOST = 10
"""Whoever is silent for so many times what others wait before they take over is not at work: its machine died."""


def cells(study: Study) -> pd.DataFrame:
    """A row per cell: model, benchmark, thinking_budget, planned, done, owed (answers), accuracy of what is graded, tokens_per_second.

    The speed is that of the cell's trace set over all its engines' lives, since all budgets are drawn in one pass; NaN before any.
    """
    done = held(study, "answers")
    graded = study.store.read("grades", ["cell_id", "correct"])
    means = pa.table({"cell_id": graded["cell_id"].cast(pa.string()), "correct": graded["correct"]}).group_by("cell_id")
    right = dict(zip(*means.aggregate([("correct", "mean")]).to_pydict().values(), strict=True))
    rates = engine_seconds(study.store.read("engine").to_pandas()).set_index("trace_set_id")["tokens_per_second"]
    rows = []
    for name in study.config.models:
        for trace_set in study.trace_sets(name):
            problems = study.planned_problems(trace_set.benchmark)
            planned, rate = problems * trace_set.num_samples - saved(study, trace_set), rates.get(trace_set.trace_set_id, np.nan)
            for budget in trace_set.budgets:
                cell = trace_set.cell_id(budget)
                there = sum(done.get(cell, [])[:problems])
                rows.append((name, trace_set.benchmark, budget, planned, there, planned - there, right.get(cell, np.nan), rate))
    columns = ["model", "benchmark", "thinking_budget", "planned", "done", "owed", "accuracy", "tokens_per_second"]
    return pd.DataFrame(rows, columns=columns)


def speed(engine: pd.DataFrame, now: float) -> float:
    """Tokens per second of all engines together over the last ten minutes; NaN where none did anything.

    Time in which no engine ran (between two models, while one starts) does not count: what is owed is drawn while one runs.
    """
    recent = engine[engine["time"] > now - RECENT_SECONDS]
    if recent.empty:
        return float("nan")
    running, until = 0.0, -math.inf
    for begin, end in sorted(zip(recent["time"] - recent["seconds"], recent["time"], strict=True)):
        running, until = running + max(0.0, end - max(begin, until)), max(until, end)
    return float(recent["generation_tokens"].sum()) / max(1e-9, running)


def time_left(study: Study, found: pd.DataFrame, tokens_per_second: float) -> float:
    """Seconds until nothing is owed at this speed, if what is owed takes as many tokens an answer as what is done did; NaN where not known.

    Engines generate traces and answers; both are counted in `request_completion_tokens`.
    """
    done, owed = int(found["done"].sum()), int(found["owed"].sum())
    if not owed:
        return 0.0
    if not done or not tokens_per_second > 0:
        return float("nan")
    spent = [study.store.read(table, ["request_completion_tokens"])["request_completion_tokens"] for table in ("samples", "answers")]
    tokens = sum(int(pc.sum(column).as_py() or 0) for column in spent)
    return tokens / done * owed / tokens_per_second


def status_view(study: Study) -> Group:
    """The status for people: cells summed up by model and benchmark, who is at work, how long it will take."""
    found = cells(study)
    table = RichTable(title=escape(f"{study.config.name}: {study.config.asks}"), title_justify="left")
    for header in ("model", "benchmark", "cells", "planned", "done", "owed", "accuracy by budget", "tokens/s"):
        table.add_column(header, justify="left" if header in ("model", "benchmark", "accuracy by budget") else "right")
    for (model, benchmark), group in found.groupby(["model", "benchmark"], sort=False):
        marks = [f"{b}: {a:.0%}" for b, a in zip(group["thinking_budget"], group["accuracy"], strict=True) if a == a]
        numbers = [f"{int(group[c].sum()):,}" for c in ("planned", "done", "owed")]
        table.add_row(str(model), str(benchmark), str(len(group)), *numbers, "  ".join(marks), _whole(group["tokens_per_second"].iloc[0]))
    totals = [f"{int(found[c].sum()):,}" for c in ("planned", "done", "owed")]
    table.add_section()
    table.add_row("all", "", str(len(found)), *totals, "", "")
    to_score = sum(row.to_score for row in plan(study)) if study.config.gold_logprob else 0
    said = [f"gold answers still to be scored: {to_score:,}"] if to_score else []
    said += [AT_MOST] if study.config.stop else []
    rate = speed(study.store.read("engine").to_pandas(), time.time())
    left = time_left(study, found, rate)
    owed = found["owed"].any() or to_score or scores.owed(study) or any(loss.is_owed(study, name) for name in study.config.models)
    workers = [seen for seen in at_work(study.store) if owed and not seen.silent > LOST * seen.owner.timeout]
    return Group(table, *said, *map(escape, workers_lines(workers, rate, left)))


def workers_lines(workers: list[Seen], rate: float, left: float) -> list[str]:
    """Who is at work and how fast; a beat that is late says that its process may be dead."""
    lines = []
    for seen in workers:
        late = f", silent for {seen.silent:.0f} s" if seen.silent > seen.owner.timeout / 3 else ""
        if (written := files.written(seen.file)) is not None:
            late = f", last heard of at {written.astimezone():%Y-%m-%d %H:%M:%S}"
        what = ", ".join(seen.slices) or "no shard at this moment"
        lines.append(
            f"at work: {seen.owner.model} on {seen.owner.host} (process {seen.owner.pid}{late}): {what}; logs in {seen.owner.logs}"
        )
    if not workers:
        lines.append("at work: nobody")
    if not math.isnan(rate):
        until = "unknown" if math.isnan(left) else f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
        lines.append(f"speed: {rate:,.0f} tokens/s over the last minutes; time left at this speed: {until}")
    return lines


def _whole(number: float) -> str:
    return "" if math.isnan(number) else f"{number:,.0f}"
