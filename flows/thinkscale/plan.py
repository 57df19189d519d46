"""What an experiment plans, what of it is on disk, and what is owed: the only memory of a run.

Why: resume, more samples, a larger budget or a new benchmark are all the same question: which keys are planned and not on disk?
What it does not do: start anything, say what it costs (see `outlook`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from thinkscale.config import Catalogue, ConfigError, Experiment, Sampling
from thinkscale.files import is_local, place
from thinkscale.generate import AnswerKey, SampleKey
from thinkscale.grading import check_golds
from thinkscale.loading import load_catalogue, load_experiment, prompt_text
from thinkscale.problems import Benchmark, Problem, benchmarks
from thinkscale.prompting import chosen, example_pool, render
from thinkscale.routes import TraceSet, told, variants
from thinkscale.schema import TableName
from thinkscale.shards import Shard
from thinkscale.stopping import samples_wanted
from thinkscale.store import Store
from thinkscale.weights import model_revision

RESULTS = Path(__file__).resolve().parents[2] / "results"
FIRST = 100
"""Problems of each benchmark whose prompts are filled in before an engine starts."""
MOST_LEVELS = 20
"""Difficulties that an error lists."""


@dataclass(frozen=True)
class Study:
    """An experiment opened: its file, what it names, and its results folder."""

    config: Experiment
    catalogue: Catalogue
    known: dict[str, Benchmark]
    store: Store

    @property
    def logs(self) -> Path:
        """Where engines log, always on a disk: with the results, or in the default place where those are in an object store."""
        root = self.store.root
        return (root if is_local(root) else RESULTS / self.config.name) / "logs"

    def problems(self, benchmark: str) -> tuple[Problem, ...]:
        """Its problems. Raises ConfigError where they cannot be read, or its grader cannot read a gold answer."""
        if benchmark not in self._problems:
            known = self.known[benchmark]
            found = tuple(known.load(self.config.benchmarks[benchmark].problems, self.config.problem_seed))
            check_golds(known, found)
            self._problems[benchmark] = found
        return self._problems[benchmark]

    @cached_property
    def _problems(self) -> dict[str, tuple[Problem, ...]]:
        return {}

    def check(self, *, fetch: bool) -> None:
        """Read the problems and fill in prompts of the first of them: what is wrong with either is said before an engine starts.

        Args: fetch: also of benchmarks that have to be asked of the hub.
        Raises: ConfigError.
        """
        for name, use in self.config.benchmarks.items():
            if not (fetch or self.known[name].at_hand):
                continue
            self._check_claims(name)
            prompt, first = use.prompt or self.config.prompt, self.problems(name)[:FIRST]
            for number in {examples for _, examples, _, _ in variants(self.config, use, Sampling())}:
                pool = self.pool(name, number)
                for problem in first:
                    try:
                        render(prompt_text(prompt), problem, chosen(pool, problem, number))
                    except ValueError as e:
                        raise ConfigError(f"prompts/{prompt}, benchmark {name}: {e}") from e

    def _check_claims(self, benchmark: str) -> None:
        """Raise ConfigError for a claim on a difficulty that no problem has: it would be found not shown, of no problems."""
        levels = {p.difficulty for p in self.problems(benchmark)}
        for claim in self.config.claims:
            if claim.benchmark == benchmark and claim.difficulty is not None and claim.difficulty not in levels:
                there = ", ".join(repr(level) for level in sorted(levels)[:MOST_LEVELS]) + (", ..." if len(levels) > MOST_LEVELS else "")
                raise ConfigError(
                    f"{self.config.name}: claims.{claim.name}.difficulty: found {claim.difficulty}; the problems of {benchmark} that are "
                    f"asked have {there}. Take one of these, or leave it out for all problems."
                )

    def pool(self, benchmark: str, examples: int) -> tuple[Problem, ...]:
        """What worked examples are taken from. Raises ConfigError where there are too few."""
        if examples and (benchmark, examples) not in self._pools:
            self._pools[benchmark, examples] = example_pool(self.known[benchmark], examples, self.config.problem_seed)
        return self._pools[benchmark, examples] if examples else ()

    @cached_property
    def _pools(self) -> dict[tuple[str, int], tuple[Problem, ...]]:
        return {}

    def planned_problems(self, benchmark: str) -> int:
        """How many problems, without reading them."""
        size = self.config.benchmarks[benchmark].problems or self.known[benchmark].size
        assert size is not None  # load_experiment refuses the other case
        return size

    def trace_sets(self, model: str) -> list[TraceSet]:
        """What this model generates, in the order of the YAML: for each benchmark one, or one for each variant (see `routes`)."""
        entry, config = self.catalogue.models[model], self.config
        return [
            TraceSet(
                model=told(entry, route),
                model_revision=model_revision(entry),
                benchmark=name,
                benchmark_identity=self.known[name].identity(config.problem_seed),
                prompt=use.prompt or config.prompt,
                prompt_text=prompt_text(use.prompt or config.prompt),
                route=route,
                sampling=sampling,
                answer_tokens=config.answer_tokens,
                num_samples=samples,
                examples=examples,
            )
            for name, use in config.benchmarks.items()
            for route, examples, sampling, samples in variants(config, use, entry.sampling)
        ]

    @property
    def cells(self) -> dict[str, tuple[str, int]]:
        """cell_id -> (trace_set_id, budget) of everything planned."""
        sets = [t for model in self.config.models for t in self.trace_sets(model)]
        return {t.cell_id(b): (t.trace_set_id, b) for t in sets for b in t.budgets}


def open_study(experiment: str | Mapping[str, Any], results: str | Path = RESULTS) -> Study:
    """Read and check an experiment by shipped name, path or content; `results` is a folder or the URL of one. Raises ConfigError."""
    catalogue = load_catalogue()
    known = benchmarks(catalogue)
    config = load_experiment(experiment, catalogue, {name: b.extent for name, b in known.items()})
    return Study(config, catalogue, known, Store(place(results) / config.name))


Votes = dict[int, str | None]
"""sample_index -> answer class of the graded answers of a problem; None: no answer was found."""


class OnDisk(NamedTuple):
    """What of a trace set is on disk."""

    samples: dict[SampleKey, tuple[str, int]]
    """How the longest trace of each sample ended, and under which cap."""
    answers: dict[str, set[SampleKey]]
    """cell_id -> what is answered."""
    votes: dict[str, Votes]
    """problem_id -> what its samples voted for; read where drawing may stop."""
    forced: dict[str, set[SampleKey]]
    """Likewise of answers whose gold answer was scored."""


def on_disk(study: Study, trace_set: TraceSet, problems: Sequence[Problem] | None = None) -> OnDisk:
    """Read the keys of a trace set, all or of some problems. Raises StoreError for a part of another schema version."""
    trace_set_id = trace_set.trace_set_id
    samples = _keys(study, "samples", ["problem_id", "sample_index", "ended", "trace_budget"], trace_set_id, problems)
    longest_last = sorted(samples, key=lambda key: key[3])
    of_cells: dict[TableName, dict[str, set[SampleKey]]] = {"answers": {}, "forced": {}}
    for table, cells in of_cells.items():
        for cell, problem, sample in _keys(study, table, ["cell_id", "problem_id", "sample_index"], trace_set_id, problems):
            cells.setdefault(cell, set()).add(SampleKey(problem, sample))
    longest = {SampleKey(p, i): (ended, budget) for p, i, ended, budget in longest_last}
    return OnDisk(longest, of_cells["answers"], _votes(study, trace_set, problems) if study.config.stop else {}, of_cells["forced"])


def _votes(study: Study, trace_set: TraceSet, problems: Sequence[Problem] | None = None) -> dict[str, Votes]:
    """What the samples of a trace set at its one budget voted for."""
    found: dict[str, Votes] = {}
    asked = trace_set.cell_id(*trace_set.budgets)
    columns = ["cell_id", "problem_id", "sample_index", "answer_class"]
    for cell, problem, sample, answer_class in _keys(study, "grades", columns, trace_set.trace_set_id, problems):
        if cell == asked:  # a folder may hold other budgets of a time when all samples were drawn
            found.setdefault(problem, {})[sample] = answer_class
    return found


def _keys(study: Study, table: TableName, columns: list[str], trace_set_id: str, problems: Sequence[Problem] | None) -> Iterator[Any]:
    """Tuples in the order of the columns. Without pandas: this is asked before every shard, and most answers are a few hundred rows."""
    asked = None if problems is None else [p.problem_id for p in problems]
    rows = study.store.read_keys(table, columns, {trace_set_id}, asked)
    plain = (rows[c].cast(pa.string()) if pa.types.is_dictionary(rows.schema.field(c).type) else rows[c] for c in columns)
    return zip(*(column.to_pylist() for column in plain), strict=True)


def owed_shards(study: Study, model: str) -> list[Shard]:
    """The shards of one model that owe something, in the order of the YAML."""
    found = []
    for trace_set in study.trace_sets(model):
        disk = on_disk(study, trace_set)
        found += [shard for whole in _slices(study, trace_set) if (shard := _owed(study, whole, disk)).sequences]
    return found


def owed_now(study: Study, shard: Shard) -> Shard:
    """The same slice with what it owes by now: others may have worked on it since."""
    return _owed(study, shard, on_disk(study, shard.trace_set, shard.problems))


def slice_ids(study: Study, model: str) -> set[str]:
    """Every slice of one model, see `claims`."""
    return {shard.slice_id for t in study.trace_sets(model) for shard in _slices(study, t)}


def _slices(study: Study, trace_set: TraceSet) -> list[Shard]:
    """A trace set's problems in shards, without what they owe."""
    benchmark, size = study.known[trace_set.benchmark], study.config.shard_problems
    problems, budget = study.problems(benchmark.name), max(trace_set.budgets)
    pool = study.pool(benchmark.name, trace_set.examples)
    found = []
    for start in range(0, len(problems), size):
        part = problems[start : start + size]
        label = f"{benchmark.name} {start + 1}-{start + len(part)}"
        found.append(Shard(trace_set, benchmark, label, part, budget, (), (), (), pool))
    return found


def _owed(study: Study, shard: Shard, disk: OnDisk) -> Shard:
    """The shard with the keys that are planned and not on disk."""
    planned = [SampleKey(p.problem_id, i) for p in shard.problems for i in range(_wanted(study, shard.trace_set, disk, p.problem_id))]
    draw, extend = [], []
    for key in planned if shard.budget else ():
        ended, budget = disk.samples.get(key, ("", 0))
        if not ended:
            draw.append(key)
        elif ended == "cut" and budget < shard.budget:
            extend.append(key)
    answers = _missing(shard.trace_set, planned, disk.answers)
    forced = _missing(shard.trace_set, planned, disk.forced) if study.config.gold_logprob else ()
    return replace(shard, draw=tuple(draw), extend=tuple(extend), answers=answers, forced=forced)


def _wanted(study: Study, trace_set: TraceSet, disk: OnDisk, problem_id: str) -> int:
    """How many samples of a problem: all, or up to where its vote is settled, so far as is known by now."""
    stop, most = study.config.stop, trace_set.num_samples
    return most if stop is None else samples_wanted(disk.votes.get(problem_id, {}), stop, most)


def saved(study: Study, trace_set: TraceSet) -> int:
    """Samples that need not be drawn, since the votes of their problems are settled."""
    if study.config.stop is None:
        return 0
    asked, most = {p.problem_id for p in study.problems(trace_set.benchmark)}, trace_set.num_samples
    votes = {problem: found for problem, found in _votes(study, trace_set).items() if problem in asked}
    there = {problem: sum(index < most for index in found) for problem, found in votes.items()}
    wanted = {problem: range(samples_wanted(found, study.config.stop, most)) for problem, found in votes.items()}
    done = [problem for problem, found in votes.items() if all(index in found for index in wanted[problem])]
    return sum(most - there[problem] for problem in done)


def _missing(trace_set: TraceSet, planned: Sequence[SampleKey], there: Mapping[str, set[SampleKey]]) -> tuple[AnswerKey, ...]:
    """Sample by sample, at every budget in turn, what is planned and not there; a slice that owes nothing is seen as a whole."""
    left = {b: set(planned).difference(there.get(trace_set.cell_id(b), ())) for b in sorted(trace_set.budgets)}
    return tuple(AnswerKey(*key, b) for key in planned for b, keys in left.items() if key in keys) if any(left.values()) else ()
