"""Graders: is an answer right, how nearly, and under which key does it vote?

Why: every grader here accepts each gold answer as its own answer, lets what has no answer abstain, and gives equal answers one
`answer_class`, so that voting needs no pairwise comparison. Numbers are compared exactly and need no algebra, so math-verify is not
used: it compares pairs, not symmetrically, and keeps time by signals that fail outside the main thread.
What it does not do: see the thinking (only `answer_text` comes in), run model code, find the answer in the text (see `extract`).
"""

import difflib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

from thinkscale.extract import LOOKALIKES, MAX_ANSWER, Found, clauses, first_line, number_in
from thinkscale.problems import Grader, Problem

Status = Literal["answered", "no_answer", "truncated_answer", "too_long"]

VERSION: dict[Grader, str] = {"number": "number-1", "exact": "exact-1", "choice": "choice-1", "reasoning_gym": "reasoning_gym-1"}


@dataclass(frozen=True)
class Grade:
    """What a grader says of one answer; see the columns of `schema.GRADES`."""

    correct: bool
    partial: float
    status: Status
    extracted_answer: str | None
    answer_class: str | None


def grade(grader: Grader, answer_text: str, problem: Problem, truncated: bool) -> Grade:
    """Grade one answer. `truncated`: the answer ran into its cap, so that only a complete answer counts.

    Raises: ValueError where the problem's own gold answer cannot be read.
    """
    if grader == "reasoning_gym":
        return _grade_reasoning_gym(answer_text, problem, truncated)
    gold: Found | None
    if grader == "number":
        gold, found, partial = number_in(problem.answer, False), number_in(answer_text, truncated), _digits_right
    elif grader == "exact":
        gold, found, partial = _literal(problem.answer), _exact_of(answer_text, problem.answer, truncated), _similarity
    else:
        gold, found, partial = _gold_choice(problem), _choice_of(answer_text, problem.choices, truncated), _same
    if gold is None:
        raise ValueError(f"problem {problem.problem_id}: the {grader} grader finds no answer in the gold answer {problem.answer[:80]!r}.")
    if found is None:
        return _ungraded("truncated_answer" if truncated else "no_answer")
    if len(found.text) > MAX_ANSWER:
        return _ungraded("too_long")
    correct = found.key == gold.key
    return Grade(correct, 1.0 if correct else partial(gold.key, found.key), "answered", found.key, found.key)


@lru_cache
def grader_version(grader: Grader) -> str:
    """Name and version of a grader; for reasoning-gym's own scorer with the package's version."""
    return f"{VERSION[grader]}+{version('reasoning-gym')}" if grader == "reasoning_gym" else VERSION[grader]


def _ungraded(status: Status) -> Grade:
    return Grade(False, 0.0, status, None, None)


# --- number ---


def _digits_right(gold: str, found: str) -> float:
    """Share of digits that agree, aligned at the point from the right; sign and length count. 0 where either is no plain decimal."""
    if not all(re.fullmatch(r"-?\d+(\.\d+)?", key) for key in (gold, found)):
        return 0.0
    places = max(len(key.partition(".")[2]) for key in (gold, found))
    a, b = (key.partition(".")[0] + key.partition(".")[2].ljust(places, "0") for key in (gold, found))
    return sum(x == y for x, y in zip(reversed(a), reversed(b), strict=False)) / max(len(a), len(b))


# --- exact ---


def _literal(text: str) -> Found:
    """Case counts (it may be what is asked: "a" and "A" can be two symbols of a mapping); spacing, quotes and a last full stop do not."""
    key = " ".join(unicodedata.normalize("NFC", text).split()).strip("*`\"'\u201c\u201d ")
    key = key.removesuffix(".").strip("*`\"'\u201c\u201d ") or key
    return Found(text.strip(), key)


_WORD = re.compile(r"\S*[^\s:!,]\s*")  # but not "Sure!" or "Answer:"


def _exact_of(text: str, gold: str, truncated: bool) -> Found | None:
    whole = _literal(text)
    if not truncated and whole.key == _literal(gold).key:
        return whole  # before any extraction: a gold answer may have lines or words that look like a marker
    line, marked = first_line(text), list(clauses(text))
    alone = line.closed and _WORD.fullmatch(line.text) and not any(clauses(line.text))
    for clause in (line, *marked) if alone else (*marked, line):
        found = _literal(clause.text)
        if found.key and (clause.closed or not truncated):
            return found
    return None


def _similarity(gold: str, found: str) -> float:
    """Edit similarity: twice the matching characters over all characters."""
    return difflib.SequenceMatcher(None, gold, found, autojunk=False).ratio()


# --- choice ---

_AFTER = r"(?:\s*(?:because|since|as|which|and|for|the|is|,|\(|-)|\s*$)"  # may follow "A" where it is a letter and no article
_LETTER = re.compile(rf"\(?([B-HJ-Z])\)?(?![A-Za-z'\u2019])|\(([A-Z])\)|([A-Z])(?:[).:\]]|{_AFTER})|([a-z])[).]?\s*$")
_OPENING = re.compile(r"\(([A-Z])\)|([A-Z])(?:[).:]\s|[).:]?\s*$)|([a-z])[).]?\s*$")
_NAMED = re.compile(r"(?:\b(?:[Oo]ption|[Cc]hoice)\s+\(?([A-Z])\b)|\(([A-Z])\)")


def _gold_choice(problem: Problem) -> Found | None:
    """The gold answer may be the letter or the option's text."""
    if problem.answer in problem.choices:
        letter = chr(ord("A") + problem.choices.index(problem.answer))
        return Found(letter, letter)
    return _choice_of(problem.answer, problem.choices, False)


def _choice_of(text: str, choices: tuple[str, ...], truncated: bool) -> Found | None:
    text = text.translate(LOOKALIKES)
    for clause, pattern in ((first_line(text), _OPENING), *((c, _LETTER) for c in clauses(text))):
        if clause.closed or not truncated:
            found = _letter_in(clause.text, choices, pattern)
            if found:
                return found
    named = [m for m in _NAMED.finditer(text) if not truncated or m.end() < len(text)]
    return next((f for m in reversed(named) if (f := _valid_letter(m, choices))), None)


def _letter_in(clause: str, choices: tuple[str, ...], pattern: re.Pattern[str]) -> Found | None:
    """The letter a clause begins with, or the option whose text it is."""
    clause = re.sub(r"\\(?:text|textbf|mathrm)\s*\{([^{}]*)\}", r"\1", clause).replace("*", "").strip()
    said = _literal(clause).key.casefold()
    same = [i for i, option in enumerate(choices) if _literal(option).key.casefold() == said]
    if said and len(same) == 1:
        letter = chr(ord("A") + same[0])
        return Found(letter, letter)
    clause = re.sub(r"^(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+", "", clause)
    match = pattern.match(clause)
    return _valid_letter(match, choices) if match else None


def _valid_letter(match: re.Match[str], choices: tuple[str, ...]) -> Found | None:
    letter = next(g for g in match.groups() if g).upper()
    last = chr(ord("A") + (len(choices) or 10) - 1)
    return Found(letter, letter) if letter <= last else None


def _same(gold: str, found: str) -> float:
    return float(gold == found)


# --- reasoning-gym's own scorer ---

# reasoning-gym 0.1.25: these scorers hand the answer to eval(), or to sympy's parse_expr(), which is eval() too
_RUN_CODE = {
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
}
_SCORER_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, SyntaxError, AttributeError, RecursionError)


def _grade_reasoning_gym(answer_text: str, problem: Problem, truncated: bool) -> Grade:
    """The whole text or, where it scores higher, the marked answer in it; correct = full score."""
    dataset, entry = _entry(problem.metadata)
    candidates = [] if truncated else [answer_text.strip()]
    candidates += [c.text.strip(" *`\t") for c in (*clauses(answer_text), first_line(answer_text)) if c.closed or not truncated][:1]
    candidates = [c for c in candidates if c]
    if not candidates:
        return _ungraded("truncated_answer" if truncated else "no_answer")
    short = [c for c in candidates if len(c) <= MAX_ANSWER]
    if not short:
        return _ungraded("too_long")
    scores = [_score(dataset, c, entry) for c in short]
    best = max(range(len(short)), key=lambda i: (scores[i], i))
    correct, partial = scores[best] == 1, min(1.0, max(0.0, scores[best]))
    return Grade(correct, partial, "answered", short[best], problem.answer.strip() if correct else short[best])


@lru_cache(maxsize=4096)
def _entry(metadata: str) -> tuple[str, dict[str, Any]]:
    parsed = json.loads(metadata)
    return str(parsed["dataset"]), dict(parsed["entry"])


@lru_cache
def _scorer(dataset: str) -> Callable[[str, dict[str, Any]], float]:
    if dataset in _RUN_CODE:
        raise ValueError(
            f"reasoning-gym's scorer of '{dataset}' runs the model's answer as code, which needs a sandbox; use another dataset."
        )
    import reasoning_gym  # seconds to import, and only this grader needs it

    scorer: Callable[[str, dict[str, Any]], float] = reasoning_gym.get_score_answer_fn(dataset)
    return scorer


def _score(dataset: str, answer: str, entry: dict[str, Any]) -> float:
    scorer = _scorer(dataset)
    try:
        return float(scorer(answer, entry))
    except _SCORER_ERRORS:  # an ugly answer that a scorer's parser trips over is wrong, not a reason to stop
        return 0.0
