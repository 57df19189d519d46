"""What a scorer (a reward model of the catalogue) says of every answer: which parts of answers are owed it, and one part scored.

Why: choosing the best of k samples, or weighing votes, by a learned score is a route of its own, and its reading costs compute that must be
charged. A scorer reads what the model read and said, id by id: prompt, thinking as cut at the row's budget, close, answer. So it must share
tokenizer and chat template with the models that it reads, which is checked on every row by the counts that the row holds.
What it does not do: train a scorer (see `verifier` for the ladder's), start its engine (see `scoring`), score a part in pieces.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from thinkscale import cost
from thinkscale.config import ConfigError, Model, digest
from thinkscale.endpoint import Client
from thinkscale.generate import TOO_LONG, Generator, Room, SampleKey
from thinkscale.graded import Scorer
from thinkscale.grades import read_problems
from thinkscale.plan import Study
from thinkscale.prompting import boundary
from thinkscale.routes import TraceSet
from thinkscale.shards import Shard, read_traces
from thinkscale.store import Store
from thinkscale.thinking import Cut, answer_prompt, answer_prompt_tokens
from thinkscale.weights import model_revision

_ROW = (
    "cell_id",
    "problem_id",
    "sample_index",
    "thinking_budget",
    "ended",
    "prompt_tokens",
    "injected_tokens",
    "thinking_tokens",
    "answer_text",
)


@dataclass(frozen=True)
class OwedPart:
    """A part of answers that is not scored yet."""

    name: str
    trace_set: TraceSet
    scorer: Scorer

    @property
    def slice_id(self) -> str:
        """What is claimed (see `claims`)."""
        return digest(["scores", self.part_name])

    @property
    def part_name(self) -> str:
        """Name of the part of scores: begins with that of the answers, see `Store.drop_scores`."""
        return f"{self.name}-{digest(self.scorer)}"

    @property
    def label(self) -> str:
        """For people."""
        return f"scores of {self.trace_set.model.name} on {self.trace_set.benchmark}"


def identity(study: Study) -> Scorer | None:
    """Name and revision of the experiment's scorer. Raises ConfigError where its weights are not there."""
    if study.config.scorer is None:
        return None
    return Scorer(study.config.scorer, model_revision(study.catalogue.models[study.config.scorer]))


def owed(study: Study) -> list[OwedPart]:
    """Parts of answers of this experiment that its scorer has not read, in the order of the YAML."""
    scorer = identity(study)
    if scorer is None:
        return []
    sets = {t.trace_set_id: t for model in study.config.models for t in study.trace_sets(model)}
    done, found = scored(study), []
    for path in study.store.parts("answers"):
        if f"{path.stem}-{digest(scorer)}" not in done:
            held = study.store.read_part("answers", path.stem, ["trace_set_id"])["trace_set_id"]
            if len(held) and str(held[0]) in sets:  # a folder may hold other trace sets
                found.append(OwedPart(path.stem, sets[str(held[0])], scorer))
    order = list(sets)
    return sorted(found, key=lambda part: order.index(part.trace_set.trace_set_id))


def scored(study: Study) -> set[str]:
    """Names of the parts of scores that are on disk."""
    return {path.stem for path in study.store.parts("scores")}


def unscored(study: Study) -> int:
    """How many of the answers that are on disk the scorer has not read."""
    return sum(study.store.read_part("answers", part.name, ["cell_id"]).num_rows for part in owed(study))


def outlook(study: Study) -> str:
    """What scoring will cost at most, for `--plan`; empty where there is no scorer."""
    scorer = identity(study)
    if scorer is None:
        return ""
    shape, done = study.catalogue.models[scorer.name].shape, _scored(study, scorer)
    answers = there = 0
    tokens = flops = 0.0
    for trace_set in [t for model in study.config.models for t in study.trace_sets(model)]:
        each = study.planned_problems(trace_set.benchmark) * trace_set.num_samples
        prompt = study.known[trace_set.benchmark].mean_prompt_tokens * (1 + trace_set.examples)
        for budget in trace_set.budgets:
            held = min(each, done.get(trace_set.cell_id(budget), 0))
            length = prompt + budget + study.config.answer_tokens
            answers, there, tokens = answers + each, there + held, tokens + (each - held) * length
            flops += (each - held) * float(cost.scoring_flops(shape, length))
    planned = f"{scorer.name} reads {answers:,} answers, {there:,} are scored"
    return f"scorer: {planned}; owed: at most {tokens:,.0f} tokens to read, {flops:.2g} FLOPs"


def _scored(study: Study, scorer: Scorer) -> dict[str, int]:
    """cell_id -> rows of this scorer of samples that are planned."""
    rows = study.store.read("scores", ["cell_id", "sample_index", "scorer", "scorer_revision"])
    mine = pc.and_(
        pc.equal(rows["scorer"].cast(pa.string()), scorer.name), pc.equal(rows["scorer_revision"].cast(pa.string()), scorer.revision)
    )
    wanted = rows.filter(pc.and_(mine, pc.less(rows["sample_index"], study.config.num_samples)))
    counted = pa.table({"cell_id": wanted["cell_id"].cast(pa.string())}).group_by("cell_id").aggregate([([], "count_all")])
    return dict(zip(counted["cell_id"].to_pylist(), counted["count_all"].to_pylist(), strict=True))


async def score_part(study: Study, part: OwedPart, store: Store, client: Client, room: Room) -> int:
    """Have one part read and publish its scores. Returns how many rows.

    Raises: ConfigError where the scorer reads a question as other tokens than the model did; what the client and the store raise.
    """
    scorer, trace_set = study.catalogue.models[part.scorer.name], part.trace_set
    rows = (await asyncio.to_thread(store.read_part, "answers", part.name, [*_ROW, "answer_finish"])).to_pylist()
    tags = await boundary(client, trace_set.model)
    how = (trace_set.sampling, study.config.engine, study.config.answer_tokens, room)
    generator = Generator(client, trace_set.model, tags, *how, route=trace_set.route)
    texts = await _texts(study, part, rows, generator)
    fits = sorted({ids for ids in texts if ids and len(ids) <= scorer.context})
    size = study.config.engine.prompts_per_request
    groups = [fits[i : i + size] for i in range(0, len(fits), size)]
    said = await generator.bounded([(len(some), partial(client.classify, some)) for some in groups])
    found = dict(zip(fits, [score for some in said for score in some], strict=True))
    seen = set[tuple[int, ...]]()
    scored = []
    for row, ids in zip(rows, texts, strict=True):
        scored.append(_row(row, part, (ids, found.get(ids) if ids else 0.0, ids not in seen), scorer, client.endpoint.engine))
        seen.add(ids)
    await asyncio.to_thread(partial(store.publish, "scores", part.part_name, scored, trace_set_id=trace_set.trace_set_id))
    return len(scored)


def _row(
    row: Mapping[str, Any], part: OwedPart, read: tuple[tuple[int, ...], float | None, bool], scorer: Model, engine: str
) -> dict[str, Any]:
    ids, score, first = read
    tokens = len(ids) if score is not None else 0
    return {
        **{name: row[name] for name in ("cell_id", "problem_id", "sample_index")},
        "scorer": part.scorer.name,
        "scorer_revision": part.scorer.revision,
        "verifier_score": score,
        "scorer_tokens": tokens,
        "scorer_flops": float(cost.scoring_flops(scorer.shape, tokens)),
        "request_scorer_tokens": tokens if first else 0,
        "engine": engine,
    }


async def _texts(study: Study, part: OwedPart, rows: Sequence[Mapping[str, Any]], generator: Generator) -> list[tuple[int, ...]]:
    """What is read for each row, as ids; nothing where nothing was asked."""
    trace_set, benchmark = part.trace_set, study.known[part.trace_set.benchmark]
    known = await asyncio.to_thread(read_problems, study.store)
    problems = tuple(known[problem_id] for problem_id in dict.fromkeys(str(row["problem_id"]) for row in rows))
    pool = study.pool(benchmark.name, trace_set.examples)
    prompts = await generator.prompts(problems, trace_set.prompt_text, trace_set.examples, pool)
    slice_ = Shard(trace_set, benchmark, part.label, problems, 0, (), (), ())
    traces = await asyncio.to_thread(read_traces, study.store, slice_)
    answers = sorted({str(row["answer_text"]) for row in rows} - {""})
    ids = dict(zip(answers, await generator.bounded([(1, partial(generator.client.tokenize, text)) for text in answers]), strict=True))
    found: list[tuple[int, ...]] = []
    for row in rows:
        if row["answer_finish"] == TOO_LONG:
            found.append(())
            continue
        trace = None if row["ended"] == "off" else traces[SampleKey(row["problem_id"], row["sample_index"])]
        seen = Cut((), "off") if trace is None else generator.cut_of(trace, row["thinking_budget"])[0]
        prompt = prompts[row["problem_id"]]
        counted = (*answer_prompt_tokens(prompt, seen, generator.boundary), len(seen.ids))
        read = (row["prompt_tokens"], row["injected_tokens"], row["thinking_tokens"])
        if counted != read:
            raise ConfigError(
                f"scorer: {part.scorer.name} reads an answer of {trace_set.model.name} as {counted} tokens (prompt, tags, thinking), the "
                f"model read {read}. Take a scorer with the models' tokenizer and chat template."
            )
        found.append((*answer_prompt(prompt, seen, generator.boundary), *ids.get(row["answer_text"], ())))
    return found
