"""Where thinking ends: pure functions on token ids.

Why: for a model that is not told its budget, the first B tokens of a sampled trace have exactly the law of a run capped at B. So traces are
drawn once, at the largest budget, and every smaller budget is a cut of their ids. Text is never cut: that would move token boundaries.
The same holds where a close is replaced by a "Wait" (route `extend`), since where that is done does not depend on the budget.
What it does not do: talk to a server (see `generate`). A model or server that is told the budget has no smaller ones (see `routes`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from thinkscale.endpoint import Choice

TraceEnd = Literal["closed", "cut", "eos", "too_long"]
AnswerEnd = Literal["closed", "cut", "eos", "off", "too_long"]

THINKING_OFF = "off"
"""`trace_hash` of answers at budget 0, which are cut from no trace."""


@dataclass(frozen=True)
class Boundary:
    """The ids around thinking, fixed once per model."""

    open: tuple[int, ...]
    """After the prompt, before the thinking."""
    close: tuple[int, ...]
    """After the thinking, before the answer; not counted in the budget. The same ids whether the model closed or was cut."""
    off: tuple[int, ...]
    """Instead of open + close at budget 0."""
    stop: int | None
    """First id of `close` where the model writes it by itself."""
    cue: str | None = None
    """Text that closes the thinking of a model without tags."""


class Called(NamedTuple):
    """A call of a tool whose result was put into the thinking."""

    at: int
    """Index of the first id of the result."""
    width: int
    """Ids of the result."""
    valid: bool
    """The call could be answered; otherwise the result says `error`."""


@dataclass(frozen=True)
class Trace:
    """One trace as drawn: `ids` are the thinking, without close or end of text."""

    ids: tuple[int, ...]
    ended: TraceEnd
    budget: int
    """Cap under which it was drawn."""
    next_id: int = -1
    """Token drawn past the cap of a `cut` trace."""
    text: str = field(default="", compare=False)
    """For reading: what was drawn and put in, with the token past the cap (and the rest of a result that the cap cuts)."""
    closing: tuple[int, ...] = ()
    """The ids of the cue that closed it, as drawn; a budget that ends within them cuts the trace there."""
    waits: tuple[int, ...] = ()
    """Where a close was replaced (route `extend`): index of the first id that was put there."""
    drawn: int = field(default=0, compare=False)
    """Tokens that the engine drew for it since it was read from disk."""
    calls: tuple[Called, ...] = ()
    """Of a tool, in order."""
    pending: tuple[int, ...] = ()
    """Ids that are known to follow `next_id`: the rest of what was put in where the cap ends within it."""
    calling: bool = False
    """The last token ended a call that has no result yet."""
    turn: tuple[int, ...] = ()
    """Of a conversation (route `tools`): all ids that stood before the last result, or before the thinking; what follows is in `ids`."""

    @property
    def hash(self) -> str:
        """16 hex digits of a hash of the ids and of how they ended."""
        return hashlib.sha256(f"{self.ended} {' '.join(map(str, self.ids))}".encode()).hexdigest()[:16]


class Cut(NamedTuple):
    """A trace as one budget sees it."""

    ids: tuple[int, ...]
    ended: AnswerEnd
    calls: tuple[Called, ...] = ()
    """Those that ended within it; of the last result a part may stand in it, or nothing yet."""
    turn: tuple[int, ...] = ()
    """As of its trace."""

    @property
    def tool_tokens(self) -> int:
        """How many of the ids a tool put in."""
        return sum(min(call.width, len(self.ids) - call.at) for call in self.calls)


def read_trace(before: Trace | None, drawn: Choice, boundary: Boundary, budget: int) -> Trace:
    """What the engine drew, as a trace.

    Args:
        before: the same trace as drawn under a smaller cap; its ids and the token past that cap stood in the prompt.
        drawn: at most `budget + 1` ids in all: one past the cap, so that a close begun exactly at the cap is seen. Where the engine
            stopped by itself the last id is the close or the end of text.
    Raises: ValueError where more ids came back than were asked for, or fewer without a stop.
    """
    first, text = ((*before.ids, before.next_id), before.text) if before else ((), "")
    whole, text = (*first, *drawn.token_ids), text + drawn.text
    kept = before or Trace((), "cut", budget)
    kept = replace(kept, ids=(), ended="cut", budget=budget, next_id=-1, text=text, pending=(), drawn=kept.drawn + len(drawn.token_ids))
    if len(whole) > budget + 1:
        raise ValueError(f"a trace of {len(whole)} ids came back where at most {budget + 1} were asked for: the server ignores its cap")
    if drawn.finish_reason == "stop":
        if boundary.cue is not None and drawn.stop_reason == boundary.cue:
            at = len(whole) - _cue_width(drawn, boundary.cue)
            return replace(kept, ids=whole[:at], ended="closed", closing=whole[at:])
        ended: TraceEnd = "closed" if boundary.stop is not None and whole[-1] == boundary.stop else "eos"
        if drawn.token_texts:  # asked for where calls are looked for; the engine's text then holds what it stopped at
            kept = replace(kept, text=text.removesuffix(drawn.token_texts[-1]))
        return replace(kept, ids=whole[:-1], ended=ended)
    if len(whole) != budget + 1:
        raise ValueError(f"a trace ended after {len(whole)} of {budget + 1} ids and the server gave no reason")
    return replace(kept, ids=whole[:-1], next_id=whole[-1])


def _cue_width(drawn: Choice, cue: str) -> int:
    """How many ids at the end spell the cue, with the white space before it (which stands in the forced close, too)."""
    texts = drawn.token_texts
    width = next((w for w in range(1, len(texts) + 1) if cue in "".join(texts[-w:])), 0)
    if not width:
        raise ValueError(f"a trace was stopped by {cue!r}, which is not in its text {''.join(texts)[-80:]!r}")
    while width < len(texts) and not texts[-width - 1].strip():
        width += 1
    return width


NATIVE_SLACK = 8
"""Tokens past the budget after which a server that was told to end the thinking is taken to ignore it; up to there they are counted."""


def read_native(drawn: Choice, boundary: Boundary, budget: int) -> Trace:
    """A trace that the server was told to end; at most `budget + 1 + NATIVE_SLACK` ids. Raises ValueError where the server did not."""
    if drawn.finish_reason != "stop":
        raise ValueError(
            f"thinking_token_budget={budget} was accepted and a trace of {len(drawn.token_ids)} tokens came back that is still thinking: "
            "the server ignores the budget. Start it with --reasoning-config (or --reasoning-parser) and a vLLM that heeds it, or use "
            "`thinking: {route: cut}`, which needs nothing of the server."
        )
    ids, closed = drawn.token_ids[:-1], drawn.token_ids[-1] == boundary.stop
    # at the budget the server's close and the model's own look the same: taken for the server's
    ended: TraceEnd = "eos" if not closed else "closed" if len(ids) < budget else "cut"
    return Trace(ids, ended, budget, text=drawn.text, drawn=len(drawn.token_ids))


def waited(trace: Trace, wait: Sequence[int], times: int, boundary: Boundary, budget: int) -> Trace:
    """The trace with its close replaced by `wait`, as one that was cut there and can go on; the trace itself where that is not to be.

    Where end of text is how a model closes, that is replaced. What is put in counts as thinking, and a budget may end inside of it.
    """
    closes = trace.ended == "closed" or (trace.ended == "eos" and boundary.stop is None)
    if not closes or len(trace.waits) >= times:
        return trace
    return cut_at((*trace.ids, *wait), replace(trace, waits=(*trace.waits, len(trace.ids))), budget)


def resumed(trace: Trace, wait: Sequence[int], budget: int) -> Trace:
    """A trace that its cap cut inside of a `wait` or a tool's result, with the rest of it, for a larger budget."""
    known = (*trace.ids, trace.next_id)
    left = trace.pending or (wait[len(known) - trace.waits[-1] :] if trace.waits else ())
    return cut_at((*known, *left), trace, budget) if left else trace


def cut_at(whole: tuple[int, ...], trace: Trace, budget: int) -> Trace:
    """A trace of known ids, cut at the budget or, before it, so that all of them are its ids and the one past its cap."""
    cap = min(len(whole) - 1, budget)
    return replace(trace, ids=whole[:cap], ended="cut", budget=cap, next_id=whole[cap], closing=(), pending=whole[cap + 1 :])


def cut(trace: Trace, budget: int) -> Cut:
    """The trace under a budget: all of it where its close or end stands at index <= budget, otherwise its first `budget` ids.

    Raises: ValueError where the trace was itself cut earlier than this budget.
    """
    return with_calls(_cut(trace, budget), trace)


def with_calls(seen: Cut, trace: Trace) -> Cut:
    """What one budget sees of a trace, with the calls that stand in it."""
    return seen._replace(calls=tuple(call for call in trace.calls if call.at <= len(seen.ids)), turn=trace.turn)


def _cut(trace: Trace, budget: int) -> Cut:
    if budget == 0:
        return Cut((), "off")
    if len(trace.ids) + max(1, len(trace.closing)) - 1 > budget:
        return Cut((*trace.ids, *trace.closing)[:budget], "cut")
    if trace.ended == "too_long":
        return Cut(trace.ids, "cut") if len(trace.ids) == budget else Cut((), "too_long")
    if trace.ended == "cut" and trace.budget < budget:
        raise ValueError(f"a trace cut at {trace.budget} says nothing about budget {budget}: continue it first")
    return Cut(trace.ids, trace.ended)


def trace_prompt(prompt: Sequence[int], boundary: Boundary) -> tuple[int, ...]:
    """Ids before the thinking; a template that opens the thinking itself is not opened twice."""
    width = len(boundary.open)
    opened = width > 0 and tuple(prompt[-width:]) == boundary.open
    return tuple(prompt) if opened else (*prompt, *boundary.open)


def closed_by_template(prompt: Sequence[int], boundary: Boundary) -> bool:
    """The chat template itself wrote an empty thinking (Qwen3 with `enable_thinking: false`): the answer follows at once."""
    return boundary.stop is not None and len(boundary.off) > 1 and tuple(prompt[-len(boundary.off) :]) == boundary.off


def answer_prompt(prompt: Sequence[int], seen: Cut, boundary: Boundary) -> tuple[int, ...]:
    """Ids before the answer: exactly prompt + open + thinking + close, or prompt + off.

    Of a conversation whatever its last turn stood on (a chat template may have written earlier turns anew), that turn's thinking, close.
    """
    if seen.turn:
        return (*seen.turn, *seen.ids[seen.calls[-1].at if seen.calls else 0 :], *boundary.close)
    if closed_by_template(prompt, boundary):
        return tuple(prompt)
    if seen.ended == "off":
        width = len(boundary.open)
        bare = prompt[:-width] if width and tuple(prompt[-width:]) == boundary.open else prompt
        return (*bare, *boundary.off)
    return (*trace_prompt(prompt, boundary), *seen.ids, *boundary.close)


def answer_prompt_tokens(prompt: Sequence[int], seen: Cut, boundary: Boundary) -> tuple[int, int]:
    """(prompt tokens, injected tokens) of an answer: what stands before the thinking, and what was put in after it.

    The close counts as injected also where the model closed by itself: a point's cost must not depend on who wrote it. What a template
    writes is the prompt's.
    """
    if seen.turn:
        return len(prompt), len(boundary.close)
    if closed_by_template(prompt, boundary):
        return len(prompt), 0
    whole, injected = len(answer_prompt(prompt, seen, boundary)), len(boundary.off if seen.ended == "off" else boundary.close)
    return whole - injected - len(seen.ids), injected
