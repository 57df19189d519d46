r"""Where the final answer stands in an answer's text, and numbers read exactly.

Why: most wrong curves are wrong extraction. An answer is looked for in this order: a first line that is nothing but an answer (what follows
our own cue, and a base model that then rambles); the last marked one (`\boxed{}`, `####`, "the answer is", "Answer:", "A:"), whose clause
ends with the line or sentence; for numbers the last one anywhere. In a text that ran into its cap only the first two count, and only if
their clause was closed: "12" may have become 125. What cannot be read for certain ("1,6", 3:30) is no number: abstaining beats guessing.
What it does not do: algebra, or compare with a gold answer (see `grading`).
"""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_ANSWER = 1000
"""Characters of an extracted answer; what is longer is no answer (none of a benchmark comes near)."""
MAX_TEXT = 20_000
"""Characters from the end in which markers and last numbers are looked for: bounds the time that a babbling answer can take."""
MAX_MARKERS = 20
"""Markers tried, from the last one backwards."""


class Found(NamedTuple):
    """An extracted answer as written and its canonical key."""

    text: str
    key: str


class Clause(NamedTuple):
    """What stands after a marker."""

    text: str
    closed: bool
    """It ends before the text does: a cap cannot have cut it."""
    own_line: bool = False
    """It begins a line: a dash there may be a bullet."""
    boxed: bool = False
    """Braces hold it: an exclamation mark at its end is a factorial."""


LOOKALIKES = {c: chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)}  # full-width forms; NFKC would also flatten 10² to 102
LOOKALIKES |= {ord(c): "-" for c in "\u2212\u2010\u2011\u2012\u2013\ufe63"} | {ord(c): " " for c in "\u00a0\u2007\u2009\u202f\u3000"}
LOOKALIKES |= {ord(c): " " + unicodedata.normalize("NFKC", c).replace("\u2044", "/") for c in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}  # 3½ is a mixed number
IS = r"(?:\bis\b|\bare\b)(?:[ \t*_]{0,8}[:=])?"  # the answer is X, is: X, **is**: X
WORDS = r"\b[^.\n0-9]{0,60}?"


def marker(said: str) -> re.Pattern[str]:
    """What a final answer stands after: a box, `####`, "A:", or what is said before it."""
    return re.compile(
        rf"\\(?:boxed|fbox)\s*(?P<brace>\{{)|\#{{4}}\s*(?=[^\sA-Za-z\#])|\b(?:{said})|^[ \t*]*A[ \t]*:", re.IGNORECASE | re.MULTILINE
    )


_MARKER = marker(f"answer{WORDS}(?:{IS}|[:=])")
_DECORATION = re.compile(r"[\s*_`\"'\u201c\u201d]*")
_BRACE = re.compile(r"[{}]")
_CLAUSE_END = re.compile(r"\n|[.!?](?=\s)(?!(?<=\d!)[ ]?[=*/×·+])")  # but not in 5! = 120


def clauses(text: str, markers: re.Pattern[str] = _MARKER) -> Iterator[Clause]:
    """What stands after markers, the last one first."""
    text = text[-MAX_TEXT:]
    for found in list(markers.finditer(text))[: -MAX_MARKERS - 1 : -1]:
        if found["brace"]:
            yield _braced(text, found.end())
            continue
        start = _decoration_end(text, found.end())
        end = _CLAUSE_END.search(text, start)
        yield Clause(text[start : end.start() if end else len(text)], end is not None, "\n" in text[found.end() : start])


def _braced(text: str, start: int) -> Clause:
    """From after an opening brace to its closing one."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return Clause(text[start : brace.start()], True, boxed=True)
    return Clause(text[start:], False, boxed=True)


def _decoration_end(text: str, start: int) -> int:
    match = _DECORATION.match(text, start)
    return match.end() if match else start


def first_line(text: str) -> Clause:
    """First line with anything on it."""
    start = _decoration_end(text, 0)
    line, newline, _ = text[start:].partition("\n")
    return Clause(line, bool(newline))


def literal(text: str) -> Found:
    """A text as an answer of its own: spacing, quotes and a last full stop do not count.

    Case does: it may be what is asked ("a" and "A" can be two symbols of a mapping).
    """
    key = " ".join(unicodedata.normalize("NFC", text).split()).strip("*`\"'\u201c\u201d ")
    key = key.removesuffix(".").strip("*`\"'\u201c\u201d ") or key
    return Found(text.strip(), key)


_DIGITS = r"(?:\d{1,3}(?:,\d{3}(?!\d))++|\d{1,3}(?:[ ]\d{3}(?!\d))++|\d++)(?:\.\d++)?|\.\d++"
_NUMBER = re.compile(
    rf"""(?=[-+.\d])(?<![A-Za-z_0-9^])(?<!\d[,.:/'\u2019])(?<!\d[ ]/[ ])(?<![_^]\{{)  # not in a word, another number, an exponent
    (?<![√∛±])(?<![√±][ (])(?<!sqrt[ ({{\[])(?<!\]\{{)(?<!\\pm[ ])(?<!![*/])  # nor a root's, an error, the 3 of 5!/3!
    (?!0[xXbBoO][\dA-Fa-f])
    (?P<sign>(?<![)\]}}])[-+])?(?P<digits>{_DIGITS})
    (?:[eE](?P<exp>[-+]?\d{{1,6}})|[ ]?(?:\\times|\u00d7|\*|x)[ ]?10\^\{{?(?P<power>[-+]?\d{{1,6}})\}}?)?
    (?:[ ]{{1,2}}(?P<part>\d{{1,6}})/(?P<whole>\d{{1,6}})|[ ]?/[ ]?(?P<den>-?\d++))?
    (?![,.:/]?\d)(?![eE][-+]?\d)(?![ ]?\^)(?![ ]?/[ ]?-?\d)  # nor cut out of a date, a time, a list, a power
    (?!['\u2019_]\d)(?!_\{{)(?![\u2070\u00b9\u00b2\u00b3\u2074-\u207f])  # nor out of 1'000, 1_000, 11_{{2}}, 10²
    (?![ ]?(?:[*×·][ ]?)?(?:[π√∛±]|\\?(?:pi|sqrt)(?![A-Za-z])|\\pm(?![A-Za-z])))  # nor out of 2π, 2√3, 5 ± 1
    (?!!+(?:[\w(=^}}-]|[ ]?[*/×·÷+=]))  # a factorial; "It is 5!" is joy""",
    re.VERBOSE | re.ASCII,
)
_BARE = re.compile(rf"\$?\s?[-+]?\s?\$?(?:{_DIGITS})(?:\s?/\s?-?\d+)?[\s.%$*]*", re.ASCII)
_UNWORKED = re.compile(  # a side of an equation that is still to be worked out: 4*5, but not 4*10^5
    rf"\D*(?:{_DIGITS})[\s)]*(?!(?:\\times|[*×x])\s?10\^)(?:[-+*×·÷]|\\times|\\cdot|/\s*\()[\s(]*[.\d]", re.ASCII
)
_AFTER = re.compile(r"(?:(?:square|cubic)\s+)?(?!pi\b)(?:[A-Za-zµΩ]{2,}|[mgshlLJNWVACF])[²³]?(?:\s*(?:/|\bper\b)\s*[A-Za-z]+[²³]?)?")
_MANY = re.compile(r"bn|mn|(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?", re.IGNORECASE)
_BEFORE = re.compile(r"(?:US|USD|C|CAD|A|AUD|EUR|GBP|CHF|JPY|CNY|INR|Rs\.?|[A-Za-z]\s*=)?")
_POWER = re.compile(r"(?<=\d)([ ]?)\*\*\1(?=\d)")  # 2**3 in Python; other pairs of asterisks are markdown
_LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"(?<=\d)\s*\\[dtc]?frac", r" \\frac"),  # 2\frac{3}{4} is a mixed number
        (r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
        (r"\\[dtc]?frac\s*(\d)\s*(\d)", r"\1/\2"),
        (r"\^\s*\{?\s*\\circ\s*\}?", ""),
        (r"\\[,!]", ""),
        (r"\\([$%#&])", r"\1"),
        (r"\\(?:[;:> ()\[\]]|left|right|displaystyle|approx|q?quad)", " "),
    )
]
_EQUALS = re.compile(r"[=≈]")
_SIGN_APART = re.compile(r"([=≈]\s*[-+])\s+(?=[.\d])")  # after no operand: "x = - 7"
_SIGN_FIRST = re.compile(r"^\s*([-+])\s+(?=[.\d])")
_SIGNED_MONEY = re.compile(r"-\s*[$£€¥]\s*")
_MONEY = re.compile(r"[$£€¥]")


def _plain(text: str) -> str:
    """LaTeX, markdown and currency signs reduced to what a number is read from."""
    if "\\" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    if "**" in text:
        text = _POWER.sub("^", text).replace("**", "")
    text = text.replace("{,}", ",").replace("`", "").replace("°", "")
    return _MONEY.sub(" ", _SIGNED_MONEY.sub("-", text))


@lru_cache(maxsize=4096)
def number_in(text: str, truncated: bool) -> Found | None:
    """The number that an answer's text gives as final, None where there is none; `truncated`: only a complete one counts."""
    text = text.translate(LOOKALIKES)
    line = first_line(text)
    if _BARE.fullmatch(line.text) and (line.closed or not truncated):
        return next(_numbers(line.text), None)
    for clause in clauses(text):
        if clause.closed or not truncated:
            bullet = clause.own_line and not _BARE.fullmatch(clause.text)
            found = _of_clause(clause.text + "}" * clause.boxed, not bullet)
            if found or (_EQUALS.search(clause.text) and next(_numbers(clause.text), None)):
                return found  # None of an equation with nothing but sums to work out
    return None if truncated else next(_numbers(text[-MAX_TEXT:], False, backwards=True), None)


def _of_clause(text: str, sign_first: bool) -> Found | None:
    """The first number of a clause; of an equation that of the last side that is worked out: 4*5 = 20, 20 = 4*5."""
    *sides, last = _EQUALS.split(text)
    if not sides:
        return next(_numbers(last, sign_first), None)
    worked_out = (side for side in (last, *reversed(sides[-4:])) if not _UNWORKED.match(_plain(side)))
    return next((found for side in worked_out if (found := next(_numbers(side, sign_first), None))), None)


def number_stated(text: str) -> Found | None:
    """The number of a gold answer: alone, but for its currency, percent sign or unit, or so after the last marker; None of any other."""
    text = text.translate(LOOKALIKES)
    clause = next(clauses(text), None)
    for part in (text, *([clause.text] if clause else [])):
        plain = _SIGN_FIRST.sub(r"\1", _plain(part).strip(" *_`\"'$"))
        match = next(_NUMBER.finditer(plain), None)
        if match and _BEFORE.fullmatch(plain[: match.start()].strip()):
            unit = plain[match.end() :].strip().removesuffix(".").strip(" *_%$")
            key = _number_key(match)
            if key is not None and (not unit or (_AFTER.fullmatch(unit) and not _MANY.fullmatch(unit))):
                return Found(match[0], key)
    return None


def number_alone(text: str) -> Found | None:
    """The number that a text is, with nothing beside it but its currency or percent sign; None where it is anything else."""
    text = _plain(text.translate(LOOKALIKES)).strip()
    return next(_numbers(text), None) if _BARE.fullmatch(text) else None


def _numbers(text: str, sign_first: bool = True, backwards: bool = False) -> Iterator[Found]:
    """`sign_first`: a sign that the text begins with is that of the number after it, a space between or not."""
    text = _SIGN_APART.sub(r"\1", _plain(text))
    matches = list(_NUMBER.finditer(_SIGN_FIRST.sub(r"\1", text) if sign_first else text))
    for match in reversed(matches) if backwards else matches:
        key = _number_key(match)
        if key is not None:
            yield Found(match[0].strip(), key)


def _number_key(match: re.Match[str]) -> str | None:
    """Canonical text: `-1.25`, `1/3`; exact, from strings, so that a million digits cost nothing; None for x/0."""
    whole, _, fraction = match["digits"].replace(",", "").replace(" ", "").partition(".")
    exponent = int(match["exp"] or match["power"] or 0) - len(fraction)
    mantissa = (whole + fraction).lstrip("0") or "0"
    sign = "-" if match["sign"] == "-" and mantissa != "0" else ""
    if len(match[0]) > MAX_ANSWER or len(mantissa) + abs(exponent) > MAX_ANSWER:
        if match["part"] or match["den"]:
            return None
        short = mantissa.rstrip("0") or "0"
        return f"{sign}{short}e{exponent + len(mantissa) - len(short)}"
    if not (exponent or match["part"] or match["den"]):
        return sign + mantissa
    value = Fraction(int(mantissa)) * Fraction(10) ** exponent
    if match["part"]:
        if int(match["whole"]) == 0:
            return None
        value += Fraction(int(match["part"]), int(match["whole"]))
    if match["den"]:
        if int(match["den"]) == 0:
            return None
        value /= int(match["den"])
    return ("-" if value and (value < 0) != bool(sign) else "") + _decimal(abs(value))


def _decimal(value: Fraction) -> str:
    """A fraction as finite decimal where it has one, otherwise as p/q."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(value.numerator * 10**places // value.denominator).rjust(places + 1, "0")
    return digits if places == 0 else f"{digits[:-places]}.{digits[-places:]}"
