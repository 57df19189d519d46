"""What an experiment plans, what of it is on disk, and what is owed: the only memory of a run.

Why: resume, more samples, a larger budget or a new benchmark are all the same question: which keys are planned and not on disk?
What it does not do: start anything; `--plan` prints this and imports neither prefect nor vllm.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from rich.table import Table as RichTable

from thinkscale import cost
from thinkscale.config import Catalogue, Experiment, Model, TraceSet
from thinkscale.generate import AnswerKey, SampleKey
from thinkscale.loading import load_catalogue, load_experiment, model_revision, prompt_text
from thinkscale.problems import Benchmark, Problem, benchmarks
from thinkscale.shards import Shard
from thinkscale.store import Store

RESULTS = Path(__file__).resolve().parents[2] / "results"


@dataclass(frozen=True)
class Study:
    """An experiment opened: its file, what it names, and its results folder."""

    config: Experiment
    catalogue: Catalogue
    known: dict[str, Benchmark]
    store: Store

    def problems(self, benchmark: str) -> tuple[Problem, ...]:
        """Its problems. Raises ConfigError where they cannot be read."""
        return self._problems[benchmark]

    @cached_property
    def _problems(self) -> dict[str, tuple[Problem, ...]]:
        return {b: tuple(self.known[b].load(use.problems, self.config.problem_seed)) for b, use in self.config.benchmarks.items()}

    def planned_problems(self, benchmark: str) -> int:
        """How many problems, without reading them."""
        size = self.config.benchmarks[benchmark].problems or self.known[benchmark].size
        assert size is not None  # load_experiment refuses the other case
        return size

    def trace_sets(self, model: str) -> list[TraceSet]:
        """What this model generates, one per benchmark, in the order of the YAML."""
        entry, config = self.catalogue.models[model], self.config
        return [
            TraceSet(
                model=entry,
                model_revision=model_revision(entry),
                benchmark=name,
                benchmark_identity=self.known[name].identity(config.problem_seed),
                prompt=use.prompt or config.prompt,
                prompt_text=prompt_text(use.prompt or config.prompt),
                route=config.route,
                sampling=config.sampling or entry.sampling,
                answer_tokens=config.answer_tokens,
            )
            for name, use in config.benchmarks.items()
        ]

    @property
    def cells(self) -> dict[str, tuple[str, int]]:
        """cell_id -> (trace_set_id, budget) of everything planned."""
        sets = [t for model in self.config.models for t in self.trace_sets(model)]
        return {t.cell_id(b): (t.trace_set_id, b) for t in sets for b in self.config.thinking_budgets}


def open_study(experiment: str, results: Path = RESULTS) -> Study:
    """Read and check an experiment by shipped name or path. Raises ConfigError."""
    catalogue = load_catalogue()
    known = benchmarks(catalogue)
    config = load_experiment(experiment, catalogue, {name: b.extent for name, b in known.items()})
    return Study(config, catalogue, known, Store(results / config.name))


class OnDisk(NamedTuple):
    """Keys on disk."""

    samples: pd.DataFrame
    """trace_set_id, problem_id, sample_index, and of the longest trace: ended, trace_budget."""
    answers: pd.DataFrame
    """cell_id, problem_id, sample_index."""


def on_disk(study: Study, models: Sequence[str]) -> OnDisk:
    """Read the keys of all parts of some models. Raises StoreError for a part that cannot be trusted."""
    sets = {t.trace_set_id for model in models for t in study.trace_sets(model)}
    key = ["trace_set_id", "problem_id", "sample_index"]
    samples = study.store.read("samples", [*key, "trace_budget", "ended"], sets).to_pandas()
    samples = samples.astype({c: str for c in ("trace_set_id", "problem_id", "ended")}).sort_values("trace_budget")
    answers = study.store.read("answers", ["cell_id", "problem_id", "sample_index"], sets).to_pandas()
    return OnDisk(samples.drop_duplicates(key, keep="last"), answers.astype({"cell_id": str, "problem_id": str}))


def owed_shards(study: Study, model: str) -> list[Shard]:
    """The shards of one model that owe something, in the order of the YAML."""
    disk = on_disk(study, [model])
    found = []
    for trace_set in study.trace_sets(model):
        benchmark = study.known[trace_set.benchmark]
        problems = study.problems(benchmark.name)
        size = study.config.shard_problems
        samples = disk.samples[disk.samples["trace_set_id"] == trace_set.trace_set_id]
        have = {
            SampleKey(p, int(i)): (e, int(b))
            for p, i, e, b in samples[["problem_id", "sample_index", "ended", "trace_budget"]].itertuples(index=False)
        }
        cells = {b: trace_set.cell_id(b) for b in study.config.thinking_budgets}
        rows = disk.answers[disk.answers["cell_id"].isin(cells.values())]
        answered = set(rows.itertuples(index=False, name=None))
        for start in range(0, len(problems), size):
            part = problems[start : start + size]
            label = f"{benchmark.name} {start + 1}-{start + len(part)}"
            shard = _owed(Shard(trace_set, benchmark, label, part, max(cells), (), (), ()), study.config, have, answered, cells)
            if shard.sequences:
                found.append(shard)
    return found


def _owed(
    shard: Shard, config: Experiment, have: dict[SampleKey, tuple[str, int]], answered: set[tuple[str, str, int]], cells: dict[int, str]
) -> Shard:
    planned = [SampleKey(p.problem_id, i) for p, i in itertools.product(shard.problems, range(config.num_samples))]
    draw, extend = [], []
    for key in planned if shard.budget else ():
        ended, budget = have.get(key, ("", 0))
        if not ended:
            draw.append(key)
        elif ended == "cut" and budget < shard.budget:
            extend.append(key)
    answers = [
        AnswerKey(*key, b)
        for key in planned
        for b in sorted(config.thinking_budgets)
        if (cells[b], key.problem_id, key.sample_index) not in answered
    ]
    return Shard(shard.trace_set, shard.benchmark, shard.label, shard.problems, shard.budget, tuple(draw), tuple(extend), tuple(answers))


class PlanRow(NamedTuple):
    """One model × benchmark of a plan."""

    model: str
    benchmark: str
    cells: int
    planned: int
    """Answers: problems × samples × budgets."""
    on_disk: int
    tokens: float
    """Owed tokens at most: every trace runs to the largest budget."""
    flops: float
    gpu_hours: float
    """At most; NaN without a GPU in the YAML."""
    gpus: int


def plan(study: Study) -> list[PlanRow]:
    """What would be done, from disk and the catalogue alone; costs are upper bounds, since most traces close before the largest budget."""
    held, rows = _held(study), []
    for name in study.config.models:
        model = study.catalogue.models[name]
        for trace_set in study.trace_sets(name):
            problems = study.planned_problems(trace_set.benchmark)
            per_cell = problems * study.config.num_samples
            there = [sum(held.get(trace_set.cell_id(b), [])[:problems]) for b in study.config.thinking_budgets]
            owed = {b: per_cell - t for b, t in zip(study.config.thinking_budgets, there, strict=True)}
            rows.append(_plan_row(study, model, trace_set, owed, sum(there)))
    return rows


def _held(study: Study) -> dict[str, list[int]]:
    """cell_id -> how many of the planned samples are answered, problem by problem, most first (a folder may hold more)."""
    answers = study.store.read("answers", ["cell_id", "problem_id", "sample_index"])
    wanted = answers.filter(pc.less(answers["sample_index"], study.config.num_samples)).to_pandas()
    counts = wanted.groupby(["cell_id", "problem_id"], observed=True).size().sort_values(ascending=False)
    return {str(cell): found.tolist() for cell, found in counts.groupby("cell_id", observed=True)}


def _plan_row(study: Study, model: Model, trace_set: TraceSet, owed: dict[int, int], there: int) -> PlanRow:
    config, benchmark = study.config, study.known[trace_set.benchmark]
    prompt, largest = float(benchmark.mean_prompt_tokens), max(owed)
    traces = owed[largest] if largest else 0
    problems = traces / config.num_samples
    answer_context = np.array([prompt + b for b in owed])
    answers = np.array(list(owed.values()), dtype=float)
    prefill = problems * float(cost.prefill_flops(model.shape, prompt))
    decode = traces * float(cost.decode_flops(model.shape, prompt, largest + 1)) if traces else 0.0
    decode += float(np.sum(answers * cost.decode_flops(model.shape, answer_context, config.answer_tokens)))
    gpu = study.catalogue.gpus[config.gpu] if config.gpu else None
    bytes_read = _bytes_read(study, model, prompt, largest, traces, answers) if gpu else 0.0
    return PlanRow(
        model.name,
        benchmark.name,
        len(owed),
        sum(owed.values()) + there,
        there,
        traces * largest + float(answers.sum()) * config.answer_tokens,
        prefill + decode,
        cost.gpu_hours(prefill, decode, bytes_read, gpu) if gpu else float("nan"),
        model.gpus,
    )


def _bytes_read(study: Study, model: Model, prompt: float, largest: int, traces: float, answers: np.ndarray) -> float:
    """Memory traffic of decoding: KV of every sequence, weights once per step of a full batch."""
    batch = study.config.engine.concurrency
    read = traces * float(cost.kv_bytes_read(model.shape, prompt, largest + 1)) if traces else 0.0
    tokens = traces * largest + float(answers.sum()) * study.config.answer_tokens
    return read + float(cost.weight_bytes_read(model.shape, tokens, batch))


def plan_table(study: Study, rows: list[PlanRow]) -> RichTable:
    """The plan for people."""
    hours = study.config.gpu is not None
    table = RichTable(title=f"{study.config.name}: {study.config.asks}", title_justify="left")
    for header in (
        "model",
        "benchmark",
        "cells",
        "answers planned",
        "on disk",
        "owed",
        "tokens ≤",
        "FLOPs ≤",
        *(("GPU-hours ≤", "GPUs") if hours else ()),
    ):
        table.add_column(header, justify="left" if header in ("model", "benchmark") else "right")
    for r in rows:
        extra = (f"{r.gpu_hours:,.1f}", str(r.gpus)) if hours else ()
        table.add_row(
            r.model,
            r.benchmark,
            str(r.cells),
            f"{r.planned:,}",
            f"{r.on_disk:,}",
            f"{r.planned - r.on_disk:,}",
            f"{r.tokens:,.0f}",
            f"{r.flops:.2g}",
            *extra,
        )
    planned, there = sum(r.planned for r in rows), sum(r.on_disk for r in rows)
    extra = (f"{sum(r.gpu_hours for r in rows):,.1f}", "") if hours else ()
    table.add_section()
    totals = (f"{sum(r.tokens for r in rows):,.0f}", f"{sum(r.flops for r in rows):.2g}")
    table.add_row("all", "", str(sum(r.cells for r in rows)), f"{planned:,}", f"{there:,}", f"{planned - there:,}", *totals, *extra)
    return table
