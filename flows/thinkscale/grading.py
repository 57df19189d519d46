"""Graders: is an answer right, how nearly, and under which key does it vote?

Why: every grader here accepts each gold answer as its own answer, lets what has no answer abstain, and gives equal answers one
`answer_class`, so that voting needs no pairwise comparison. Numbers are compared exactly and need no algebra; expressions do (`math`), and
a program is right when its hidden tests pass (`code`). `partial` tells a slope from a jump: what is nearly right is worth something.
What it does not do: see the thinking (only `answer_text` comes in), find the answer in the text (see `extract`), run a model's program
or algebra in this process (see `sandbox`, `verify`).
"""

import difflib
import json
import operator
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

from thinkscale import sandbox
from thinkscale.extract import MAX_ANSWER, Found, clauses, first_line, literal, number_alone, number_in, number_stated
from thinkscale.gym import RUN_CODE
from thinkscale.letters import gold_letter, letter_in
from thinkscale.likeness import MAX_TRANSLATION, chrf, log10_error, normalised, token_f1, translation_in
from thinkscale.problems import Benchmark, Grader, Problem
from thinkscale.programs import MAX_PROGRAM, program_in, same_program, share_passed
from thinkscale.sources import ConfigError
from thinkscale.verify import verify

Status = Literal["answered", "no_answer", "truncated_answer", "too_long"]
"""`too_long` is of what was never asked (see `grades`): no grader gives it. What is too long to be an answer is none."""

VERSION: dict[Grader, str] = {
    **{g: f"{g}-2" for g in ("exact", "reasoning_gym", "f1", "chrf")},
    **{g: f"{g}-3" for g in ("number", "choice", "math", "code")},
}
PACKAGE: dict[Grader, str] = {"reasoning_gym": "reasoning-gym", "math": "math-verify", "chrf": "sacrebleu"}
"""Whose judgement a grader's is, in part: its version is part of the grader's."""
MOST: dict[Grader, int] = {"code": MAX_PROGRAM, "chrf": MAX_TRANSLATION}
"""Characters of a gold answer, where it may have more than `MAX_ANSWER`."""
READ: tuple[Grader, ...] = ("number", "choice", "exact", "f1", "chrf")
"""Graders that grade a gold answer in no time; the others take it as it is, or were given it by who scores it."""
WAITING: tuple[Grader, ...] = ("math", "code")
"""Graders that wait for a process of their own: several at once."""


@dataclass(frozen=True)
class Grade:
    """What a grader says of one answer; see the columns of `schema.GRADES`."""

    correct: bool
    partial: float
    status: Status
    extracted_answer: str | None
    answer_class: str | None
    log10_error: float | None = None


def grade(grader: Grader, answer_text: str, problem: Problem, truncated: bool) -> Grade:
    """Grade one answer. `truncated`: the answer ran into its cap, so that only a complete answer counts.

    Raises: ValueError where the problem's own gold answer cannot be read.
    """
    if grader in OTHERS:
        return OTHERS[grader](answer_text, problem, truncated)
    gold: Found | None
    if grader == "number":
        gold, found, partial = number_in(problem.answer, False), number_in(answer_text, truncated), _digits_right
    elif grader == "exact":
        gold, found, partial = literal(problem.answer), _exact_of(answer_text, problem.answer, truncated), _similarity
    else:
        gold, found, partial = (
            gold_letter(problem),
            letter_in(answer_text, problem.choices, truncated),
            lambda gold, found: float(gold == found),
        )
    if gold is None:
        raise ValueError(f"problem {problem.problem_id}: the {grader} grader finds no answer in the gold answer {problem.answer[:80]!r}.")
    if found is None or len(found.text) > MAX_ANSWER:
        return _unanswered(truncated)
    correct = found.key == gold.key
    error = log10_error(gold.key, found.key) if grader == "number" else None
    return Grade(correct, 1.0 if correct else partial(gold.key, found.key), "answered", found.key, found.key, error)


def grade_many(grader: Grader, answers: Sequence[tuple[str, Problem, bool]]) -> list[Grade]:
    """`grade` of each (answer text, problem, truncated), in order."""
    if grader not in WAITING:
        return [grade(grader, *answer) for answer in answers]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda answer: grade(grader, *answer), answers))


def check_graders(graders: Iterable[Grader]) -> None:
    """Raise where what a grader needs does not hold on this machine: before anything is generated rather than after."""
    for grader in sorted(set(graders)):
        if grader == "code":
            sandbox.check()
        elif grader == "math":
            verify("1", "1")
        elif grader == "chrf":
            chrf("one", "two")


def check_golds(benchmark: Benchmark, problems: Iterable[Problem]) -> None:
    """Raise ConfigError for a gold answer that its grader could not read: said before anything is generated, not when it is graded."""
    for number, problem in enumerate(problems):
        unfit = _unfit(benchmark.grader, problem)
        if unfit:
            row = _metadata(problem.metadata).get("row", number)
            raise ConfigError(
                f"benchmark {benchmark.name}, row {row}: its grader '{benchmark.grader}' {unfit}. "
                "Mend the row, or declare another grader or column."
            )


def _unfit(grader: Grader, problem: Problem) -> str | None:
    """What a grader cannot do with a gold answer; None where it grades it right."""
    gold, most = problem.answer, MOST.get(grader, MAX_ANSWER)
    if grader not in ("number", "choice") and len(gold) > most:  # of those two it may be a solution or an option
        return f"takes at most {most:,} characters for an answer; the gold answer {gold[:60]!r} goes on to {len(gold):,}"
    if grader not in READ:
        return None
    try:
        found = grade(grader, gold, problem, False)
    except ValueError:
        return f"cannot read the gold answer {gold[:60]!r}"
    stated = number_stated(gold) if grader == "number" else None
    if grader == "number" and found.correct and (stated is None or stated.key != found.extracted_answer):
        return (
            f"cannot read the gold answer {gold[:60]!r} for certain (it would take {found.extracted_answer}): it wants one number, alone "
            "or with its unit, or after '####' or 'Answer:' at the end of a solution"
        )
    return None if found.correct else f"cannot read the gold answer {gold[:60]!r}"


@lru_cache
def grader_version(grader: Grader) -> str:
    """Name and version of a grader; where another package judges, with that package's version."""
    return f"{VERSION[grader]}+{version(PACKAGE[grader])}" if grader in PACKAGE else VERSION[grader]


def _unanswered(truncated: bool) -> Grade:
    """No answer, or nothing that is short enough to be one: it was given all the same, and choices by score count it."""
    return Grade(False, 0.0, "truncated_answer" if truncated else "no_answer", None, None)


# --- number ---


_DECIMAL = re.compile(r"-?\d+(\.\d+)?")


def _digits_right(gold: str, found: str) -> float:
    """Share of digits that agree, aligned at the point from the right; sign and length count. 0 where either is no plain decimal."""
    if not (_DECIMAL.fullmatch(gold) and _DECIMAL.fullmatch(found)):
        return 0.0
    (a, _, rest), (b, _, also) = gold.partition("."), found.partition(".")
    places = max(len(rest), len(also))
    a, b = a + rest.ljust(places, "0"), b + also.ljust(places, "0")
    return float(sum(map(operator.eq, reversed(a), reversed(b))) / max(len(a), len(b)))


# --- exact ---


_WORD = re.compile(r"\S*[^\s:!,]\s*")  # but not "Sure!" or "Answer:"


def _exact_of(text: str, gold: str, truncated: bool) -> Found | None:
    whole = literal(text)
    if not truncated and whole.key == literal(gold).key:
        return whole  # before any extraction: a gold answer may have lines or words that look like a marker
    line, marked = first_line(text), list(clauses(text))
    alone = line.closed and _WORD.fullmatch(line.text) and not any(clauses(line.text))
    for clause in (line, *marked) if alone else (*marked, line):
        found = literal(clause.text)
        if found.key and (clause.closed or not truncated):
            return found
    return None


def _similarity(gold: str, found: str) -> float:
    """Edit similarity: twice the matching characters over all characters."""
    return difflib.SequenceMatcher(None, gold, found, autojunk=False).ratio()


# --- passages, translations, expressions, programs ---


def _grade_f1(answer_text: str, problem: Problem, truncated: bool) -> Grade:
    """SQuAD: right if equal to one of the gold answers after normalisation; credit = the best token F1."""
    golds = [normalised(str(gold)) for gold in _metadata(problem.metadata).get("answers", [problem.answer])]
    found = _exact_of(answer_text, problem.answer, truncated)
    if found is None or len(found.text) > MAX_ANSWER:
        return _unanswered(truncated)
    key = normalised(found.text)
    correct = key in golds
    return Grade(correct, 1.0 if correct else max(token_f1(g, key) for g in golds), "answered", found.key, golds[0] if correct else key)


def _grade_chrf(answer_text: str, problem: Problem, truncated: bool) -> Grade:
    """Credit = chrF; right from the threshold that the benchmark states. Right translations vote together, others by their text.

    Where the gold answer has several lines, so may the translation.
    """
    gold = problem.answer
    whole = not truncated and answer_text.strip() == gold.strip()  # it may hold what looks like a label
    found = gold if whole else translation_in(answer_text, truncated, len([line for line in gold.split("\n") if line.strip()]))
    if found is None or len(found) > min(MAX_TRANSLATION, max(MAX_ANSWER, 4 * len(gold))):
        return _unanswered(truncated)
    likeness = chrf(gold, found)
    correct = whole or likeness >= float(_metadata(problem.metadata)["correct_from"])
    return Grade(correct, likeness, "answered", found, gold if correct else found)


_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|\w))")
_UNIT = re.compile(  # those that math-verify takes for products of letters
    r"(?<=\d)\s+(?:dollars?|weeks?|points?|people|sides?|solutions?|integers?|cards?|balls?|marbles?|books?|pages?|games?|cookies?|boys?|girls?"
    r"|(?:miles?|kilometers?|km) per hour)$"
)


def _written(text: str) -> str:
    """An expression as math-verify reads it: roots as LaTeX has them, no unit after a number."""
    text = _ROOT.sub(lambda root: f"\\sqrt{{{root[1] or root[2] or root[3]}}}", text)
    number = _UNIT.sub("", text)
    return number if number_alone(number) else text


def _grade_math(answer_text: str, problem: Problem, truncated: bool) -> Grade:
    """Equal as math-verify sees it; credit as in `number` where gold and answer are numbers, else none for what is wrong.

    Right answers vote together, others by sympy's way to print them.
    """
    marked = [c for c in (*clauses(answer_text), first_line(answer_text)) if (c.closed or not truncated) and c.text.strip(" .$*")]
    said = marked[0].text.strip().strip("$*").removesuffix(".").strip(" $*") if marked else ""
    if not 0 < len(said) <= MAX_ANSWER:
        return _unanswered(truncated)
    verdict = verify(_written(problem.answer), _written(said)) if said != problem.answer else None
    if verdict is None or verdict.equal:
        return Grade(True, 1.0, "answered", said, problem.answer)
    gold, found = number_alone(_written(problem.answer)), number_alone(_written(said))
    partial = _digits_right(gold.key, found.key) if gold and found and gold.key != found.key else 0.0
    return Grade(False, partial, "answered", said, verdict.key or said)


def _grade_code(answer_text: str, problem: Problem, truncated: bool) -> Grade:
    """Right if every hidden test passes; credit = the share that does. Programs that differ in layout only vote together."""
    metadata = _metadata(problem.metadata)
    program = program_in(answer_text, metadata, truncated)
    if program is None or len(program) > MAX_PROGRAM:
        return _unanswered(truncated)
    sandbox.check()
    share = share_passed(program, problem.answer, metadata)
    return Grade(share == 1, share, "answered", program, same_program(program))


@lru_cache(maxsize=4096)
def _metadata(text: str) -> dict[str, Any]:
    return dict(json.loads(text))


# --- reasoning-gym's own scorer ---

_SCORER_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, SyntaxError, AttributeError, RecursionError)


def _grade_reasoning_gym(answer_text: str, problem: Problem, truncated: bool) -> Grade:
    """The whole text or, where it scores higher, the marked answer in it; correct = full score."""
    metadata = _metadata(problem.metadata)
    dataset, entry = str(metadata["dataset"]), dict(metadata["entry"])
    candidates = [] if truncated else [answer_text.strip()]
    marked = [c.text.strip(" *`\t") for c in (*clauses(answer_text), first_line(answer_text)) if c.closed or not truncated][:1]
    candidates += [*marked, *(c.removesuffix(".").rstrip(" *`\t") for c in marked if c.endswith("."))]  # **yes**.
    short = [c for c in candidates if 0 < len(c) <= MAX_ANSWER]
    if not short:
        return _unanswered(truncated)
    scores = [_score(dataset, c, entry) for c in short]
    best = max(range(len(short)), key=lambda i: (scores[i], i))
    correct, partial = scores[best] == 1, min(1.0, max(0.0, scores[best]))
    return Grade(correct, partial, "answered", short[best], problem.answer.strip() if correct else short[best])


@lru_cache
def _scorer(dataset: str) -> Callable[[str, dict[str, Any]], float]:
    if dataset in RUN_CODE:
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


OTHERS: dict[Grader, Callable[[str, Problem, bool], Grade]] = {
    "reasoning_gym": _grade_reasoning_gym,
    "f1": _grade_f1,
    "chrf": _grade_chrf,
    "math": _grade_math,
    "code": _grade_code,
}
"""Graders that are no comparison of keys."""
