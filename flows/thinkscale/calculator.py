"""A calculator that a model may call: what a call looks like in its text, what comes back, and arithmetic that nothing can break.

Why: what a model writes is anybody's text. Python's own parser reads far more than arithmetic, so a grammar of seven lines is read here,
in exact fractions, with bounds on length and digits: every expression is answered, at once, by a number or by `error`.
What it does not do: stop an engine or touch token ids (see `calls`), talk to a chat API (see `conversation`).

    <tool>12*34</tool>=408      the model writes up to </tool>, we put in the rest, with a line break
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

ToolName = Literal["calculator"]

VERSION = 1
"""Of all that follows: a change of what comes back needs a new one, or old and new traces would be taken for the same."""
MAX_EXPRESSION = 100
"""Characters of an expression: bounds the depth of its parentheses, too."""
MAX_DIGITS = 20
"""Of one number that goes in."""
MAX_RESULT = 40
"""Digits of what comes out, before the point."""
PLACES = 10
"""Decimal places to which a result is rounded."""
ERROR = "error"


@dataclass(frozen=True)
class Tool:
    """How a call and its result stand in a text."""

    open: str
    """Before the expression."""
    close: str
    """After it; here generation stops."""
    before: str
    """Before the result."""
    after: str

    @property
    def identity(self) -> str:
        """What fixes the traces in which it is called."""
        bounds = (MAX_EXPRESSION, MAX_DIGITS, MAX_RESULT, PLACES)
        return f"calculator version {VERSION} {(self.open, self.close, self.before, ERROR, self.after)} {bounds}"

    @property
    def letters(self) -> str:
        """All that is put in is written in these: a model's tokenizer must know them."""
        return f"{self.before}-.0123456789{ERROR}{self.after}"


CALCULATOR = Tool("<tool>", "</tool>", "=", "\n")
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": f"Computes an arithmetic expression exactly (a fraction: to {PLACES} decimal places).",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "Numbers with + - * / and parentheses, such as 12*(34+5)."}},
            "required": ["expression"],
        },
    },
}
"""The same for chat APIs."""
PARAMETER = "expression"


class Result(NamedTuple):
    """What the calculator says."""

    text: str
    """A number, or `error`."""
    valid: bool


INVALID = Result(ERROR, False)
_ALLOWED = re.compile(r"[0-9.+\-*/() ]+", re.ASCII)
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|[+\-*/()]", re.ASCII)


def calculate(expression: str) -> Result:
    """Compute it. Whatever is no sum, difference, product or quotient of decimal numbers within the bounds is an `error`, never raised."""
    if len(expression) > MAX_EXPRESSION or not _ALLOWED.fullmatch(expression):
        return INVALID
    tokens = _TOKEN.findall(expression)
    # two numbers side by side ("1 2"), a second point: spaces aside, what was not read is not arithmetic
    if "".join(tokens) != expression.replace(" ", "") or re.search(r"[\d.] +[\d.]", expression):
        return INVALID
    if any(len(token) > MAX_DIGITS for token in tokens):
        return INVALID
    reader = _Reader(tokens)
    try:
        value = reader.sum()
    except (_NotArithmetic, ZeroDivisionError):
        return INVALID
    if reader.next or abs(value) >= 10**MAX_RESULT:
        return INVALID
    return Result(_written(value), True)


class _NotArithmetic(Exception):
    pass


class _Reader:
    """sum = product {(+|-) product}; product = signed {(*|/) signed}; signed = [+|-] signed | number | ( sum )."""

    def __init__(self, tokens: list[str]) -> None:
        self._rest: Iterator[str] = iter(tokens)
        self.next = next(self._rest, "")

    def _take(self) -> str:
        taken, self.next = self.next, next(self._rest, "")
        return taken

    def sum(self) -> Fraction:
        value = self.product()
        while self.next in ("+", "-"):
            value += self.product() if self._take() == "+" else -self.product()
        return value

    def product(self) -> Fraction:
        value = self.signed()
        while self.next in ("*", "/"):
            value = value * self.signed() if self._take() == "*" else value / self.signed()
        return value

    def signed(self) -> Fraction:
        token = self._take()
        if token in ("+", "-"):
            return self.signed() if token == "+" else -self.signed()
        if token == "(":
            value = self.sum()
            if self._take() != ")":
                raise _NotArithmetic
            return value
        if not token or token in ")*/":
            raise _NotArithmetic
        return Fraction(token)


def _written(value: Fraction) -> str:
    """As a decimal number, rounded to `PLACES` (half to even), without zeros at its end."""
    scaled = round(abs(value) * 10**PLACES)
    whole, places = divmod(scaled, 10**PLACES)
    sign = "-" if value < 0 and scaled else ""
    return f"{sign}{whole}.{places:0{PLACES}d}".rstrip("0").rstrip(".")


def expression_in(text: str, tool: Tool = CALCULATOR) -> str | None:
    """What stands in the last call that ends in the text; None where none ends there, or what ends was never opened."""
    end = text.rfind(tool.close)
    opened = text.rfind(tool.open, 0, max(end, 0))
    return text[opened + len(tool.open) : end] if opened > text.rfind(tool.close, 0, max(end, 0)) else None


def answer(expression: str | None) -> Result:
    """What comes back for the expression of a call; None: a call that was none."""
    return INVALID if expression is None else calculate(expression)


def answer_call(name: str, arguments: str) -> Result:
    """What comes back for a call through a chat API. Args: name: of the function. arguments: as the model wrote them, JSON or not."""
    if name != FUNCTION["function"]["name"] or len(arguments) > 2 * MAX_EXPRESSION:
        return INVALID
    try:
        said = json.loads(arguments)
    except json.JSONDecodeError:
        return INVALID
    expression = said.get(PARAMETER) if isinstance(said, dict) else None
    return calculate(expression) if isinstance(expression, str) else INVALID


def result_text(result: Result, tool: Tool = CALCULATOR) -> str:
    """What is put in after a call."""
    return f"{tool.before}{result.text}{tool.after}"


def worked_call(expression: str, tool: Tool = CALCULATOR) -> tuple[str, str]:
    """A call as a model should write it, and what is put in after it."""
    return f"{tool.open}{expression}{tool.close}", result_text(calculate(expression), tool)
