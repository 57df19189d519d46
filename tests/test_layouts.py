"""Files of the field's layouts: read as published, gold answers grade correct, and what is unfit is one error that names the row."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from thinkscale.config import ConfigError
from thinkscale.grading import check_golds, grade
from thinkscale.loading import load_catalogue
from thinkscale.problems import Benchmark, Problem, benchmarks
from thinkscale.sources import HubBenchmark

CATALOGUE = load_catalogue()

# Rows made up for this test, in the columns of the real files (names, nesting and types as published).
HUMANEVAL = {
    "task_id": "Made/0",
    "prompt": "from typing import List\n\n\n"
    'def twice(xs: List[int]) -> List[int]:\n    """Double each.\n    >>> twice([1])\n    [2]\n    """\n',
    "entry_point": "twice",
    "canonical_solution": "    return [2 * x for x in xs]\n",
    "test": "\n\nMETADATA = {'author': 'us'}\n\n\ndef check(candidate):\n    assert candidate([1]) == [2]\n    xs = [1, 2]\n"
    "    assert candidate(xs) == [2, 4]\n    for i in range(3):\n        assert candidate([i]) == [2 * i]\n\n",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function to add two numbers.",
    "code": "def add(a, b):\r\n  return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
SQUAD = [
    {"id": "a", "title": "T", "context": "The river Ems rises in the hills.", "question": "Where does it rise?",
     "answers": {"text": ["in the hills", "the hills"], "answer_start": [19, 22]}},
    {"id": "b", "title": "T", "context": "The river Ems rises in the hills.", "question": "Which river?",
     "answers": {"text": ["Ems"], "answer_start": [10]}},
]  # fmt: skip
GPQA = {
    "Question": "Which is prime?",
    "Correct Answer": "7",
    "Incorrect Answer 1": "8",
    "Incorrect Answer 2": "9",
    "Incorrect Answer 3": "10",
}
FILES: dict[str, tuple[str, list[dict[str, Any]]]] = {  # benchmark of models.yaml -> the file's ending, rows
    "gsm8k": ("parquet", [{"question": "One?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}, {"question": "A lot?", "answer": "#### 1,200"}]),
    "math-500": ("jsonl", [
        {"problem": "Convert.", "solution": "..", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "level": 2, "unique_id": "t/1.json"},
        {"problem": "Name?", "solution": "..", "answer": "\\text{Evelyn}", "level": 5, "unique_id": "t/2.json"},
    ]),
    "aime-2024": ("parquet", [{"id": 60, "problem": "Find x.", "answer": "204"}, {"id": 61, "problem": "y?", "answer": "025"}]),
    "mgsm-de": ("tsv", [{"question": 'Er sagt "zwei". Wie viele?', "answer": "2"}, {"question": "Und nun?", "answer": "1,200"}]),
    "mmlu": ("parquet", [{"question": "Two?", "subject": "s", "choices": ["1", "2", "3", "4"], "answer": 1}]),
    "arc-challenge": ("parquet", [
        {"id": "x", "question": "Wet?", "choices": {"text": ["sand", "sea", "sun"], "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"id": "y", "question": "Dry?", "choices": {"text": ["sand", "sea", "rain"], "label": ["1", "2", "3"]}, "answerKey": "1"},
    ]),
    "gpqa-diamond": ("csv", [GPQA, GPQA | {"Question": "Which is, then,\nprime?"}]),
    "squad": ("parquet", SQUAD),
    "wmt14-de-en": ("parquet", [{"translation": {"de": "Das Haus ist rot.", "en": "The house is red."}}]),
    "humaneval": ("parquet", [HUMANEVAL]),
    "mbpp": ("jsonl", [MBPP]),
}  # fmt: skip
DIFFICULTY = {
    **{"gsm8k": [1, 2], "math-500": [2, 5], "aime-2024": [2, 1], "mgsm-de": [8, 2], "mmlu": [16], "arc-challenge": [8, 8]},
    **{"gpqa-diamond": [16, 16], "squad": [8, 8], "wmt14-de-en": [4], "humaneval": [8], "mbpp": [8]},
}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        path.write_text("".join("\t".join(row.values()) + "\n" for row in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(folder: Path, name: str, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Benchmark:
    """A benchmark of the catalogue on a file of our own."""
    ending, shipped = FILES[name]
    rows = shipped if rows is None else rows
    changes = {"file": f"test.{ending}", **changes}
    write(folder / changes["file"], rows)
    declared = CATALOGUE.benchmarks[name].model_dump() | {"source": str(folder), "revision": None, "problems": len(rows), **changes}
    hub = HubBenchmark.model_validate({k: v for k, v in declared.items() if v is not None})
    return benchmarks(CATALOGUE.model_copy(update={"benchmarks": {name: hub}}))[name]


def test_every_file_of_the_catalogue_is_tried_here() -> None:
    assert set(FILES) == set(CATALOGUE.benchmarks)


@pytest.mark.parametrize("name", FILES)
def test_a_file_as_published_is_read_and_its_gold_answers_grade_correct(tmp_path: Path, name: str) -> None:
    benchmark = opened(tmp_path, name)
    found = benchmark.load(None, 0)
    assert len(found) == len(FILES[name][1]) and len({p.problem_id for p in found}) == len(found)
    assert [p.difficulty for p in found] == DIFFICULTY[name]
    check_golds(benchmark, found)
    for problem in found:
        result = grade(benchmark.grader, problem.answer, problem, truncated=False)
        assert (result.correct, result.partial, result.status) == (True, 1.0, "answered"), problem
        assert result.answer_class is not None


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("mmlu", "Two?\nA) 1\nB) 2\nC) 3\nD) 4", "B"),
        ("arc-challenge", "Wet?\nA) sand\nB) sea\nC) sun", "B"),
        ("squad", "The river Ems rises in the hills.\n\nQuestion: Where does it rise?", "in the hills"),
        ("wmt14-de-en", "Das Haus ist rot.", "The house is red."),
        ("humaneval", HUMANEVAL["prompt"], (HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]).strip()),
        ("mgsm-de", 'Er sagt "zwei". Wie viele?', "2"),
    ],
)
def test_what_a_layout_asks(tmp_path: Path, name: str, question: str, answer: str) -> None:
    assert (question, answer) in [(p.question, p.answer) for p in opened(tmp_path, name).load(None, 0)]


def test_options_stand_in_an_order_that_does_not_give_the_answer_away(tmp_path: Path) -> None:
    rows = [GPQA | {"Question": f"Which is prime, {i}?"} for i in range(60)]
    found = opened(tmp_path, "gpqa-diamond", rows).load(None, 0)
    letters = [p.answer for p in found]
    assert all(5 <= letters.count(letter) <= 26 for letter in "ABCD")
    assert all(p.choices["ABCD".index(p.answer)] == "7" for p in found)
    assert found == opened(tmp_path, "gpqa-diamond", rows).load(None, 0)


def test_questions_on_one_passage_are_one_cluster(tmp_path: Path) -> None:
    first, second = opened(tmp_path, "squad").load(None, 0)
    assert first.cluster_id == second.cluster_id and first.problem_id != second.problem_id


def test_the_first_problems_of_a_file_that_is_sorted_by_subject_are_of_all_subjects(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "subject": f"s{i // 50}", "choices": ["1", "2"], "answer": i % 2} for i in range(200)]
    benchmark = opened(tmp_path, "mmlu", rows)
    first = [int(p.question.split("?")[0]) // 50 for p in benchmark.load(40, 0)]
    assert all(first.count(subject) >= 4 for subject in range(4))
    assert benchmark.load(None, 0)[:40] == benchmark.load(40, 0)


def test_a_question_that_mmlu_asks_twice_is_two_problems_of_one_cluster(tmp_path: Path) -> None:
    first, second = opened(tmp_path, "mmlu", FILES["mmlu"][1] * 2).load(None, 0)
    assert first.problem_id != second.problem_id and first.cluster_id == second.cluster_id


def test_squad_s_own_nested_file_gives_the_same_problems(tmp_path: Path) -> None:
    flat = opened(tmp_path, "squad").load(None, 0)
    asked = [
        {"id": r["id"], "question": r["question"], "answers": [{"text": t, "answer_start": 0} for t in r["answers"]["text"]]} for r in SQUAD
    ]
    content = {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": SQUAD[0]["context"], "qas": asked}]}]}
    benchmark = opened(tmp_path, "squad", file="test.json")
    (tmp_path / "test.json").write_text(json.dumps(content))
    assert benchmark.load(None, 0) == flat


def test_two_text_files_are_read_line_by_line(tmp_path: Path) -> None:
    rows = [{"translation": {"de": "a b", "en": "c"}}, {"translation": {"de": "d", "en": "e f"}}]
    benchmark = opened(tmp_path, "wmt14-de-en", rows, file="de.devtest", answer_file="en.devtest")
    (tmp_path / "de.devtest").write_text("Ein Haus.\nZwei alte Bäume.\n")
    (tmp_path / "en.devtest").write_text("A house.\nTwo old trees.\n")
    assert [(p.question, p.answer, p.difficulty) for p in benchmark.load(None, 0)] == [
        ("Ein Haus.", "A house.", 2.0),
        ("Zwei alte Bäume.", "Two old trees.", 4.0),
    ]
    (tmp_path / "en.devtest").write_text("A house.\n")
    with pytest.raises(ConfigError, match=r"2 lines and en\.devtest 1"):
        benchmark.load(None, 0)


def test_a_changed_local_file_is_another_benchmark_and_a_pinned_one_is_named_by_its_revision(tmp_path: Path) -> None:
    first = opened(tmp_path, "squad").identity(0)
    assert first == opened(tmp_path, "squad").identity(1)
    assert first != opened(tmp_path, "squad", SQUAD[:1]).identity(0)
    pinned = CATALOGUE.benchmarks["gsm8k"]
    assert benchmarks(CATALOGUE)["gsm8k"].identity(0).startswith(f"openai/gsm8k/main/test-00000-of-00001.parquet at {pinned.revision} ")


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"answer": "hint"}, True),
        ({"answer_after": "="}, True),
        ({"difficulty": "level"}, True),
        ({"chance": 0.1}, False),
        ({"skill": "x"}, False),
    ],
)
def test_what_is_read_of_a_file_is_part_of_what_the_benchmark_is(tmp_path: Path, changes: dict[str, Any], other: bool) -> None:
    assert (opened(tmp_path, "gsm8k").identity(0) != opened(tmp_path, "gsm8k", **changes).identity(0)) is other


ROW = {"question": "1 + 1?", "answer": "2"}


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        (
            [ROW | {"answer": "#### 2"}, {"question": "4?", "answer": "it makes 4"}],
            {"answer_after": "####"},
            "no '####' in the answer 'it makes 4'",
        ),
        (
            [ROW, {"question": "2?", "answer": ["2", "two"]}],
            {},
            r"row 1: column 'answer': text or a number is wanted, found \['2', 'two'\]",
        ),
        ([ROW, {"question": {"text": "2?"}, "answer": "2"}], {}, r"column 'question': text or a number is wanted.*\(dict\)"),
        ([ROW, {"question": "2?", "answer": True}], {}, r"found True \(bool\)"),
        ([ROW, {"question": float("nan"), "answer": "2"}], {}, "row 1: empty question"),
        ([ROW, ROW | {"answer": "3"}], {}, r"row 1: the question of an earlier row, with the answer '3' in place of '2'"),
    ],
)
def test_a_row_that_would_be_asked_or_graded_wrong_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(tmp_path, "gsm8k", rows, file="test.jsonl", **{"answer_after": None, **changes}).load(None, 0)


def test_a_row_of_too_many_fields_is_refused(tmp_path: Path) -> None:
    benchmark = opened(tmp_path, "gsm8k", [ROW], file="test.csv", answer_after=None)
    (tmp_path / "test.csv").write_text("question,answer\n1 + 1?,2\nhow much, all in all?,3\n")
    with pytest.raises(ConfigError, match="row 1: more fields than columns"):
        benchmark.load(None, 0)


def test_a_gold_answer_that_its_grader_cannot_read_is_said_before_anything_is_generated(tmp_path: Path) -> None:
    benchmark = opened(tmp_path, "gsm8k", [ROW, {"question": "10?", "answer": "ten"}], file="test.jsonl", answer_after=None)
    with pytest.raises(ConfigError, match=r"benchmark gsm8k, row 1: its grader 'number' cannot read the gold answer 'ten'"):
        check_golds(benchmark, benchmark.load(None, 0))


def test_a_file_of_the_hub_without_a_commit_is_refused_before_anything_is_fetched() -> None:
    hub = CATALOGUE.benchmarks["mmlu"]
    loose = benchmarks(CATALOGUE.model_copy(update={"benchmarks": {"mmlu": hub.model_copy(update={"revision": None})}}))["mmlu"]
    for ask in (lambda: loose.identity(0), lambda: loose.load(10, 0)):
        with pytest.raises(ConfigError, match=r"benchmarks\.mmlu\.revision: missing\. Give the commit of cais/mmlu"):
            ask()
    with pytest.raises(ValueError, match="revision"):
        HubBenchmark.model_validate(hub.model_dump(exclude_none=True) | {"revision": "main"})


UNFIT: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "a missing answer": ("math-500", [FILES["math-500"][1][0] | {"answer": None}], r"row 0: empty answer"),
    "an empty problem": ("math-500", [FILES["math-500"][1][0], FILES["math-500"][1][1] | {"problem": "  "}], r"row 1: empty question"),
    "a doubled id": (
        "math-500",
        [FILES["math-500"][1][0], FILES["math-500"][1][1] | {"unique_id": "t/1.json"}],
        r"row 1: id 't/1.json' .*row 0",
    ),
    "a doubled row": ("gsm8k", [FILES["gsm8k"][1][0]] * 2, "row 1: the same question and answer"),
    "no such column": ("gsm8k", [{"question": "x", "solution": "2"}], r"no column 'answer'; there is question, solution"),
    "a difficulty that is no number": ("math-500", [FILES["math-500"][1][0] | {"level": "hard"}], "a number is wanted for the difficulty"),
    "no answers": (
        "squad",
        [SQUAD[0], SQUAD[1] | {"answers": {"text": [], "answer_start": []}}],
        r"row 1: column 'answers.text': a list with",
    ),
    "an empty passage": ("squad", [SQUAD[0] | {"context": ""}], "empty question"),
    "an option too few": ("mmlu", [FILES["mmlu"][1][0] | {"answer": 4}], "no such option"),
    "an empty option": ("mmlu", [FILES["mmlu"][1][0] | {"choices": ["1", "", "3", "4"]}], "or an empty one"),
    "a label that is none": ("arc-challenge", [FILES["arc-challenge"][1][0] | {"answerKey": "E"}], "no such option"),
    "an empty distractor": ("gpqa-diamond", [GPQA | {"Incorrect Answer 2": ""}], "or an empty one"),
    "a test without assertions": ("humaneval", [HUMANEVAL | {"test": "def check(candidate):\n    pass"}], "no assertion"),
    "a test that is no Python": ("humaneval", [HUMANEVAL | {"test": "def check("}], "column 'test'"),
    "no check": ("humaneval", [HUMANEVAL | {"test": "assert True"}], "defines no check"),
    "no tests": ("mbpp", [MBPP | {"test_list": []}], "a list with something in it"),
    "a translation that is missing": ("wmt14-de-en", [{"translation": {"de": "Haus", "en": ""}}], "row 0: empty answer"),
    "an option that is missing": ("mmlu", [FILES["mmlu"][1][0] | {"choices": ["1", None, "3", "4"]}], "row 0: .* or an empty one"),
    "an answer that is missing among others": (
        "squad",
        [SQUAD[1] | {"answers": {"text": ["Ems", None], "answer_start": [10, 10]}}],
        r"row 0: column 'answers\.text', element 1: it is empty or missing",
    ),
    "an answer that is empty among others": ("squad", [SQUAD[1] | {"answers": {"text": ["", "Ems"]}}], "element 0: it is empty or missing"),
    "a label that is missing": (
        "arc-challenge",
        [FILES["arc-challenge"][1][0] | {"choices": {"text": ["sand", "sea"], "label": ["A", None]}, "answerKey": ""}],
        r"column 'choices\.label', element 1: it is empty or missing",
    ),
    "a label at two options": (
        "arc-challenge",
        [FILES["arc-challenge"][1][0] | {"choices": {"text": ["sand", "sea"], "label": ["B", "B"]}}],
        "it does not say which option is right",
    ),
    "a test that is missing": (
        "mbpp",
        [MBPP | {"test_list": ["assert add(1, 2) == 3", None]}],
        "'test_list', element 1: it is empty or missing",
    ),
    "a setup that is no text": ("mbpp", [MBPP | {"test_setup_code": ["import math"]}], "column 'test_setup_code': text or a number"),
    "more options than letters": ("mmlu", [FILES["mmlu"][1][0] | {"choices": [str(i) for i in range(27)]}], "27 options, .* end at Z"),
    "a right option that is there twice": (
        "mmlu",
        [FILES["mmlu"][1][0] | {"choices": ["1", "2 a", "2  a", "4"]}],
        "row 0: the right option's text",
    ),
    "a right option that is also wrong": (
        "gpqa-diamond",
        [GPQA, GPQA | {"Question": "Odd?", "Incorrect Answer 3": "7"}],
        "row 1: .*1 of 2 rows",
    ),
    "another language": ("wmt14-de-en", [{"translation": {"fr": "maison", "en": "house"}}], r"no column 'translation.de'; there is"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_unfit_row_is_one_error_that_names_it(tmp_path: Path, case: str) -> None:
    name, rows, said = UNFIT[case]
    with pytest.raises(ConfigError, match=said):
        opened(tmp_path, name, rows).load(None, 0)


@pytest.mark.parametrize("element", [["2"], {"text": "2"}, True], ids=repr)
@pytest.mark.parametrize(
    ("name", "column"), [("mmlu", "choices"), ("squad", "text"), ("arc-challenge", "text"), ("mbpp", "test_list"), ("mbpp", "test_imports")]
)
def test_an_element_of_a_list_is_as_strictly_text_as_a_column_is(tmp_path: Path, name: str, column: str, element: Any) -> None:
    row = dict(FILES[name][1][0])
    parent = {"squad": "answers", "arc-challenge": "choices"}.get(name)
    if column == "test_imports":
        row = {**row, "test_setup_code": "", "test_imports": ["import math", "import re"]}
    mixed = [*(row[parent][column] if parent else row[column])[:-1], element]
    row |= {parent: row[parent] | {column: mixed}} if parent else {column: mixed}
    with pytest.raises(ConfigError, match=rf"row 0: column '.*{column}', element {len(mixed) - 1}: text or a number is wanted, found "):
        opened(tmp_path, name, [row], file="test.jsonl").load(None, 0)


def test_nan_in_a_list_is_missing_and_no_text(tmp_path: Path) -> None:
    row = SQUAD[1] | {"answers": {"text": ["Ems", float("nan")]}}
    with pytest.raises(ConfigError, match="element 1: it is empty or missing"):
        opened(tmp_path, "squad", [row], file="test.jsonl").load(None, 0)


def test_imports_of_mbpp_stand_before_every_test_and_missing_ones_are_none(tmp_path: Path) -> None:
    for more, setup in (({"test_imports": ["import math", "import re"]}, "import math\nimport re"), ({"test_imports": None}, ""), ({}, "")):
        (problem,) = opened(tmp_path, "mbpp", [MBPP | {"test_setup_code": None} | more]).load(None, 0)
        assert json.loads(problem.metadata)["tests"] == [f"{setup}\n{test}" for test in MBPP["test_list"]]


@pytest.mark.parametrize("answer", ["²", "ß", "ﬆ", "!", "AB", "10", "9" * 5000], ids=lambda a: a[:3])
def test_an_answer_that_is_no_letter_or_number_of_an_option_is_one_error(tmp_path: Path, answer: str) -> None:
    with pytest.raises(ConfigError, match=r"row 0: (column 'answer': an option's number, from 0, or its letter|.*no such option)"):
        opened(tmp_path, "mmlu", [FILES["mmlu"][1][0] | {"answer": answer}], file="test.jsonl").load(None, 0)


def test_wrong_options_may_be_alike_and_right_ones_differ_by_a_capital(tmp_path: Path) -> None:
    rows = [{"question": "Two?", "choices": ["1", "1", "2", "1"], "answer": 2}, {"question": "Gene?", "choices": ["Bb", "bb"], "answer": 1}]
    assert {p.answer for p in opened(tmp_path, "mmlu", rows).load(None, 0)} == {"B", "C"}


def test_a_few_ambiguous_rows_of_a_large_file_are_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """MMLU as published has 4 among 14,042."""
    rows = [{"question": f"{i}?", "choices": ["x", "y", "z", "x" if i == 7 else "v"], "answer": 0} for i in range(100)]
    assert len(opened(tmp_path, "mmlu", rows).load(None, 0)) == 100
    assert "row 7: the right option's text stands at another letter too (in 1 of 100 rows)" in caplog.text
    with pytest.raises(ConfigError, match="in 1 of 99 rows"):
        opened(tmp_path, "mmlu", rows[:99]).load(None, 0)


BOM = "\ufeff"


@pytest.mark.parametrize(
    ("file", "content", "changes"),
    [
        ("x.csv", "q,2\nr,3\n", {"columns": ("question", "answer")}),
        ("x.csv", "question,answer\nq,2\nr,3\n", {}),
        ("x.tsv", "q\t2\nr\t3\n", {"columns": ("question", "answer")}),
        ("x.jsonl", '{"question": "q", "answer": "2"}\n{"question": "r", "answer": "3"}\n', {}),
        ("x.json", '[{"question": "q", "answer": "2"}, {"question": "r", "answer": "3"}]', {}),
        ("x.txt", "q\nr\n", {"answer_file": "y.txt"}),
    ],
    ids=["csv", "csv with headers", "tsv", "jsonl", "json", "aligned"],
)
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, file: str, content: str, changes: dict[str, Any]) -> None:
    benchmark = opened(tmp_path, "gsm8k", [ROW] * 2, file=file, answer_after=None, **changes)
    for mark in ("", BOM):
        (tmp_path / file).write_text(mark + content, encoding="utf-8")
        (tmp_path / "y.txt").write_text(f"{mark}2\n3\n", encoding="utf-8")
        assert [(p.question, p.answer) for p in benchmark.load(None, 0)] == [("q", "2"), ("r", "3")]


@pytest.mark.parametrize("level", ["nan", "inf", "-Infinity", float("inf")])
def test_a_difficulty_that_is_not_finite_is_refused(tmp_path: Path, level: object) -> None:
    row = FILES["math-500"][1][0] | {"level": level}
    with pytest.raises(ConfigError, match=r"row 0: column 'level': a number is wanted for the difficulty, found '(nan|-?[Ii]nf)"):
        opened(tmp_path, "math-500", [row]).load(None, 0)


@pytest.mark.parametrize(
    ("file", "content"), [("x.jsonl", "{"), ("x.json", "{}"), ("x.json", "[1]"), ("x.parquet", "PAR1"), ("x.jsonl", "")]
)
def test_a_broken_file_is_one_error_that_names_it(tmp_path: Path, file: str, content: str) -> None:
    benchmark = opened(tmp_path, "gsm8k", file=file)
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError, match=rf"{file}"):
        benchmark.load(None, 0)


def test_a_name_that_stands_for_two_benchmarks_is_an_error() -> None:
    taken = CATALOGUE.model_copy(update={"benchmarks": {"sums": CATALOGUE.benchmarks["gsm8k"]}})
    with pytest.raises(ConfigError, match="'sums' stands for two benchmarks"):
        benchmarks(taken)


def test_a_program_with_some_tests_passed_is_worth_their_share(tmp_path: Path) -> None:
    problem: Problem = opened(tmp_path, "humaneval").load(None, 0)[0]
    for body, share in (("return [2 * x for x in xs]", 1.0), ("return [2]", 1 / 3), ("return [2, 4][: len(xs)]", 2 / 3), ("pass", 0.0)):
        result = grade("code", f"    {body}\n\n\ndef other(): pass\n", problem, False)
        assert result.partial == pytest.approx(share) and result.correct == (share == 1), body
