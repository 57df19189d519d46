"""One pass for the whole grid: traces at the largest budget, then forced answers at every budget.

Why: n traces per problem serve every smaller budget and every k <= n; a forced answer is a few tokens on a cached prompt.
What it does not do: decide what is owed, write files, grade, restart engines (see `shards` and the flows).
A failed request raises: nothing of it is kept, so it is owed, never wrong.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from thinkscale.config import Engine, Model, Sampling
from thinkscale.endpoint import Choice, Client
from thinkscale.problems import Problem
from thinkscale.thinking import Boundary, Cut, Trace, answer_prompt, cut, read_trace, trace_prompt

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

        async def one(problem_id: str, indices: list[int]) -> list[tuple[SampleKey, Trace]]:
            drawn = await self._complete(
                [trace_prompt(prompts[problem_id], self.boundary)],
                n=len(indices),
                max_tokens=budget + 1,
                stop_token_ids=self._stops(),
                # consecutive children of one request take seed, seed + 1, ...: hashed seeds keep requests apart
                seed=_seed(problem_id, indices[0]) if self.client.endpoint.seeds else None,
            )
            return [
                (SampleKey(problem_id, index), read_trace(None, d, self.boundary, budget)) for index, d in zip(indices, drawn, strict=True)
            ]

        found = await self._bounded([(len(indices), partial(one, p, indices)) for p, indices in groups])
        return {key: trace for group in found for key, trace in group}

    async def continued(
        self, prompts: Mapping[str, Sequence[int]], cut_short: dict[SampleKey, Trace], budget: int
    ) -> dict[SampleKey, Trace]:
        """Unclosed traces, continued to a larger cap from their ids and the token already drawn past their old cap."""
        by_room: dict[int, list[tuple[SampleKey, Trace]]] = {}
        for key, trace in cut_short.items():
            by_room.setdefault(budget - len(trace.ids), []).append((key, trace))

        async def one(room: int, group: list[tuple[SampleKey, Trace]]) -> list[tuple[SampleKey, Trace]]:
            drawn = await self._complete(
                [(*trace_prompt(prompts[key.problem_id], self.boundary), *trace.ids, trace.next_id) for key, trace in group],
                n=1,
                max_tokens=room,
                stop_token_ids=self._stops(),
                seed=None,  # one seed for many prompts would tie their draws together
            )
            return [(key, read_trace(trace, d, self.boundary, budget)) for (key, trace), d in zip(group, drawn, strict=True)]

        found = await self._bounded([(len(g), partial(one, room, g)) for room, all_ in by_room.items() for g in self._grouped(all_)])
        return {key: trace for group in found for key, trace in group}

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
        seen_of: dict[AnswerKey, tuple[Cut, str]] = {}
        for key in sorted(owed, key=lambda k: (k.problem_id, k.sample_index, k.thinking_budget)):
            sample = SampleKey(key.problem_id, key.sample_index)
            seen, hash_ = (
                (cut(traces[sample], key.thinking_budget), traces[sample].hash) if key.thinking_budget else (Cut((), "off"), "off")
            )
            seen_of[key] = (seen, hash_)
            if seen.ended in ("closed", "eos"):
                shared.setdefault((sample, hash_), []).append(key)
            else:
                single.append([key])
        done = {
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
                stop_token_ids=[],
                seed=None,  # one seed for many prompts would tie their draws together
            )
            rows = []
            for keys, d in zip(batch, drawn, strict=True):
                for i, key in enumerate(keys):
                    spent = len(d.token_ids) if i == 0 else 0
                    rows.append((key, Answer(*seen_of[key], len(d.token_ids), d.text, d.finish_reason, self.client.endpoint.engine, spent)))
            return rows

        found = await self._bounded([(len(batch), partial(one, batch)) for batch in self._grouped(groups)])
        return done | {key: answer for group in found for key, answer in group}

    async def prompts(self, problems: Sequence[Problem], prompt_text: str) -> dict[str, list[int]]:
        """problem_id -> ids of the rendered prompt, chat template applied by the server."""

        async def one(problem: Problem) -> tuple[str, list[int]]:
            text = render(prompt_text, problem)
            if self.model.chat:
                ids = await self.client.tokenize([{"role": "user", "content": text}], template_kwargs=self.model.template_kwargs)
            else:
                ids = await self.client.tokenize(text, add_special_tokens=True)
            return problem.problem_id, ids

        return dict(await self._bounded([(1, partial(one, p)) for p in problems]))

    def _stops(self) -> list[int]:
        return [] if self.boundary.stop is None else [self.boundary.stop]

    def _grouped(self, items: list[Any]) -> list[list[Any]]:
        size = self.engine.prompts_per_request
        return [items[i : i + size] for i in range(0, len(items), size)]

    async def _complete(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Choice]:
        """Draws in the order of prompts, then of n."""
        drawn = await self.client.complete(prompts, sampling=self.sampling, **options)
        self.on_drawn(len(drawn), sum(len(d.token_ids) for d in drawn))
        return drawn

    async def _bounded(self, work: list[tuple[int, Callable[[], Awaitable[Any]]]]) -> list[Any]:
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


async def boundary(client: Client, model: Model) -> Boundary:
    """The model's thinking tags as ids of its own tokenizer.

    Raises: ValueError where a model is said to close its thinking by itself and the close does not begin with one token of its own.
    """
    tags = model.thinking
    opened, closed = [tuple(await client.tokenize(t)) if t else () for t in (tags.open, tags.close)]
    off = tuple(await client.tokenize(tags.off)) if tags.off is not None else (*opened, *closed)
    if not tags.closes:
        return Boundary(opened, closed, off, None)
    first = await client.detokenize([closed[0]])
    if not first.strip() or not tags.close.startswith(first):
        raise ValueError(
            f"{model.name}: thinking.close is {tags.close!r} but its first token reads {first!r}: the model cannot write it as one token; "
            "set `closes: false`."
        )
    return Boundary(opened, closed, off, closed[0])


def render(prompt_text: str, problem: Problem) -> str:
    """The prompt for one problem. Raises ValueError where the template does not hold the question or uses an unknown name."""
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        text = environment.from_string(prompt_text).render(question=problem.question, choices=problem.choices)
    except jinja2.TemplateError as e:
        raise ValueError(f"prompt cannot be rendered: {e}. A prompt may use `question` and `choices`.") from e
    if problem.question not in text:
        raise ValueError(f"prompt leaves out the question {problem.question[:60]!r}: put {{{{ question }}}} in the template.")
    return text


def _seed(problem_id: str, sample_index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{problem_id}/{sample_index}".encode()).digest()[:4], "big")
