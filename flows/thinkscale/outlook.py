"""What an experiment will cost at most: cells, answers, tokens, FLOPs, GPU-hours of what is owed, for `--plan`.

Why: a mistake in a YAML is cheapest before anything is started; this imports neither prefect nor vllm.
What it does not do: decide what is owed (see `plan`).
"""

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from rich.markup import escape
from rich.table import Table as RichTable

from thinkscale import cost, power
from thinkscale.config import Experiment, Model
from thinkscale.plan import Study, saved
from thinkscale.routes import TraceSet, is_greedy
from thinkscale.schema import TableName

AT_MOST = "Drawing stops where a vote is settled: of what is planned and owed less may be drawn."


class PlanRow(NamedTuple):
    """One trace set of a plan: model × benchmark × what varies besides."""

    model: str
    benchmark: str
    variant: str
    """What tells it from others of the same model and benchmark: `examples=2, greedy`; empty where there is one."""
    cells: int
    planned: int
    """Answers: problems × samples × budgets."""
    on_disk: int
    to_score: int
    """Answers, on disk or owed, whose gold answer is wanted and not scored."""
    tokens: float
    """Owed tokens at most: every trace runs to the largest budget."""
    flops: float
    gpu_hours: float
    """At most; NaN without a GPU in the YAML."""
    gpus: int


def plan(study: Study) -> list[PlanRow]:
    """What would be done, from disk and the catalogue alone; costs are upper bounds, since most traces close before the largest budget."""
    answered, scored, rows = held(study, "answers"), held(study, "forced"), []
    for name in study.config.models:
        model = study.catalogue.models[name]
        for trace_set in study.trace_sets(name):
            problems = study.planned_problems(trace_set.benchmark)
            per_cell = problems * trace_set.num_samples - saved(study, trace_set)
            owed = {}
            for b in trace_set.budgets:
                left = [per_cell - sum(counts.get(trace_set.cell_id(b), [])[:problems]) for counts in (answered, scored)]
                owed[b] = _Owed(left[0], left[1] if study.config.gold_logprob else 0)
            rows.append(_plan_row(study, model, trace_set, owed, per_cell))
    return rows


class _Owed(NamedTuple):
    """Of one cell."""

    answers: int
    scores: int


def held(study: Study, table: TableName) -> dict[str, list[int]]:
    """cell_id -> how many of the planned samples are in a table, problem by problem, most first (a folder may hold more).

    Args: table: `answers` or `forced`.
    """
    answers = study.store.read(table, ["cell_id", "problem_id", "sample_index"])
    wanted = answers.filter(pc.less(answers["sample_index"], study.config.num_samples)).to_pandas()
    counts = wanted.groupby(["cell_id", "problem_id"], observed=True).size().sort_values(ascending=False)
    return {str(cell): found.tolist() for cell, found in counts.groupby("cell_id", observed=True)}


def _plan_row(study: Study, model: Model, trace_set: TraceSet, owed: dict[int, _Owed], per_cell: int) -> PlanRow:
    config, benchmark = study.config, study.known[trace_set.benchmark]
    prompt, largest = float(benchmark.mean_prompt_tokens * (1 + trace_set.examples)), max(owed)
    traces = owed[largest].answers if largest else 0
    answers = np.array([o.answers + o.scores for o in owed.values()], dtype=float)  # gold is no longer than the answers' cap
    context = np.array([prompt + b for b in owed])
    # what was answered long ago is in no cache: its thinking is read again before the gold answer
    again = np.array([max(0, o.scores - o.answers) for o in owed.values()], dtype=float)
    prefill = traces / trace_set.num_samples * float(cost.prefill_flops(model.shape, prompt))
    prefill += float(np.sum(again * cost.prefill_flops(model.shape, context)))
    decode = traces * float(cost.decode_flops(model.shape, prompt, largest + 1)) if traces else 0.0
    decode += float(np.sum(answers * cost.decode_flops(model.shape, context, config.answer_tokens)))
    gpu = study.catalogue.gpus[config.gpu] if config.gpu else None
    bytes_read = _bytes_read(study, model, prompt, largest, traces, answers) if gpu else 0.0
    return PlanRow(
        model.name,
        benchmark.name,
        _variant(config, trace_set),
        len(owed),
        per_cell * len(owed),
        per_cell * len(owed) - sum(o.answers for o in owed.values()),
        sum(o.scores for o in owed.values()),
        traces * largest + float(answers.sum()) * config.answer_tokens,
        prefill + decode,
        cost.gpu_hours(prefill, decode, bytes_read, gpu) if gpu else float("nan"),
        model.gpus,
    )


def _variant(config: Experiment, trace_set: TraceSet) -> str:
    """What of a trace set varies within the experiment, beside model and benchmark."""
    level = str(trace_set.route) if trace_set.route.name == "effort" else ""
    budget = f"budget={trace_set.budgets[0]}" if trace_set.route.name == "native" else ""
    shown = f"examples={trace_set.examples}" if len(config.examples) > 1 else ""
    greedy = "greedy" if config.greedy and is_greedy(str(trace_set.sampling)) else ""
    return ", ".join(part for part in (level, budget, shown, greedy) if part)


def _bytes_read(study: Study, model: Model, prompt: float, largest: int, traces: float, answers: np.ndarray) -> float:
    """Memory traffic of decoding: KV of every sequence, weights once per step of a full batch."""
    batch = study.config.engine.concurrency
    read = traces * float(cost.kv_bytes_read(model.shape, prompt, largest + 1)) if traces else 0.0
    tokens = traces * largest + float(answers.sum()) * study.config.answer_tokens
    return read + float(cost.weight_bytes_read(model.shape, tokens, batch))


def plan_table(study: Study, rows: list[PlanRow]) -> RichTable:
    """The plan for people."""
    hours = study.config.gpu is not None
    visible = "\n".join(power.outlook(b, study.planned_problems(b), study.config.num_samples) for b in study.config.benchmarks)
    caption = f"{visible}\n{power.ASSUMED}" + (f"\n{AT_MOST}" if study.config.stop else "")
    title = escape(f"{study.config.name}: {study.config.asks}")
    table = RichTable(title=title, title_justify="left", caption=caption, caption_justify="left")
    for header in (
        "model",
        "benchmark",
        "cells",
        "answers planned",
        "on disk",
        "owed",
        *(("to score",) if study.config.gold_logprob else ()),
        "tokens ≤",
        "FLOPs ≤",
        *(("GPU-hours ≤", "GPUs") if hours else ()),
    ):
        table.add_column(header, justify="left" if header in ("model", "benchmark") else "right")
    for r in rows:
        extra = (f"{r.gpu_hours:,.1f}", str(r.gpus)) if hours else ()
        table.add_row(
            r.model,
            f"{r.benchmark}, {r.variant}" if r.variant else r.benchmark,
            str(r.cells),
            f"{r.planned:,}",
            f"{r.on_disk:,}",
            f"{r.planned - r.on_disk:,}",
            *((f"{r.to_score:,}",) if study.config.gold_logprob else ()),
            f"{r.tokens:,.0f}",
            f"{r.flops:.2g}",
            *extra,
        )
    planned, there = sum(r.planned for r in rows), sum(r.on_disk for r in rows)
    extra = (f"{sum(r.gpu_hours for r in rows):,.1f}", "") if hours else ()
    table.add_section()
    scores = (f"{sum(r.to_score for r in rows):,}",) if study.config.gold_logprob else ()
    totals = (*scores, f"{sum(r.tokens for r in rows):,.0f}", f"{sum(r.flops for r in rows):.2g}")
    table.add_row("all", "", str(sum(r.cells for r in rows)), f"{planned:,}", f"{there:,}", f"{planned - there:,}", *totals, *extra)
    return table
