"""What a model gives the gold answer after a thinking, and each choice: teacher-forced, by many one-token requests on a cached prompt.

Why: accuracy jumps where this slides; it says how near a model came. vLLM computes `prompt_logprobs` without its prefix cache, so that a
long thinking would be read again for a few tokens of gold; the next token's log-probability of a stated id is read with it. It takes the
thinking alone, not the answer: answers that were drawn long ago are served as well as new ones.
What it does not do: grade, or decide which answers are scored.

Brier score: Brier 1950, the sum over all choices, in [0, 2]; even odds on k choices give 1 - 1/k.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from thinkscale.config import Model
from thinkscale.endpoint import ResponseInvalid
from thinkscale.generate import AnswerKey, Generator
from thinkscale.problems import Problem
from thinkscale.prompting import written
from thinkscale.routes import GREEDY
from thinkscale.thinking import Cut, answer_prompt

Ids = tuple[int, ...]

MOST_IDS = 128
"""Ids that vLLM gives log-probabilities of in one request."""


class Forced(NamedTuple):
    """The gold answer of one row, and the choices where it has any."""

    logprob: float
    """Of the gold answer's tokens together."""
    tokens: int
    choices: tuple[float, ...] = ()
    """Probability of each choice's letter, of all letters together 1."""


class Asked(NamedTuple):
    """Texts that are scored in one place."""

    before: Ids
    texts: tuple[Ids, ...]


def as_written(model: Model, answer: str) -> str:
    """An answer as the model would write it: after a cue that ends in a colon with a space."""
    return f" {answer}" if model.thinking.close.endswith(":") else answer


def probabilities(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Log-probabilities of alternatives as probabilities that add up to 1."""
    weights = [math.exp(value - max(logprobs)) for value in logprobs]
    return tuple(weight / sum(weights) for weight in weights)


def brier(choices: Sequence[float], right: int) -> float:
    """Squared distance of the probabilities from 1 for the right choice and 0 for the others: 0 is best, 2 is sure of a wrong one."""
    return sum((p - (i == right)) ** 2 for i, p in enumerate(choices))


async def teacher_forced(
    generator: Generator, prompts: Mapping[str, Sequence[int]], problems: Sequence[Problem], seen: Mapping[AnswerKey, Cut]
) -> dict[AnswerKey, Forced]:
    """Of every row the gold answer in the answer's place, after the same thinking and close, and the letters of its choices.

    Rows that share their prompt (thinking off, a trace within several budgets) share the requests. What does not fit the context is left
    out. `seen`: what each row sees of its trace (`Generator.seen`).
    """
    wanted = {p.problem_id: [as_written(generator.model, text) for text in (p.answer, *p.letters)] for p in problems}
    each = dict.fromkeys(t for texts in wanted.values() for t in texts)
    ids = {text: await written(generator.client, text, generator.model.name) for text in each}
    asked: dict[AnswerKey, Asked] = {}
    for key, cut in seen.items():
        if cut.ended != "too_long":
            before = answer_prompt(prompts[key.problem_id], cut, generator.boundary)
            texts = tuple(ids[text] for text in wanted[key.problem_id])
            if len(before) + max(map(len, texts)) <= generator.model.context:
                asked[key] = Asked(before, texts)
    found = await text_logprobs(generator, asked)
    generator.on_drawn(len(seen), 0)
    return {
        key: Forced(gold, len(asked[key].texts[0]), probabilities(choices) if choices else ()) for key, (gold, *choices) in found.items()
    }


async def text_logprobs(generator: Generator, asked: Mapping[AnswerKey, Asked]) -> dict[AnswerKey, list[float]]:
    """Log-probability of each text's tokens together, given what stands before. What several rows ask is asked once."""
    steps: dict[Ids, set[int]] = {}
    for before, texts in asked.values():
        for text in texts:
            for i, token in enumerate(text):
                steps.setdefault((*before, *text[:i]), set()).add(token)
    scored = await generator.bounded([(len(batch), partial(_score, generator, batch)) for batch in _batches(steps, generator)])
    known = {before: each for batch in scored for before, each in batch}
    return {
        key: [sum(known[*before, *text[:i]][token] for i, token in enumerate(text)) for text in texts]
        for key, (before, texts) in asked.items()
    }


def _batches(steps: Mapping[Ids, set[int]], generator: Generator) -> Iterator[dict[Ids, set[int]]]:
    """Steps that fit one request. Raises ValueError where one place alone asks for more ids than fit."""
    batch: dict[Ids, set[int]] = {}
    ids: set[int] = set()
    for before, tokens in steps.items():
        if len(tokens) > MOST_IDS:
            raise ValueError(f"{len(tokens)} choices begin with different tokens; at most {MOST_IDS} can be scored in one place")
        if batch and (len(batch) == generator.engine.prompts_per_request or len(ids | tokens) > MOST_IDS):
            yield batch
            batch, ids = {}, set()
        batch[before] = tokens
        ids |= tokens
    if batch:
        yield batch


async def _score(generator: Generator, batch: Mapping[Ids, set[int]]) -> list[tuple[Ids, dict[int, float]]]:
    ids = sorted(set().union(*batch.values()))
    more: dict[str, Any] = {"logprobs": 1, "logprob_token_ids": ids, "return_tokens_as_token_ids": True}
    drawn = await generator.client.complete(list(batch), n=1, max_tokens=1, sampling=GREEDY, **more)
    generator.on_drawn(0, len(drawn))
    try:
        return [
            (before, {token: d.first_logprobs[f"token_id:{token}"] for token in tokens})
            for (before, tokens), d in zip(batch.items(), drawn, strict=True)
        ]
    except KeyError as e:
        raise ResponseInvalid(f"the log-probability of {e} did not come back: gold_logprob needs a server with logprob_token_ids") from e
