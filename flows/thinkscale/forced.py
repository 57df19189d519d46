"""Log-probability of the gold answer after a thinking: teacher-forced, by many one-token requests on a cached prompt.

Why: accuracy jumps where this slides; it says how near a model came. vLLM computes `prompt_logprobs` without its prefix cache, so that a
long thinking would be read again for a few tokens of gold; the next token's log-probability of a stated id is read with it.
What it does not do: grade, or decide which answers are scored.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from thinkscale.config import Model
from thinkscale.endpoint import ResponseInvalid
from thinkscale.generate import Answer, AnswerKey, Generator
from thinkscale.problems import Problem
from thinkscale.routes import GREEDY
from thinkscale.thinking import answer_prompt

MOST_IDS = 128
"""Ids that vLLM gives log-probabilities of in one request."""


class Gold(NamedTuple):
    """The gold answer of one row."""

    logprob: float
    """Of its tokens together."""
    tokens: int


class _Step(NamedTuple):
    """One token to be scored."""

    before: tuple[int, ...]
    token: int


def gold_text(model: Model, problem: Problem) -> str:
    """The gold answer as the model would write it: after a cue that ends in a colon with a space."""
    return f" {problem.answer}" if model.thinking.close.endswith(":") else problem.answer


async def gold_logprobs(
    generator: Generator, prompts: Mapping[str, Sequence[int]], problems: Sequence[Problem], answers: Mapping[AnswerKey, Answer]
) -> dict[AnswerKey, Gold]:
    """Of every answer that was asked for: the log-probability of gold in its place, after the same thinking and close.

    Rows that share their prompt (thinking off, a trace within several budgets) share the score.
    """
    gold = {p.problem_id: tuple(await generator.client.tokenize(gold_text(generator.model, p))) for p in problems}
    steps: dict[AnswerKey, list[_Step]] = {}
    for key, answer in answers.items():
        if answer.seen.ended != "too_long":
            before, ids = answer_prompt(prompts[key.problem_id], answer.seen, generator.boundary), gold[key.problem_id]
            if len(before) + len(ids) <= generator.model.context:
                steps[key] = [_Step((*before, *ids[:i]), ids[i]) for i in range(len(ids))]
    wanted = list(dict.fromkeys(step for row in steps.values() for step in row))
    scored = await generator.bounded([(len(batch), partial(_score, generator, batch)) for batch in _batches(wanted, generator)])
    logprob = {step: value for batch in scored for step, value in batch}
    return {key: Gold(sum(logprob[step] for step in row), len(row)) for key, row in steps.items()}


def _batches(steps: list[_Step], generator: Generator) -> Iterator[list[_Step]]:
    """Steps that fit one request."""
    batch: list[_Step] = []
    ids: set[int] = set()
    for step in steps:
        if batch and (len(batch) == generator.engine.prompts_per_request or len(ids | {step.token}) > MOST_IDS):
            yield batch
            batch, ids = [], set()
        batch.append(step)
        ids.add(step.token)
    if batch:
        yield batch


async def _score(generator: Generator, batch: list[_Step]) -> list[tuple[_Step, float]]:
    ids = sorted({step.token for step in batch})
    more: dict[str, Any] = {"logprobs": 1, "logprob_token_ids": ids, "return_tokens_as_token_ids": True}
    drawn = await generator.client.complete([step.before for step in batch], n=1, max_tokens=1, sampling=GREEDY, **more)
    generator.on_drawn(0, len(drawn))
    try:
        return [(step, d.first_logprobs[f"token_id:{step.token}"]) for step, d in zip(batch, drawn, strict=True)]
    except KeyError as e:
        raise ResponseInvalid(f"the log-probability of {e} did not come back: gold_logprob needs a server with logprob_token_ids") from e
