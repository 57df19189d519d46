"""One shard: draw the traces it owes, answer them at every budget it owes, grade the answers; each step a part on disk.

Why: a shard is what a Prefect task does and what is lost when an engine dies. Steps are published one by one, so that traces outlive a
death during the answers. Everything a shard needs to know comes from disk and from the plan; running it twice adds nothing.
What it does not do: decide what is owed (`plan`), start engines.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa

from thinkscale.config import digest
from thinkscale.conversation import conversations
from thinkscale.forced import Forced, brier, teacher_forced
from thinkscale.generate import TOO_LONG, Answer, AnswerKey, Generator, SampleKey
from thinkscale.grades import grade_part
from thinkscale.problems import Benchmark, Problem
from thinkscale.prompting import chosen, render
from thinkscale.routes import TraceSet
from thinkscale.schema import TableName
from thinkscale.store import Store
from thinkscale.thinking import Called, Cut, Trace, answer_prompt_tokens, trace_prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """A slice of a trace set's problems and what is owed of it."""

    trace_set: TraceSet
    benchmark: Benchmark
    label: str
    """For people: which slice of which benchmark."""
    problems: tuple[Problem, ...]
    budget: int
    """The largest budget: the cap of traces."""
    draw: tuple[SampleKey, ...]
    extend: tuple[SampleKey, ...]
    """Traces cut by a smaller cap, to be continued."""
    answers: tuple[AnswerKey, ...]
    pool: tuple[Problem, ...] = ()
    """What worked examples are taken from."""
    forced: tuple[AnswerKey, ...] = ()
    """Answers, drawn before or now, whose gold answer and choices are to be scored."""

    @cached_property
    def slice_id(self) -> str:
        """What is claimed (see `claims`): these problems of this trace set, whatever is owed of them."""
        return digest([self.trace_set.trace_set_id, [p.problem_id for p in self.problems]])

    @cached_property
    def by_id(self) -> dict[str, Problem]:
        """Its problems."""
        return {p.problem_id: p for p in self.problems}

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The columns that all its rows have alike."""
        t = self.trace_set
        return {
            "trace_set_id": t.trace_set_id,
            "model": t.model.name,
            "params": t.model.params,
            "params_active": t.model.params_active,
            "params_non_embedding": t.model.params_non_embedding,
            "benchmark": self.benchmark.name,
            "skill": self.benchmark.skill,
            "prompt": t.prompt_name,
            "route": str(t.route),
            "sampling": str(t.sampling),
        }

    @property
    def work(self) -> int:
        """What it owes as one number, in this process: the same keys give the same."""
        return hash((self.slice_id, self.draw, self.extend, self.answers, self.forced))

    @property
    def sequences(self) -> int:
        """How many completions it takes at most."""
        return len(self.draw) + len(self.extend) + len(self.answers) + len(self.forced)


class ShardDone(NamedTuple):
    """What a shard added."""

    traces: int
    answers: int
    correct: int


async def run_shard(shard: Shard, generator: Generator, store: Store) -> ShardDone:
    """Do what the shard owes. Raises whatever the endpoint or the store raises; parts that were published stay.

    Reading and writing happen in threads: an object store takes its time, and other shards' requests must not wait for it.
    """
    prompts = await generator.prompts(shard.problems, shard.trace_set.prompt_text, shard.trace_set.examples, shard.pool)
    used = (*shard.answers, *shard.forced)
    samples, fresh = {SampleKey(a.problem_id, a.sample_index) for a in used}, set(shard.draw)
    stored = not fresh.issuperset((*shard.extend, *samples))
    traces = await asyncio.to_thread(read_traces, store, shard) if stored else {}
    needed = {*shard.extend, *(SampleKey(a.problem_id, a.sample_index) for a in used if a.thinking_budget)} - fresh
    if needed - traces.keys():  # a part was torn where nobody had looked, and is set aside now: other work is owed than this
        return ShardDone(0, 0, 0)
    if shard.draw or shard.extend:
        traces = await _published(shard, generator, store, prompts, traces)
    correct = 0
    if shard.answers:
        known = await asyncio.to_thread(known_answers, store, shard) if stored else {}
        answers = await generator.answers(prompts, traces, shard.answers, known)
        name = f"{shard.trace_set.trace_set_id}-{digest(shard.answers)}"
        rows = [_answer_row(shard, key, answer, prompts, generator) for key, answer in answers.items()]
        if missed := sum(answer.finish == TOO_LONG for answer in answers.values()):
            what = (shard.trace_set.model.name, shard.label, missed, len(answers), shard.trace_set.model.context)
            log.warning("%s: %s: %d of %d answers do not fit the context of %d tokens, and count as wrong", *what)
        await asyncio.to_thread(store.publish, "answers", name, rows, trace_set_id=shard.trace_set.trace_set_id)
        correct = await asyncio.to_thread(grade_part, store, name, {shard.benchmark.name: shard.benchmark}, shard.by_id)
    if shard.forced:
        await _force(shard, generator, store, prompts, traces)
    return ShardDone(len(shard.draw) + len(shard.extend), len(shard.answers), correct)


async def _published(
    shard: Shard, generator: Generator, store: Store, prompts: dict[str, list[int]], traces: dict[SampleKey, Trace]
) -> dict[SampleKey, Trace]:
    """Draw and continue traces, publish them; the slice's traces as they then are."""
    set_id = shard.trace_set.trace_set_id
    drawn = await _draw(shard, prompts, generator)
    drawn |= await generator.continued(prompts, {key: traces[key] for key in shard.extend}, shard.budget)
    rows = [_sample_row(shard, key, trace, prompts, generator) for key, trace in drawn.items()]
    # a lost race means that another run drew the same samples: its traces stand, ours are forgotten
    name = f"{set_id}-{digest([shard.budget, shard.draw, shard.extend])}"
    won = await asyncio.to_thread(store.publish, "samples", name, rows, trace_set_id=set_id)
    return traces | drawn if won else await asyncio.to_thread(read_traces, store, shard)


async def _force(
    shard: Shard, generator: Generator, store: Store, prompts: Mapping[str, list[int]], traces: dict[SampleKey, Trace]
) -> None:
    """Score gold answers and choices and publish them; a part of its own, so that answers which are there stay as they are."""
    set_id, seen = shard.trace_set.trace_set_id, generator.seen(prompts, traces, shard.forced)
    found = await teacher_forced(generator, prompts, shard.problems, {key: cut for key, (cut, _) in seen.items()})
    rows = [_forced_row(shard, key, hash_, found.get(key), generator) for key, (_, hash_) in seen.items()]
    await asyncio.to_thread(store.publish, "forced", f"{set_id}-{digest(shard.forced)}", rows, trace_set_id=set_id)


async def _draw(shard: Shard, prompts: dict[str, list[int]], generator: Generator) -> dict[SampleKey, Trace]:
    """The traces that are not on disk yet."""
    if shard.trace_set.route.name != "tools":
        return await generator.traces(prompts, shard.draw, shard.budget)
    text, number = shard.trace_set.prompt_text, shard.trace_set.examples
    texts = {p.problem_id: render(text, p, chosen(shard.pool, p, number)) for p in shard.problems}
    return await conversations(generator, texts, prompts, shard.draw, shard.budget)


def read_traces(store: Store, shard: Shard) -> dict[SampleKey, Trace]:
    """The slice's traces on disk; of a trace that was continued, the longest."""
    columns = ["trace_budget", "ended", "thinking_token_ids", "next_token_id", "thinking", "close_token_ids", "waits"]
    columns += ["tool_result_at", "tool_result_tokens", "tool_result_valid", "pending_token_ids", "turn_prompt_token_ids"]
    rows = _of_slice(store, "samples", columns, shard).sort_by("trace_budget").to_pylist()
    return {
        SampleKey(r["problem_id"], r["sample_index"]): Trace(
            tuple(r["thinking_token_ids"]),
            r["ended"],
            r["trace_budget"],
            r["next_token_id"],
            r["thinking"],
            tuple(r["close_token_ids"] or ()),
            tuple(r["waits"] or ()),
            calls=tuple(map(Called, *(r[f"tool_result_{what}"] or () for what in ("at", "tokens", "valid")))),
            pending=tuple(r["pending_token_ids"] or ()),
            turn=tuple(r["turn_prompt_token_ids"] or ()),
        )
        for r in rows
    }


def known_answers(store: Store, shard: Shard) -> dict[tuple[SampleKey, str], Answer]:
    """Answers on disk of whole traces: a larger budget shares them."""
    columns = ["ended", "trace_hash", "answer_tokens", "answer_text", "answer_finish", "engine", "answer_logprob"]
    rows = [r for r in _of_slice(store, "answers", columns, shard).to_pylist() if r["ended"] in ("closed", "eos")]
    return {
        (SampleKey(r["problem_id"], r["sample_index"]), r["trace_hash"]): Answer(
            Cut((), r["ended"]),
            r["trace_hash"],
            r["answer_tokens"],
            r["answer_text"],
            r["answer_finish"],
            r["engine"],
            0,
            r["answer_logprob"],
        )
        for r in rows
    }


def _of_slice(store: Store, table: TableName, columns: list[str], shard: Shard) -> pa.Table:
    """The rows of a shard's problems, whichever shard drew them."""
    return store.read(table, ["problem_id", "sample_index", *columns], {shard.trace_set.trace_set_id}, list(shard.by_id))


def _forced_row(shard: Shard, key: AnswerKey, trace_hash: str, found: Forced | None, generator: Generator) -> dict[str, Any]:
    choices = found.choices if found else ()
    right = shard.by_id[key.problem_id].right_choice if choices else 0
    return {
        "trace_set_id": shard.trace_set.trace_set_id,
        "cell_id": shard.trace_set.cell_id(key.thinking_budget),
        "problem_id": key.problem_id,
        "sample_index": key.sample_index,
        "thinking_budget": key.thinking_budget,
        "trace_hash": trace_hash,
        "gold_logprob": found and found.logprob,
        "gold_tokens": found and found.tokens,
        "choice_probs": list(choices) or None,
        "right_prob": choices[right] if choices else None,
        "brier": brier(choices, right) if choices else None,
        "engine": generator.client.endpoint.engine,
    }


def _keys(shard: Shard, problem_id: str) -> dict[str, Any]:
    """The key columns that `samples` and `answers` share."""
    problem = shard.by_id[problem_id]
    return {**shard.keys, "problem_id": problem_id, "cluster_id": problem.cluster_id, "difficulty": problem.difficulty}


def _sample_row(shard: Shard, key: SampleKey, trace: Trace, prompts: Mapping[str, list[int]], generator: Generator) -> dict[str, Any]:
    prompt = prompts[key.problem_id]
    return {
        **_keys(shard, key.problem_id),
        "sample_index": key.sample_index,
        "trace_budget": trace.budget,
        "ended": trace.ended,
        "prompt_tokens": len(prompt if trace.turn else trace_prompt(prompt, generator.boundary)),
        "thinking_tokens": len(trace.ids),
        "thinking_token_ids": list(trace.ids),
        "next_token_id": trace.next_id,
        "thinking": trace.text,
        "trace_hash": trace.hash,
        "close_token_ids": list(trace.closing),
        "waits": list(trace.waits),
        **_results(shard, trace),
        "pending_token_ids": list(trace.pending),
        "turn_prompt_token_ids": list(trace.turn),
        "request_completion_tokens": trace.drawn,
        "engine": generator.client.endpoint.engine,
    }


def _results(shard: Shard, trace: Trace) -> dict[str, Any]:
    """What a tool put into a trace, by the columns of `samples`."""
    columns = ("tool_result_at", "tool_result_tokens", "tool_result_valid")
    offered = shard.trace_set.route.tool is not None
    return {column: [call[i] for call in trace.calls] if offered else None for i, column in enumerate(columns)}


def _calls(shard: Shard, seen: Cut) -> dict[str, Any]:
    """What of it stands in a thinking, by the columns of `answers`."""
    found = {"tool_calls": len(seen.calls), "tool_valid": sum(call.valid for call in seen.calls), "tool_tokens": seen.tool_tokens}
    return found if shard.trace_set.route.tool is not None else dict.fromkeys(found)


def _answer_row(shard: Shard, key: AnswerKey, answer: Answer, prompts: Mapping[str, list[int]], generator: Generator) -> dict[str, Any]:
    prompt_tokens, injected = answer_prompt_tokens(prompts[key.problem_id], answer.seen, generator.boundary)
    thinking = len(answer.seen.ids)
    over = thinking > key.thinking_budget
    if over and shard.trace_set.route.name != "native":  # a budget is checked, not trusted
        raise AssertionError(f"{key}: {thinking} thinking tokens over the budget")
    return {
        **_keys(shard, key.problem_id),
        "cell_id": shard.trace_set.cell_id(key.thinking_budget),
        "sample_index": key.sample_index,
        "thinking_budget": key.thinking_budget,
        "ended": answer.seen.ended,
        "prompt_tokens": prompt_tokens,
        "thinking_tokens": thinking,
        "over_budget": over,
        **_calls(shard, answer.seen),
        "injected_tokens": injected,
        "answer_tokens": answer.token_count,
        "completion_tokens": thinking + injected + answer.token_count,
        "answer_text": answer.text,
        "answer_finish": answer.finish,
        "answer_logprob": answer.logprob,
        "answer_logprob_mean": answer.logprob / answer.token_count if answer.logprob is not None else None,
        "trace_hash": answer.trace_hash,
        "request_completion_tokens": answer.request_completion_tokens,
        "engine": answer.engine,
    }
