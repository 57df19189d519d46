"""Route `tools`: the model calls a tool through the chat API, whose server reads the calls and renders the conversation.

Why: chat models were trained to call tools in a way of their own, which the API's parsers know. What was drawn and what was read since
the question are counted in token ids, as everywhere: results and the template's words around them are put in, and charged as thinking.
What it does not do: serve several budgets from one draw. A template may write earlier turns anew, so that a trace is no longer one text;
what the last turn stood on is kept, and the answer is asked after it by ids, as on every route. A call that the parser cannot read is
none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from thinkscale.calculator import FUNCTION, answer_call
from thinkscale.endpoint import ResponseInvalid, Said
from thinkscale.generate import Generator, SampleKey, seed_of
from thinkscale.thinking import Boundary, Called, Trace


async def conversations(
    generator: Generator, texts: Mapping[str, str], prompts: Mapping[str, Sequence[int]], draw: Iterable[SampleKey], budget: int
) -> dict[SampleKey, Trace]:
    """New traces under a cap on all that is drawn or put in before the answer.

    Args:
        texts: problem_id -> rendered prompt.
        prompts: the same as ids, with the tool told by the chat template.
        draw: which samples; each is a conversation of its own.
        budget: of the trace set.
    """

    async def one(key: SampleKey) -> tuple[SampleKey, Trace]:
        return key, await _converse(generator, texts[key.problem_id], tuple(prompts[key.problem_id]), key, budget)

    return dict(await generator.bounded([(1, partial(one, key)) for key in draw]))


async def _converse(generator: Generator, text: str, prompt: tuple[int, ...], key: SampleKey, budget: int) -> Trace:
    cap = generator.cap(prompt, budget)
    if cap <= 0:
        return Trace((), "too_long", budget)
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    trace, valid = Trace((), "cut", budget, turn=prompt), list[bool]()
    while True:
        # how much room is left is known only when the results are ids
        ids = await generator.client.tokenize(messages, template_kwargs=generator.model.template_kwargs, tools=[FUNCTION])
        room = cap + 1 - len(heard(trace, tuple(ids), valid).ids)
        if room <= 0:
            return _full(heard(trace, tuple(ids), valid), cap)
        said = await _said(generator, messages, room, key)
        if len(messages) == 1 and said.prompt_ids != prompt:
            raise ResponseInvalid(
                f"{key}: the chat API reads another prompt than /tokenize says: {len(said.prompt_ids)} and {len(prompt)} ids"
            )
        trace = heard(trace, said.prompt_ids, valid)
        trace = replace(trace, drawn=trace.drawn + len(said.token_ids))
        whole = len(trace.ids) + len(said.token_ids) <= cap
        if not said.calls or said.finish_reason == "length" or not whole or len(trace.calls) >= generator.route.calls:
            return _full(ended(trace, said, generator.boundary), cap)
        trace = replace(trace, ids=(*trace.ids, *said.token_ids))
        results = [answer_call(call.name, call.arguments) for call in said.calls]
        valid = [result.valid for result in results]
        told = [{"role": "tool", "tool_call_id": call.id, "content": r.text} for call, r in zip(said.calls, results, strict=True)]
        messages += [said.message, *told]


async def _said(generator: Generator, messages: list[dict[str, Any]], room: int, key: SampleKey) -> Said:
    seed = {"seed": seed_of(*key) + len(messages)} if generator.client.endpoint.seeds else {}
    more = {"tools": [FUNCTION], "tool_choice": "auto", "chat_template_kwargs": generator.model.template_kwargs}
    said = await generator.client.chat(messages, room, generator.sampling, **more, **seed)
    generator.on_drawn(1 if len(messages) == 1 else 0, len(said.token_ids))
    return said


def heard(trace: Trace, prompt: tuple[int, ...], valid: Sequence[bool]) -> Trace:
    """The trace with what was put in since its last token: of the conversation as rendered now, all that goes beyond what stood there.

    Args:
        trace: so far, its last turn whole.
        prompt: ids of the conversation now.
        valid: of each call in that turn, whether it could be answered; they share what is put in, which is counted for the first.
    """
    known = (*trace.turn, *trace.ids[trace.calls[-1].at if trace.calls else 0 :])
    common = next((i for i, (a, b) in enumerate(zip(known, prompt, strict=False)) if a != b), min(len(known), len(prompt)))
    put_in, at = prompt[common:], len(trace.ids)
    calls = tuple(Called(at, 0 if i else len(put_in), it_is) for i, it_is in enumerate(valid))
    return replace(trace, ids=(*trace.ids, *put_in), turn=prompt[:common], calls=(*trace.calls, *calls))


def ended(trace: Trace, said: Said, boundary: Boundary) -> Trace:
    """The trace with its last message: up to the close of its thinking; where there is none, all of it."""
    drawn = said.token_ids
    if boundary.stop is not None and boundary.stop in drawn:
        return replace(trace, ids=(*trace.ids, *drawn[: drawn.index(boundary.stop)]), ended="closed")
    cut = said.finish_reason == "length"
    return replace(trace, ids=(*trace.ids, *(drawn if cut else drawn[:-1])), ended="cut" if cut else "eos")


def _full(trace: Trace, cap: int) -> Trace:
    """Cut at the cap, where it goes beyond; too long where that is the context's and not the budget."""
    if len(trace.ids) <= cap and trace.ended != "cut":
        return trace
    return replace(trace, ids=trace.ids[:cap], ended="cut" if cap == trace.budget else "too_long")
