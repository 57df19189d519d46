"""Calls of a tool inside the thinking, on token ids: where one ends, and the thinking with its result put in.

Why: a result counts as thinking and stands where the call ended, whatever the budget, so that budgets still come out of one pass, and a
budget may end inside a result. A call ends with the token that completes its closing text, wherever the engine stopped: it only looks at
what it draws in one request, and a call may have begun before that.
What it does not do: calculate (see `calculator`), draw (see `generate`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from thinkscale.calculator import Result, Tool, answer, expression_in, result_text
from thinkscale.endpoint import Choice, Client
from thinkscale.thinking import Called, Trace, cut_at

Key = TypeVar("Key")


def read_call(before: Trace | None, drawn: Choice, tool: Tool, budget: int) -> Trace | None:
    """The trace up to the end of the first call that ends in what was drawn, to be answered; None where none does.

    What was drawn past that end is dropped: it was drawn without the result.

    Args: as of `thinking.read_trace`; `drawn` has the texts of its tokens.
    Raises: ValueError where the engine stopped at a call that is not in its tokens, or drew more than it was asked for.
    """
    text, whole = (before.text, (*before.ids, before.next_id)) if before else ("", ())
    start = max(0, len(text) - len(tool.close) + 1)
    for i, token in enumerate(drawn.token_texts):
        text += token
        if tool.close in text[start:]:
            whole = (*whole, *drawn.token_ids[: i + 1])
            if len(whole) > budget + 1:
                raise ValueError(f"a call ended after {len(whole)} ids where at most {budget + 1} were asked for")
            trace = replace(before or Trace((), "cut", budget), text=text, drawn=(before.drawn if before else 0) + len(drawn.token_ids))
            return replace(cut_at(whole, trace, budget), calling=True)
    if drawn.stop_reason == tool.close:
        raise ValueError(f"a trace was stopped by {tool.close!r}, which is not in its tokens {''.join(drawn.token_texts)[-80:]!r}")
    return None


def answered(trace: Trace, ids: tuple[int, ...], result: Result, tool: Tool, budget: int) -> Trace:
    """A trace whose call has ended, with the result (as ids) after it, cut at the budget or ready to go on."""
    whole = (*trace.ids, trace.next_id)
    called = Called(len(whole), len(ids), result.valid)
    trace = replace(trace, text=trace.text + result_text(result, tool), calls=(*trace.calls, called), calling=False)
    return cut_at((*whole, *ids), trace, budget)


async def with_results(client: Client, tool: Tool, traces: Mapping[Key, Trace], caps: Mapping[Key, int]) -> dict[Key, Trace]:
    """All traces, those whose call has ended with its result; written in the ids of the engine's tokenizer."""
    results = {key: answer(expression_in(trace.text, tool)) for key, trace in traces.items() if trace.calling}
    texts = list(dict.fromkeys(result_text(result, tool) for result in results.values()))
    ids = dict(zip(texts, await asyncio.gather(*(client.tokenize(text) for text in texts)), strict=True))
    return {
        key: answered(trace, tuple(ids[result_text(results[key], tool)]), results[key], tool, caps[key]) if trace.calling else trace
        for key, trace in traces.items()
    }


async def check_tool(client: Client, model: str, tool: Tool) -> None:
    """Raise ValueError where the model's tokenizer cannot write what the tool puts in."""
    back = await client.detokenize(await client.tokenize(tool.letters))
    if back != tool.letters:
        raise ValueError(f"{model}: its tokenizer reads results of the tool, {tool.letters!r}, as {back!r}: no tool can be offered to it.")
