"""How alike two answers are: token F1 of answers to questions about a passage, chrF of translations, how far a number is off.

Why: a grade of right or wrong makes a jump out of what is a slope; these measures give credit for what is nearly right, as the fields that
use them define them. What it does not do: find the answer in a text (see `extract`), say what is correct (see `grading`).
"""

import functools
import itertools
import math
import re
import string
from collections import Counter
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

from thinkscale.sources import ConfigError

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LABEL = re.compile(r"^[\s*_#]*(?:final answer|answer|translation)\b[^\n:]{0,30}:[*_ \t]*", re.IGNORECASE | re.MULTILINE)


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: SQuAD's own normalisation (Rajpurkar et al. 2016, arXiv:1606.05250).

    An answer that is nothing else keeps its characters, or "the" would equal nothing at all.
    """
    short = " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())
    return short or text.strip().lower()


def token_f1(gold: str, found: str) -> float:
    """Harmonic mean of precision and recall over the words of two normalised texts."""
    a, b = gold.split(), found.split()
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def chrf(gold: str, found: str) -> float:
    """Popović's chrF (2015: characters up to 6, beta 2, no words) of one sentence, as sacrebleu computes it, in [0, 1]."""
    if gold == found:
        return 1.0
    return min(1.0, max(0.0, float(_chrf().sentence_score(found, [gold]).score) / 100))


@functools.cache
def _chrf() -> Any:
    try:
        from sacrebleu.metrics import CHRF  # only where translations are graded
    except ImportError as e:
        raise ConfigError("grading translations needs sacrebleu: pip install -e '.[flows]'.") from e
    return CHRF()


MOST_DIGITS = 16
"""Significant digits that are told apart, about those of double precision: what is equal, or nearer, counts as off by 10^-16."""
_WIDE = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN)  # far beyond those digits, and no overflow at a million


def log10_error(gold: str, found: str) -> float:
    """log10(|found - gold| / |gold|) of two numbers as `extract` writes them, at least -16; of a gold 0, log10 |found|.

    Its negative is the log relative error (McCullough 1998): how many significant digits are right.
    """
    if gold == found:
        return float(-MOST_DIGITS)
    right = _decimal(gold)
    off = _WIDE.divide(_WIDE.abs(_WIDE.subtract(_decimal(found), right)), _WIDE.abs(right) if right else Decimal(1))
    if not off:  # fractions that agree in a hundred digits
        return float(-MOST_DIGITS)
    places = off.adjusted()
    return max(float(-MOST_DIGITS), places + math.log10(_WIDE.scaleb(off, -places)))


def _decimal(number: str) -> Decimal:
    whole, _, denominator = number.partition("/")
    return _WIDE.divide(Decimal(whole), Decimal(denominator)) if denominator else Decimal(whole)


MAX_TRANSLATION = 20_000
"""Characters of a translation, of a whole document at most: chrF's time grows with them, to a tenth of a second."""


def translation_in(text: str, truncated: bool, most_lines: int = 1) -> str | None:
    """The translation in an answer: what stands after the last label ("Translation:"), else from its first line that announces nothing,
    and as many lines as it can have.

    None where there is none; of a text that ran into its cap only a line that was ended counts.
    """
    labels = list(_LABEL.finditer(text))
    if labels:
        text = text[labels[-1].end() :]
    lines = text.split("\n")
    if truncated:
        lines = lines[:-1]
    said = [line.strip().strip('*`"\u201c\u201d').strip() for line in lines]
    told = itertools.islice(itertools.dropwhile(lambda line: line.endswith(":"), filter(None, said)), most_lines)
    return " ".join(" ".join(line.split()) for line in told) or None
