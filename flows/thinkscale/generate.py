"""One pass for the whole grid: traces at the largest budget, then forced answers at every budget.

Why: n traces per problem serve every smaller budget and every k <= n; a forced answer is a few tokens on a cached prompt.
What it does not do: decide what is owed, write files, grade, restart engines (see `shards` and the flows).
A failed request raises: nothing of it is kept, so it is owed, never wrong.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from thinkscale.calculator import FUNCTION
from thinkscale.calls import read_call, with_results
from thinkscale.config import Engine, Model, Sampling
from thinkscale.endpoint import Choice, Client
from thinkscale.problems import Problem
from thinkscale.prompting import chosen, render
from thinkscale.routes import ALONE, CUT, Route
from thinkscale.thinking import (
    NATIVE_SLACK,
    THINKING_OFF,
    Boundary,
    Cut,
    Trace,
    answer_prompt,
    closed_by_template,
    cut,
    read_native,
    read_trace,
    resumed,
    trace_prompt,
    waited,
    with_calls,
)

MAX_N = 16
"""Samples per request: larger n has hung vLLM (#6646, #7050)."""


class SampleKey(NamedTuple):
    """One sample of a trace set."""

    problem_id: str
    sample_index: int


class AnswerKey(NamedTuple):
    """One row of `answers` within a trace set."""

    problem_id: str
    sample_index: int
    thinking_budget: int


class Answer(NamedTuple):
    """One answer as drawn."""

    seen: Cut
    trace_hash: str
    token_count: int
    text: str
    finish: str
    engine: str
    """Fingerprint of the engine that drew it; a shared answer keeps that of its first drawing."""
    request_completion_tokens: int
    logprob: float | None = None
    """Of the answer's tokens, by the model itself; None where it was not asked for."""


TOO_LONG = "too_long"
"""`answer_finish` of a problem that does not fit the model's context at this budget: nothing was asked."""


class Room:
    """How many sequences may be in flight at once, over all shards of an engine."""

    def __init__(self, size: int) -> None:
        self._size, self._free, self._changed = size, size, asyncio.Condition()

    @asynccontextmanager
    async def take(self, sequences: int) -> AsyncIterator[None]:
        """Wait for room; a request larger than the whole room waits for all of it."""
        wanted = min(sequences, self._size)
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            async with self._changed:
                self._free += wanted
                self._changed.notify_all()


@dataclass(frozen=True)
class Generator:
    """Draws for one trace set on one engine; keeps no state between calls but the count of tokens."""

    client: Client
    model: Model
    boundary: Boundary
    sampling: Sampling
    engine: Engine
    answer_tokens: int
    room: Room
    on_drawn: Callable[[int, int], None] = lambda sequences, tokens: None
    route: Route = CUT
    wait: tuple[int, ...] = ()
    """Of route `extend`: the ids in place of a close."""

    async def traces(self, prompts: Mapping[str, Sequence[int]], draw: Iterable[SampleKey], budget: int) -> dict[SampleKey, Trace]:
        """New traces under a cap.

        Args:
            prompts: problem_id -> prompt ids (chat template applied).
            draw: which samples; those of one problem share requests of at most 16.
            budget: the largest budget of the trace set.
        """
        by_problem: dict[str, list[int]] = {}
        for key in draw:
            by_problem.setdefault(key.problem_id, []).append(key.sample_index)
        groups = [(p, indices[i : i + MAX_N]) for p, indices in by_problem.items() for i in range(0, len(indices), MAX_N)]

        caps = {p: self.cap(prompts[p], budget) for p in by_problem}

        async def one(problem_id: str, indices: list[int]) -> list[tuple[SampleKey, Trace]]:
            prompt, cap = prompts[problem_id], caps[problem_id]
            keys = [SampleKey(problem_id, index) for index in indices]
            native = {"thinking_token_budget": budget} if self.route.name == "native" else {}
            if closed_by_template(prompt, self.boundary):
                return [(key, Trace((), "closed", budget)) for key in keys]
            if cap <= 0 or (native and cap < budget):
                return [(key, Trace((), "too_long", budget)) for key in keys]
            drawn = await self._complete(
                [trace_prompt(prompt, self.boundary)],
                n=len(indices),
                max_tokens=cap + 1 + (NATIVE_SLACK if native else 0),
                # consecutive children of one request take seed, seed + 1, ...: hashed seeds keep requests apart
                seed=seed_of(problem_id, indices[0]) if self.client.endpoint.seeds else None,
                **self._stops(0),
                **native,
            )
            read = [read_native(d, self.boundary, cap) if native else self._read(None, d, cap) for d in drawn]
            return list(zip(keys, read, strict=True))

        found = await self.bounded([(len(indices), partial(one, p, indices)) for p, indices in groups])
        return await self._on(prompts, {key: trace for group in found for key, trace in group}, budget)

    async def continued(
        self, prompts: Mapping[str, Sequence[int]], cut_short: dict[SampleKey, Trace], budget: int
    ) -> dict[SampleKey, Trace]:
        """Unclosed traces, continued to a larger cap from their ids and the token already drawn past their old cap."""
        known = {key: resumed(trace, self.wait, self.cap(prompts[key.problem_id], budget)) for key, trace in cut_short.items()}
        return await self._on(prompts, known, budget)

    async def _on(self, prompts: Mapping[str, Sequence[int]], traces: dict[SampleKey, Trace], budget: int) -> dict[SampleKey, Trace]:
        """Traces until each is closed, cut at the budget, or too long for the context.

        With `extend` they are made to go on meanwhile, and what a tool is asked is answered.
        """
        done: dict[SampleKey, Trace] = {}
        while True:
            short: dict[SampleKey, Trace] = {}
            caps = {key: self.cap(prompts[key.problem_id], budget) for key in traces}
            if self.route.tool is not None:
                traces = await with_results(self.client, self.route.tool, traces, caps)
            for key, trace in traces.items():
                cap = caps[key]
                if self.wait and not closed_by_template(prompts[key.problem_id], self.boundary):
                    told = waited(trace, self.wait, self.route.times, self.boundary, cap)
                    trace = trace if told is trace else replace(told, text=told.text + self.route.wait)
                if trace.ended == "cut" and trace.budget < cap and self.route.name != "native":
                    short[key] = trace
                else:
                    if trace.ended == "cut" and cap < budget:
                        trace = replace(trace, ended="too_long", next_id=-1, pending=())
                    done[key] = trace if trace.budget == budget else replace(trace, budget=budget)
            if not short:
                return done
            traces = await self._drawn_on(prompts, short, budget)

    async def _drawn_on(self, prompts: Mapping[str, Sequence[int]], short: dict[SampleKey, Trace], budget: int) -> dict[SampleKey, Trace]:
        by_room: dict[tuple[int, int], list[tuple[SampleKey, Trace]]] = {}
        for key, trace in short.items():
            room = self.cap(prompts[key.problem_id], budget) - len(trace.ids)
            by_room.setdefault((room, len(trace.calls)), []).append((key, trace))

        async def one(room: int, calls: int, group: list[tuple[SampleKey, Trace]]) -> list[tuple[SampleKey, Trace]]:
            drawn = await self._complete(
                [(*trace_prompt(prompts[key.problem_id], self.boundary), *trace.ids, trace.next_id) for key, trace in group],
                n=1,
                max_tokens=room,
                seed=None,  # one seed for many prompts would tie their draws together
                sequences=sum(not trace.drawn for _, trace in group),  # one that goes on after a result was counted
                **self._stops(calls),
            )
            caps = [self.cap(prompts[key.problem_id], budget) for key, _ in group]
            return [(key, self._read(t, d, cap)) for (key, t), d, cap in zip(group, drawn, caps, strict=True)]

        found = await self.bounded([(len(g), partial(one, *like, g)) for like, all_ in by_room.items() for g in self._grouped(all_)])
        return {key: trace for group in found for key, trace in group}

    def cap(self, prompt: Sequence[int], budget: int) -> int:
        """The budget, or what of it the context holds beside the prompt, the close and an answer."""
        slack = NATIVE_SLACK if self.route.name == "native" else 0
        beside = len(trace_prompt(prompt, self.boundary)) + len(self.boundary.close) + self.answer_tokens + slack
        return min(budget, self.model.context - beside)

    async def answers(
        self,
        prompts: Mapping[str, Sequence[int]],
        traces: dict[SampleKey, Trace],
        owed: Iterable[AnswerKey],
        known: dict[tuple[SampleKey, str], Answer],
    ) -> dict[AnswerKey, Answer]:
        """Forced answers. A trace that ended within several budgets is answered once, for the smallest; the others share that draw.

        Args:
            traces: every sample that an owed answer above budget 0 is cut from.
            known: answers on disk of whole traces, by sample and trace hash: shared rather than drawn again.
        """
        shared: dict[tuple[SampleKey, str], list[AnswerKey]] = {}
        single: list[list[AnswerKey]] = []
        seen_of = self.seen(prompts, traces, sorted(owed, key=lambda k: (k.problem_id, k.sample_index, k.thinking_budget)))
        for key, (seen, hash_) in seen_of.items():
            if seen.ended in ("closed", "eos"):
                shared.setdefault((SampleKey(key.problem_id, key.sample_index), hash_), []).append(key)
            elif seen.ended != "too_long":
                single.append([key])
        said = self.client.endpoint.engine
        too_long = {k: Answer(*s, 0, "", TOO_LONG, said, 0) for k, s in seen_of.items() if s[0].ended == "too_long"}
        done = too_long | {
            key: known[whole]._replace(seen=seen_of[key][0], request_completion_tokens=0)
            for whole, keys in shared.items()
            if whole in known
            for key in keys
        }
        groups = single + [keys for whole, keys in shared.items() if whole not in known]

        async def one(batch: list[list[AnswerKey]]) -> list[tuple[AnswerKey, Answer]]:
            drawn = await self._complete(
                [answer_prompt(prompts[keys[0].problem_id], seen_of[keys[0]][0], self.boundary) for keys in batch],
                n=1,
                max_tokens=self.answer_tokens,
                seed=None,  # one seed for many prompts would tie their draws together
                logprobs=0,
            )
            rows = []
            for keys, d in zip(batch, drawn, strict=True):
                for i, key in enumerate(keys):
                    spent = len(d.token_ids) if i == 0 else 0
                    rows.append((key, Answer(*seen_of[key], len(d.token_ids), d.text, d.finish_reason, said, spent, d.logprob)))
            return rows

        found = await self.bounded([(len(batch), partial(one, batch)) for batch in self._grouped(groups)])
        return done | {key: answer for group in found for key, answer in group}

    async def prompts(
        self, problems: Sequence[Problem], prompt_text: str, examples: int = 0, pool: Sequence[Problem] = ()
    ) -> dict[str, list[int]]:
        """problem_id -> ids of the rendered prompt, chat template applied by the server; so many examples out of the pool."""

        async def one(problem: Problem) -> tuple[str, list[int]]:
            text = render(prompt_text, problem, chosen(pool, problem, examples))
            if self.model.chat:
                # the API's own tools stand in the prompt, where they may be called
                tools = [FUNCTION] if self.route.name == "tools" and max(self.route.budgets) else []
                ids = await self.client.tokenize(
                    [{"role": "user", "content": text}], template_kwargs=self.model.template_kwargs, tools=tools
                )
            else:
                ids = await self.client.tokenize(text, add_special_tokens=True)
            return problem.problem_id, ids

        return dict(await self.bounded([(1, partial(one, p)) for p in problems]))

    def seen(
        self, prompts: Mapping[str, Sequence[int]], traces: Mapping[SampleKey, Trace], keys: Iterable[AnswerKey]
    ) -> dict[AnswerKey, tuple[Cut, str]]:
        """What each answer sees of its trace, and the trace's hash; `too_long` where that leaves no room for an answer."""
        found: dict[AnswerKey, tuple[Cut, str]] = {}
        for key in keys:
            sample, budget = SampleKey(key.problem_id, key.sample_index), key.thinking_budget
            seen, hash_ = self.cut_of(traces[sample], budget) if budget else (Cut((), "off"), THINKING_OFF)
            room = self.model.context - self.answer_tokens
            fits = len(answer_prompt(prompts[key.problem_id], seen, self.boundary)) <= room
            found[key] = (seen if fits else Cut((), "too_long"), hash_)
        return found

    def cut_of(self, trace: Trace, budget: int) -> tuple[Cut, str]:
        """The trace as this budget's answer sees it, and the trace's hash."""
        whole = self.route.name in ALONE and trace.ended != "too_long"
        return with_calls(Cut(trace.ids, trace.ended), trace) if whole else cut(trace, budget), trace.hash

    def _read(self, before: Trace | None, drawn: Choice, cap: int) -> Trace:
        """What was drawn, as a trace: up to a call that is to be answered, if there is one."""
        tool, calls = self.route.tool, len(before.calls) if before else 0
        call = read_call(before, drawn, tool, cap) if tool is not None and calls < self.route.calls else None
        return call or read_trace(before, drawn, self.boundary, cap)

    def _stops(self, calls: int) -> dict[str, Any]:
        """What ends a request of traces in which so many calls were answered."""
        cue, tool = self.boundary.cue, self.route.tool
        texts = [*([] if cue is None else [cue]), *([tool.close] if tool is not None and calls < self.route.calls else [])]
        ids = {} if cue is not None else {"stop_token_ids": [] if self.boundary.stop is None else [self.boundary.stop]}
        # the text of each token says where a cue begins, or a call ends
        return ids | ({"stop": texts, "logprobs": 0, "include_stop_str_in_output": True} if texts else {})

    def _grouped(self, items: list[Any]) -> list[list[Any]]:
        size = self.engine.prompts_per_request
        return [items[i : i + size] for i in range(0, len(items), size)]

    async def _complete(self, prompts: Sequence[Sequence[int]], sequences: int | None = None, **options: Any) -> list[Choice]:
        """Draws in the order of prompts, then of n; so many of them are new (None: all)."""
        drawn = await self.client.complete(prompts, sampling=self.sampling, **options)
        self.on_drawn(len(drawn) if sequences is None else sequences, sum(len(d.token_ids) for d in drawn))
        return drawn

    async def bounded(self, work: list[tuple[int, Callable[[], Awaitable[Any]]]]) -> list[Any]:
        """Run all, each when there is room for its sequences; the first failure cancels the rest and is raised."""

        async def one(size: int, job: Callable[[], Awaitable[Any]]) -> Any:
            async with self.room.take(size):
                return await job()

        tasks = [asyncio.ensure_future(one(size, job)) for size, job in work]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise


def seed_of(problem_id: str, sample_index: int) -> int:
    """Seed of a request that begins with this sample."""
    return int.from_bytes(hashlib.sha256(f"{problem_id}/{sample_index}".encode()).digest()[:4], "big")
