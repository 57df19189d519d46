"""Where thinking ends: pure functions on token ids.

Why: for a model that is not told its budget, the first B tokens of a sampled trace have exactly the law of a run capped at B. So traces are
drawn once, at the largest budget, and every smaller budget is a cut of their ids. Text is never cut: that would move token boundaries.
What it does not do: talk to a server (see `generate`). Not valid for models that are told their budget: those are not this route.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from thinkscale.endpoint import Choice

TraceEnd = Literal["closed", "cut", "eos"]
AnswerEnd = Literal["closed", "cut", "eos", "off"]

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
    """For reading: what was drawn, with the token past the cap."""

    @property
    def hash(self) -> str:
        """16 hex digits of a hash of the ids and of how they ended."""
        return hashlib.sha256(f"{self.ended} {' '.join(map(str, self.ids))}".encode()).hexdigest()[:16]


class Cut(NamedTuple):
    """A trace as one budget sees it."""

    ids: tuple[int, ...]
    ended: AnswerEnd


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
    if len(whole) > budget + 1:
        raise ValueError(f"a trace of {len(whole)} ids came back where at most {budget + 1} were asked for: the server ignores its cap")
    if drawn.finish_reason == "stop":
        ended: TraceEnd = "closed" if boundary.stop is not None and whole[-1] == boundary.stop else "eos"
        return Trace(whole[:-1], ended, budget, text=text)
    if len(whole) != budget + 1:
        raise ValueError(f"a trace ended after {len(whole)} of {budget + 1} ids and the server gave no reason")
    return Trace(whole[:-1], "cut", budget, whole[-1], text)


def cut(trace: Trace, budget: int) -> Cut:
    """The trace under a budget: all of it where it ended at index <= budget, otherwise its first `budget` ids.

    Raises: ValueError where the trace was itself cut earlier than this budget.
    """
    if budget == 0:
        return Cut((), "off")
    if len(trace.ids) > budget:
        return Cut(trace.ids[:budget], "cut")
    if trace.ended == "cut" and trace.budget < budget:
        raise ValueError(f"a trace cut at {trace.budget} says nothing about budget {budget}: continue it first")
    return Cut(trace.ids, trace.ended)


def trace_prompt(prompt: Sequence[int], boundary: Boundary) -> tuple[int, ...]:
    """Ids before the thinking; a template that opens the thinking itself is not opened twice."""
    width = len(boundary.open)
    opened = width > 0 and tuple(prompt[-width:]) == boundary.open
    return tuple(prompt) if opened else (*prompt, *boundary.open)


def answer_prompt(prompt: Sequence[int], seen: Cut, boundary: Boundary) -> tuple[int, ...]:
    """Ids before the answer: exactly prompt + open + thinking + close, or prompt + off."""
    if seen.ended == "off":
        width = len(boundary.open)
        bare = prompt[:-width] if width and tuple(prompt[-width:]) == boundary.open else prompt
        return (*bare, *boundary.off)
    return (*trace_prompt(prompt, boundary), *seen.ids, *boundary.close)


def answer_prompt_tokens(prompt: Sequence[int], seen: Cut, boundary: Boundary) -> tuple[int, int]:
    """(prompt tokens, injected tokens) of an answer: what stands before the thinking, and what was put in after it.

    The close counts as injected also where the model closed by itself: a point's cost must not depend on who wrote it.
    """
    whole, injected = len(answer_prompt(prompt, seen, boundary)), len(boundary.off if seen.ended == "off" else boundary.close)
    return whole - injected - len(seen.ids), injected
