"""Which option an answer names, by its letter or its text.

Why: "A" may be an article, an option's own text may be a letter, and an answer may hedge ("B or C"). What names more than one option, or
none that there is, names none: abstaining beats guessing.
What it does not do: find where the final answer stands (see `extract`), or say whether it is right (see `grading`).
"""

import re

from thinkscale.extract import LOOKALIKES, Found, clauses, first_line, literal
from thinkscale.problems import Problem

_AFTER = r"(?:\s*(?:because|since|as|which|and|for|the|is|,|\(|-)|\s*$)"  # may follow "A" where it is a letter and no article
_LETTER = re.compile(rf"\(?([B-HJ-Z])\)?(?![A-Za-z'\u2019])|\(([A-Z])\)|([A-Z])(?:[).:\]]|{_AFTER})|([a-z])[).]?\s*$")
_OPENING = re.compile(r"\(([A-Z])\)|([A-Z])(?:[).:]\s|[).:]?\s*$)|([a-z])[).]?\s*$")
_BESIDE = re.compile(r"[\s)]*(?:,|/|&|\band\b|\bor\b)[\s,(]*(?:and\s+|or\s+)?\(?([A-Z])\)?\s*(?:$|[.,;/&)]|and\b|or\b)")  # B and C
_NAMED = re.compile(r"(?:\b(?:[Oo]ption|[Cc]hoice)\s+\(?([A-Z])\b)|\(([A-Z])\)")


def gold_letter(problem: Problem) -> Found | None:
    """The gold answer may be the letter or the option's text; where the options are not known, a letter however it is written."""
    try:
        letter = problem.letters[problem.right_choice]
        return Found(letter, letter)
    except ValueError:
        return letter_in(problem.answer, problem.choices, False)


def letter_in(text: str, choices: tuple[str, ...], truncated: bool) -> Found | None:
    """The letter of the option that the text names. `truncated`: as in `extract.number_in`."""
    text = text.translate(LOOKALIKES)
    for clause, pattern in ((first_line(text), _OPENING), *((c, _LETTER) for c in clauses(text))):
        if clause.closed or not truncated:
            found = _clause_letter(clause.text, choices, pattern)
            if found:
                return found
    named = [m for m in _NAMED.finditer(text) if (not truncated or m.end() < len(text)) and _valid_letter(m, choices)]
    if not named or (len(named) > 1 and _beside(text, named[-2], choices)):
        return None
    return _valid_letter(named[-1], choices)


def _clause_letter(clause: str, choices: tuple[str, ...], pattern: re.Pattern[str]) -> Found | None:
    """The letter a clause begins with, or the option whose text it is; none where more letters are named beside it.

    A letter alone is a letter, also where it is the text of another option.
    """
    clause = re.sub(r"\\(?:text|textbf|mathrm)\s*\{([^{}]*)\}", r"\1", clause).replace("*", "").strip()
    said = literal(clause).key.casefold()
    same = [i for i, option in enumerate(choices) if literal(option).key.casefold() == said]
    if said and len(same) == 1 and not (len(said) == 1 and ord("a") <= ord(said) < ord("a") + len(choices)):
        letter = chr(ord("A") + same[0])
        return Found(letter, letter)
    clause = re.sub(r"^(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+", "", clause)
    match = pattern.match(clause)
    return _valid_letter(match, choices) if match and not _beside(clause, match, choices) else None


def _beside(text: str, match: re.Match[str], choices: tuple[str, ...]) -> bool:
    """Is another letter named in the same breath?"""
    beside = _BESIDE.match(text, match.end(match.lastindex or 0))
    return beside is not None and _valid_letter(beside, choices) not in (None, _valid_letter(match, choices))


def _valid_letter(match: re.Match[str], choices: tuple[str, ...]) -> Found | None:
    letter = next(g for g in match.groups() if g).upper()
    last = chr(ord("A") + (len(choices) or 10) - 1)
    return Found(letter, letter) if letter <= last else None
