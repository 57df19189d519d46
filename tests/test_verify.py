"""Algebra in processes with a time limit: equal writings are equal, what runs for ever is wrong, and no answer is lost."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinkscale import verify
from thinkscale.grading import grade, grade_many, grader_version
from thinkscale.problems import Problem


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """No process is left."""
    yield
    verify.close()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, status = (folder / "cmdline").read_bytes(), (folder / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert not (b"verify.py" in words and re.search(rf"^PPid:\s*{os.getpid()}$", status, re.MULTILINE))


def problem(answer: str) -> Problem:
    return Problem("p", "p", "?", answer, 1.0)


EQUAL = [  # answer text, gold, correct
    (r"So \boxed{\frac{14}{3}}.", r"\frac{14}{3}", True),
    ("The answer is 14/3.", r"\frac{14}{3}", True),
    ("The answer is: 14/3", r"\frac{14}{3}", True),
    ("The answer is:\n$\\frac{14}{3}$", r"\frac{14}{3}", True),
    ("The final answer is: **14/3**.", r"\frac{14}{3}", True),
    (r"The answer is: 2\sqrt{2}", r"\sqrt{8}", True),
    (r"\boxed{2\sqrt{2}}", r"\sqrt{8}", True),
    (r"\boxed{(3, \pi/2)}", r"\left( 3, \frac{\pi}{2} \right)", True),
    (r"\boxed{-q + p}", "p - q", True),
    (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", True),
    (r"\boxed{6 - 5i}", "6-5i", True),
    (r"\boxed{11\sqrt2}", r"11\sqrt{2}", True),
    ("The answer is 2√2.", r"2\sqrt{2}", True),
    ("The answer is √(15)", r"\sqrt{15}", True),
    (r"\boxed{√{15}x}", r"\sqrt{15}x", True),
    ("The answer is 10 dollars.", "10", True),
    ("The answer is 60 miles per hour", "60", True),
    ("The answer is 10 million", "10", False),
    ("The answer is 10 squared", "10", False),
    ("The answer is 2√3", r"2\sqrt{2}", False),
    (r"\boxed{3}", r"\sqrt{8}", False),
    (r"\boxed{(\pi/2, 3)}", r"\left( 3, \frac{\pi}{2} \right)", False),
    (r"\boxed{5 - 6i}", "6-5i", False),
    (r"\boxed{}}{", "5", False),
    (r"\boxed{\undefinedcommand{x}}", "5", False),
]


@pytest.mark.parametrize(("text", "gold", "correct"), EQUAL)
def test_expressions_are_compared_as_mathematics(text: str, gold: str, correct: bool) -> None:
    result = grade("math", text, problem(gold), False)
    assert result.correct == correct and (result.partial == 1.0) == correct
    assert grade("math", gold, problem(gold), False).correct
    assert (result.answer_class == gold) == correct  # right answers vote together, however they are written


def test_wrong_answers_that_are_equal_vote_together_and_are_worth_their_digits() -> None:
    one, other = (grade("math", text, problem("1234"), False) for text in (r"\boxed{\frac{2470}{2}}", "The answer is 1235."))
    assert one.answer_class == other.answer_class == "1235" and not one.correct
    assert one.partial == other.partial == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        (r"2\sqrt{2}", "2"),
        (r"11\sqrt2", "11"),
        ("x^2+5", "5"),
        ("10", "10!"),
        ("10", "10x"),
        ("10", "10 - 1"),
        (r"\frac{1}{2}", "1"),
        ("(3, 4)", "3"),
        ("7", r"7\pi"),
    ],
)
def test_a_number_inside_an_expression_is_worth_nothing(gold: str, text: str) -> None:
    result = grade("math", rf"\boxed{{{text}}}", problem(gold), False)
    assert (result.correct, result.partial, result.status) == (False, 0.0, "answered")


@pytest.mark.parametrize(("text", "status"), [("", "no_answer"), (r"\boxed{12", "no_answer"), (r"\boxed{12}", "answered")])
def test_what_has_no_answer_abstains(text: str, status: str) -> None:
    result = grade("math", text, problem("12"), truncated=bool(text))
    assert result.status == ("truncated_answer" if text and status == "no_answer" else status)


def test_what_runs_for_ever_is_wrong_and_the_others_are_not_lost() -> None:
    forever = r"\boxed{9^{9^{9^{9}}}}"
    texts = [forever if i % 20 == 7 else rf"\boxed{{\frac{{{i}}}{{3}}}}" for i in range(40)]
    answers = [(text, problem(r"\frac{11}{3}"), False) for text in texts]
    found = grade_many("math", answers)
    assert len(found) == len(texts) and all(g.status == "answered" for g in found)
    assert [g.correct for g in found] == [i == 11 for i in range(40)]
    assert found[7].answer_class == "9^{9^{9^{9}}}"


def test_a_process_that_dies_costs_one_question() -> None:
    worker = verify.Worker()
    assert worker.ask("1", "1") == verify.Verdict(True, "1")
    worker.process.kill()
    worker.process.wait()
    assert worker.ask("1", "1") is None
    worker.kill()
    assert verify.verify("1/2", "0.5").equal


def test_the_grader_names_the_package_that_judges() -> None:
    assert re.fullmatch(r"math-3\+0\.\d+\.\d+", grader_version("math")) and grader_version("chrf").startswith("chrf-2+")


def test_translations_are_worth_their_chrf_and_right_from_the_stated_threshold() -> None:
    gold = "The house is red."
    for threshold, text, correct in (
        (0.6, "The house is red.", True),
        (0.6, "Translation: The house is red.", True),
        (0.6, "Here it is:\n**The house is red!**", True),
        (0.99, "The house is red!", False),
        (0.6, "A cat.", False),
    ):
        asked = Problem("p", "p", "Das Haus ist rot.", gold, 1.0, metadata=json.dumps({"correct_from": threshold}))
        result = grade("chrf", text, asked, False)
        assert result.correct == correct and 0 <= result.partial <= 1, text
        assert (result.answer_class == gold) == correct


def test_chrf_is_sacrebleu_s() -> None:
    from sacrebleu import sentence_chrf

    for text in ("The house is read.", "house", "x", "the red house is red"):
        asked = Problem("p", "p", "?", "The house is red.", 1.0, metadata='{"correct_from": 0.5}')
        assert grade("chrf", text, asked, False).partial == pytest.approx(sentence_chrf(text, ["The house is red."]).score / 100)


@pytest.mark.parametrize(
    ("text", "correct", "partial"),
    [  # golds: "in the hills", "the hills"
        ("the hills", True, 1.0),
        ("Hills!", True, 1.0),
        ("The answer is: in the hills.", True, 1.0),
        ("the green hills", False, 2 / 3),
        ("in the green hills", False, 4 / 5),
        ("the sea", False, 0.0),
    ],
)
def test_answers_about_a_passage_are_normalised_as_squad_does(text: str, correct: bool, partial: float) -> None:
    asked = Problem("p", "p", "?", "in the hills", 1.0, metadata=json.dumps({"answers": ["in the hills", "the hills"]}))
    result = grade("f1", text, asked, False)
    assert (result.correct, result.partial) == (correct, pytest.approx(partial))
    assert grade("f1", text, asked, True).status == ("answered" if ". " in text else "truncated_answer")


def test_an_answer_that_is_an_article_alone_is_not_nothing() -> None:
    asked = Problem("p", "p", "?", "The", 1.0)
    assert grade("f1", "the", asked, False).correct and not grade("f1", "a", asked, False).correct
