"""Which option an answer names, by its letter or its text.

Why: "A" may be an article, an option's own text may be a letter, and an answer may hedge ("B or C"). What names more than one option, or
none that there is, names none: abstaining beats guessing.
What it does not do: find where the final answer stands (see `extract`), or say whether it is right (see `grading`).
"""

import re

from thinkscale.extract import IS, LOOKALIKES, MAX_TEXT, WORDS, Found, clauses, first_line, literal, marker
from thinkscale.problems import Problem

_AFTER = r"(?:\s*(?:because|since|as|which|and|for|the|is|,|\(|-)|\s*$)"  # may follow "A" where it is a letter and no article
_LETTER = re.compile(rf"\(?([B-HJ-Z])\)?(?![A-Za-z'\u2019])|\(([A-Z])\)|([A-Z])(?:[).:\]]|{_AFTER})|\(?([a-z])[).]{{0,2}}\s*$")
_OPENING = re.compile(r"\(([A-Z])\)|([A-Z])(?:[).:]\s|\s-\s(?![A-Z]\b)|[).:]?\s*$)|\(?([a-z])[).]{0,2}\s*$")
_BESIDE = re.compile(r"[\s)]*(?:,|/|&|\band\b|\bor\b)[\s,(]*(?:and\s+|or\s+)?\(?([A-Z])\)?\s*(?:$|[.,;/&)]|and\b|or\b)")  # B and C
_MUST = r"\b(?:must|has\s+to|(?:would|should)(?![^.\n]{0,80}\b(?:if|unless|but|or)\b))\s+be\b"  # others hedge
_MARKER = marker(  # but not "the best option of these: A) cat B) dog"
    rf"answer{WORDS}(?:{IS}|[:=]|{_MUST})|(?:correct|right|best|final)\s+(?:option|choice|letter)(?:[ *_]{{0,8}}:|{WORDS}(?:{IS}|{_MUST}))"
)
_CAPITAL = r"\*{0,3}\(?([A-HJ-Z])\)?\*{0,3}"  # I is a word of its own
_ENDED = r"(?=\s*$|[.!;\n]|,?\s+(?:because|since|as)\b)"
_SAID = re.compile(  # whole sentences, so that no article, no "A or B" and no "I doubt that B" is taken for a choice
    rf"(?:^|[.!?:]\s)[ *]{{0,9}}(?:(?:So|Thus|Hence|Therefore),?\s+)?{_CAPITAL}\s+is\s+(?:the\s+)?(?:correct|right|best)"
    rf"(?:\s+(?:answer|option|choice|one))?\**{_ENDED}"
    rf"|\bI(?:\s+would|['\u2019]d|\s+will|['\u2019]ll)?\s+(?:choose|pick|select|go\s+with)\s+{_CAPITAL}{_ENDED}"
    rf"|(?:^|[.!?:]\s)[ *]{{0,9}}(?:So|Thus|Hence|Therefore),?\s+{_CAPITAL}(?=[.!]?\s*$)",
    re.MULTILINE,
)
_NAMED = re.compile(r"(?:\b(?:[Oo]ption|[Cc]hoice)\s+\(?([A-Z])\b)|\(([A-Z])\)")
_DOLLARS = re.compile(r"^(?:\$|\\\()\s*(\(?[A-Za-z]\)?)\s*(?:\$|\\\))")  # $B$ and \(B\)


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
    for clause, pattern in ((first_line(text), _OPENING), *((c, _LETTER) for c in clauses(text, _MARKER))):
        if clause.closed or not truncated:
            found = _clause_letter(clause.text, choices, pattern)
            if found:
                return found
    text = text[-MAX_TEXT:]
    said, named = (
        [m for m in pattern.finditer(text) if (not truncated or m.end() < len(text)) and _valid_letter(m, choices)]
        for pattern in (_SAID, _NAMED)
    )
    letters = {_valid_letter(m, choices) for m in said}
    if letters:
        return letters.pop() if len(letters) == 1 else None
    if not named or any(_beside(text, m, choices) for m in named[-2:]):
        return None
    return _valid_letter(named[-1], choices)


def _clause_letter(clause: str, choices: tuple[str, ...], pattern: re.Pattern[str]) -> Found | None:
    """The letter a clause begins with, or the option whose text it is; none where more letters are named beside it.

    A letter alone is a letter, also where it is the text of another option.
    """
    clause = re.sub(r"\\(?:text|textbf|mathrm)\s*\{([^{}]*)\}", r"\1", clause).replace("*", "").strip()
    said = literal(clause).key.casefold()
    same = [i for i, option in enumerate(choices) if literal(option.translate(LOOKALIKES)).key.casefold() == said]
    if said and len(same) == 1 and not (len(said) == 1 and ord("a") <= ord(said) < ord("a") + len(choices)):
        letter = chr(ord("A") + same[0])
        return Found(letter, letter)
    clause = _DOLLARS.sub(r"\1", re.sub(r"^(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+", "", clause))
    match = pattern.match(clause)
    return _valid_letter(match, choices) if match and not _beside(clause, match, choices) else None


def _beside(text: str, match: re.Match[str], choices: tuple[str, ...]) -> bool:
    """Is another letter named in the same breath? Between the two the first one's option may be written out: "(A) cat or (B) dog"."""
    letter, end = _valid_letter(match, choices), match.end(match.lastindex or 0)
    option = choices[ord(letter.key) - ord("A")] if letter and choices else ""
    rest = text[end:].lstrip(" ).:")
    written = bool(option) and rest[: len(option)].lower() == option.lower()
    beside = _BESIDE.match(text, end) or (_BESIDE.match(rest, len(option)) if written else None)
    return beside is not None and _valid_letter(beside, choices) not in (None, letter)


def _valid_letter(match: re.Match[str], choices: tuple[str, ...]) -> Found | None:
    letter = next(g for g in match.groups() if g).upper()
    last = chr(ord("A") + (len(choices) or 10) - 1)
    return Found(letter, letter) if letter <= last else None
