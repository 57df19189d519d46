"""Files of benchmarks: reads their rows, and knows what a problem is made of in the layouts that the field uses.

Why: SQuAD, MMLU or HumanEval come as files whose columns everybody knows; one small function per layout turns a row into a problem, so that
a benchmark of a known layout is a few lines of YAML. A row that lacks something is an error that names file, row and column: a problem
must not vanish from a denominator. What it does not do: fetch files (see `problems`), grade.
"""

import csv
import json
import logging
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from thinkscale.config import digest
from thinkscale.programs import checks
from thinkscale.sources import ConfigError, HubBenchmark, Layout

log = logging.getLogger(__name__)

TEXT = "utf-8-sig"
"""UTF-8; the mark that some programs write before it is no part of the first question."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What options are asked as."""
MOST_DOUBLE = 0.01
"""Share of rows whose right option may stand at another letter too: MMLU has 4 of 14,042 (hendrycks/test, issue 29), and nobody can mend
what is published. More is a file that was made wrong."""

Row = dict[str, Any]
ROW = "row of the file"
"""Where a layout finds a row's index."""


class Item(NamedTuple):
    """What a row says of its problem."""

    question: str
    answer: str
    difficulty: float = 0.0
    choices: tuple[str, ...] = ()
    metadata: Row | None = None
    id: str = ""
    """The file's own id; empty: question and answer are what tells problems apart."""
    cluster: str = ""
    """What problems of one passage share."""


class RowError(ValueError):
    """Something in one row is missing or of the wrong kind."""


def read_items(path: Path, hub: HubBenchmark, answers: Path | None = None) -> list[Item]:
    """Every problem of a file. Raises ConfigError naming the row."""
    rows, found = _rows(path, hub, answers), list[Item]()
    ids: dict[str, int] = {}
    for index, row in enumerate(rows):
        try:
            if None in row:
                raise RowError(f"more fields than columns: {row[None]}")  # type: ignore[index]  # how csv says it
            item = LAYOUTS[hub.layout]({**row, ROW: index}, hub)
            if hub.answer_after and item.question.strip() and item.answer.strip():
                item = _after(item, hub.answer_after)
            if hub.id:
                item = item._replace(id=_text(row, hub.id))
            if hub.difficulty:
                item = item._replace(difficulty=_number(row, hub.difficulty))
            elif not item.difficulty:
                item = item._replace(difficulty=_size(item.question))
            if not item.question.strip() or not item.answer.strip():
                raise RowError(f"empty {'answer' if item.question.strip() else 'question'}")
        except RowError as e:
            raise ConfigError(f"{path.name}, row {index}: {e}. Mend or remove the row (the file is read as layout '{hub.layout}').") from e
        if item.id and item.id in ids:
            raise ConfigError(f"{path.name}, row {index}: id '{item.id}' stands in row {ids[item.id]} too. Ids must differ: mend the file.")
        ids[item.id] = index
        found.append(item._replace(metadata={**(item.metadata or {}), "row": index}))
    _check_golds_differ(path, found)
    return found


def _check_golds_differ(path: Path, items: list[Item]) -> None:
    """Raise ConfigError where the right option's text stands at another letter too: who names that letter is as right, and graded wrong.

    Capitals count (genes: Bb, bb), runs of spaces do not.
    """
    double = []
    for index, item in enumerate(items):
        options = [" ".join(option.split()) for option in item.choices]
        if options and options.count(options[LETTERS.index(item.answer)]) > 1:
            double.append(index)
    if not double:
        return
    what = f"{path.name}, row {double[0]}: the right option's text stands at another letter too (in {len(double):,} of {len(items):,} rows)"
    if len(double) > MOST_DOUBLE * len(items):
        raise ConfigError(f"{what}. Who names that letter is graded wrong: mend or remove the row.")
    log.warning("%s; only the letter that the file says is graded as right", what)


def _after(item: Item, mark: str) -> Item:
    """The answer that follows the last mark; difficulty = steps of the worked answer before it, a line each."""
    worked, there, answer = item.answer.rpartition(mark)
    if not there:
        raise RowError(f"no '{mark}' in the answer {item.answer[:60]!r}, after which the gold answer is to be read")
    return item._replace(answer=answer, difficulty=float(len([line for line in worked.splitlines() if line.strip()])))


# --- rows ---


def _rows(path: Path, hub: HubBenchmark, answers: Path | None) -> list[Row]:
    try:
        if answers is not None:
            return _aligned(path, answers, hub)
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows: list[Row] = pq.read_table(path).to_pylist()
        elif path.suffix in (".csv", ".tsv"):
            with path.open(newline="", encoding=TEXT) as f:
                if path.suffix == ".csv":
                    table = csv.DictReader(f, list(hub.columns) or None)
                else:  # a TSV of the field has no quoting: a quotation mark in it is a quotation mark
                    table = csv.DictReader(f, list(hub.columns) or None, delimiter="\t", quoting=csv.QUOTE_NONE)
                rows = [dict(row) for row in table]
        elif path.suffix == ".json":
            rows = _flat(json.loads(path.read_text(encoding=TEXT)))
        else:
            rows = [json.loads(line) for line in path.read_text(encoding=TEXT).split("\n") if line.strip()]
    except (ValueError, KeyError, TypeError, OSError, csv.Error) as e:  # pyarrow's errors are ValueErrors and OSErrors
        raise ConfigError(f"{path.name}: cannot be read as a {path.suffix or 'JSON-lines'} file: {e!r}.") from e
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path.name}: holds no rows of named values.")
    return rows


def _aligned(path: Path, answers: Path, hub: HubBenchmark) -> list[Row]:
    """Two text files, line by line (FLORES, WMT)."""
    questions, golds = (p.read_text(encoding=TEXT).rstrip("\n").split("\n") for p in (path, answers))
    if len(questions) != len(golds):
        raise ValueError(f"it has {len(questions)} lines and {answers.name} {len(golds)}: they are not the same sentences")
    return [{hub.question: q, hub.answer: a} for q, a in zip(questions, golds, strict=True)]


def _flat(content: Any) -> list[Row]:
    """Rows of a JSON file: a list, or SQuAD's articles of paragraphs of questions."""
    if isinstance(content, list):
        return content
    rows = []
    for paragraph in (p for article in content["data"] for p in article["paragraphs"]):
        for asked in paragraph["qas"]:
            golds = {"text": [a["text"] for a in asked["answers"]]}
            rows.append({"context": paragraph["context"], **asked, "answers": golds})
    return rows


def _value(row: Row, column: str) -> Any:
    """What stands in a column; a dot leads into a nested one."""
    value: Any = row
    for part in [column] if column in row else column.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(str(c) for c in value if c != ROW) if isinstance(value, dict) else "a plain value"
            raise RowError(f"no column '{column}'; there is {there}")
        value = value[part]
    return value


def _text(row: Row, column: str) -> str:
    return _whole(row, column).strip()


def _whole(row: Row, column: str) -> str:
    """What stands in a column, with its spaces; nothing where it is missing."""
    return _written(_value(row, column), f"column '{column}'")


def _written(value: Any, where: str) -> str:
    """Text or a number as text; nothing where it is missing: it must not become the text "nan" or "None"."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise RowError(f"{where}: text or a number is wanted, found {str(value)[:60]} ({type(value).__name__})")
    return str(value)


def _number(row: Row, column: str) -> float:
    text = _text(row, column)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"column '{column}': a number is wanted for the difficulty, found '{text}'")
    return number


def _texts(row: Row, column: str) -> list[str]:
    """The elements of a list, each with its spaces; "" for a missing one."""
    value = _value(row, column)
    if not isinstance(value, (list, tuple)) or not value:
        raise RowError(f"column '{column}': a list with something in it is wanted, found {value!r}")
    return [_written(element, f"column '{column}', element {i}") for i, element in enumerate(value)]


def _full(row: Row, column: str) -> list[str]:
    """Likewise, where no element may be missing or empty."""
    texts = _texts(row, column)
    for i, text in enumerate(texts):
        if not text.strip():
            raise RowError(f"column '{column}', element {i}: it is empty or missing")
    return texts


def _size(text: str) -> float:
    """Words of a text, to the next power of two: few enough levels to slice by."""
    return float(2 ** math.ceil(math.log2(max(1, len(text.split())))))


# --- layouts ---


def _columns(row: Row, hub: HubBenchmark) -> Item:
    return Item(_whole(row, hub.question), _text(row, hub.answer))


def _parallel(row: Row, hub: HubBenchmark) -> Item:
    """FLORES, WMT: a sentence and its translation; difficulty = words of the sentence."""
    source = _text(row, hub.question)
    return Item(source, _text(row, hub.answer), _size(source), metadata={"correct_from": hub.correct_from})


def _squad(row: Row, hub: HubBenchmark) -> Item:
    """A passage and a question; any of several answers is right; difficulty = words of the passage."""
    passage, question = _text(row, "context"), _text(row, "question")
    answers = list(dict.fromkeys(a.strip() for a in _full(row, "answers.text")))
    asked = f"{passage}\n\nQuestion: {question}" if passage and question else ""
    return Item(asked, answers[0], _size(passage), (), {"answers": answers}, _text(row, "id"), passage)


def lettered(question: str, options: list[str]) -> str:
    """A multiple-choice problem as it is asked."""
    return "\n".join([question, *(f"{LETTERS[i]}) {option}" for i, option in enumerate(options))])


def _choice(question: str, options: list[str], gold: int, **more: Any) -> Item:
    if len(options) > len(LETTERS):
        raise RowError(f"{len(options)} options, and letters to ask them by end at {LETTERS[-1]}")
    if not 0 <= gold < len(options) or not all(options):
        raise RowError(f"answer {gold} of the {len(options)} options {options}: no such option, or an empty one")
    asked = lettered(question, options) if question else ""
    return Item(asked, LETTERS[gold], choices=tuple(options), **more)


def _mmlu(row: Row, hub: HubBenchmark) -> Item:
    """It has no ids, and some questions in several subjects: a row is its id, and equal questions are one cluster."""
    answer = _text(row, "answer")
    if len(answer) <= 2 and answer.isdecimal():
        gold = int(answer)
    elif len(answer) == 1 and answer.isascii() and answer.isalpha():
        gold = LETTERS.index(answer.upper())
    else:
        raise RowError(f"column 'answer': an option's number, from 0, or its letter is wanted, found '{answer[:60]}'")
    question, options = _text(row, "question"), [option.strip() for option in _texts(row, "choices")]
    return _choice(question, options, gold, id=_text(row, ROW), cluster=question)


def _arc(row: Row, hub: HubBenchmark) -> Item:
    """Labels are letters or, in some rows, digits; they are asked as letters."""
    labels, key = _full(row, "choices.label"), _text(row, "answerKey")
    options = [option.strip() for option in _texts(row, "choices.text")]
    if len(labels) != len(options) or labels.count(key) > 1:
        raise RowError(f"labels {labels} of {len(options)} options, answerKey '{key}': it does not say which option is right")
    return _choice(_text(row, "question"), options, labels.index(key) if key in labels else -1, id=_text(row, "id"))


def _gpqa(row: Row, hub: HubBenchmark) -> Item:
    """The right answer comes first in the file: options are put in an order that a hash of the question fixes."""
    question, right = _text(row, "Question"), _text(row, "Correct Answer")
    options = [right, *(_text(row, f"Incorrect Answer {i}") for i in (1, 2, 3))]
    order = sorted(range(4), key=lambda i: digest([question, i, options[i]]))
    return _choice(question, [options[i] for i in order], order.index(0))


def _humaneval(row: Row, hub: HubBenchmark) -> Item:
    """A function's head to be finished, graded by each assertion of its hidden test; difficulty = words of the solution."""
    prompt, entry_point, solution = _whole(row, "prompt"), _text(row, "entry_point"), _whole(row, "canonical_solution")
    try:
        tests = checks(_text(row, "test"), entry_point)
    except (SyntaxError, ValueError) as e:
        raise RowError(f"column 'test': {e}") from e
    metadata = {"prompt": prompt, "entry_point": entry_point, "tests": _some(tests)}
    return Item(prompt, f"{prompt}{solution}", _size(solution), metadata=metadata, id=_text(row, "task_id"))


def _mbpp(row: Row, hub: HubBenchmark) -> Item:
    """A sentence with the tests shown, as published; difficulty = words of the solution."""
    tests, setup = _full(row, "test_list"), _whole(row, "test_setup_code") if "test_setup_code" in row else ""
    if not setup and row.get("test_imports"):
        setup = "\n".join(_full(row, "test_imports"))
    said = _text(row, "text" if "text" in row else "prompt")
    asked = f"{said}\nThe program should pass these tests:\n" + "\n".join(tests) if said else ""
    solution = _text(row, "code")
    return Item(asked, solution, _size(solution), (), {"tests": [f"{setup}\n{test}" for test in tests]}, _text(row, "task_id"))


def _some(tests: list[str]) -> list[str]:
    if not tests:
        raise RowError("column 'test': no assertion in it")
    return tests


LAYOUTS: dict[Layout, Callable[[Row, HubBenchmark], Item]] = {
    "columns": _columns,
    "parallel": _parallel,
    "squad": _squad,
    "mmlu": _mmlu,
    "arc": _arc,
    "gpqa": _gpqa,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
}
