"""Grading: what counts as the answer, and what counts as right. The tables are the specification."""

import importlib.metadata
import inspect
import itertools
import json
import math
import re
import time
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
import reasoning_gym

from thinkscale.extract import number_in
from thinkscale.grading import Grade, check_golds, grade, grader_version
from thinkscale.gym import RUN_CODE
from thinkscale.measure import measure
from thinkscale.problems import Benchmark, Grader, Problem
from thinkscale.sources import ConfigError
from thinkscale.tidy import complete

COBBE = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k_model_solutions" / "gsm_example_model_solutions.jsonl"


def problem(answer: str, choices: tuple[str, ...] = (), metadata: str = "{}") -> Problem:
    return Problem(problem_id="p", cluster_id="p", question="?", answer=answer, difficulty=1.0, choices=choices, metadata=metadata)


def graded(grader: Grader, text: str, gold: str, choices: tuple[str, ...] = (), truncated: bool = False) -> Grade:
    return grade(grader, text, problem(gold, choices), truncated)


NUMBERS = [  # answer text, what is read from it (None: nothing)
    ("42", "42"),
    (" 42\n", "42"),
    ("The answer is 42.", "42"),
    ("the final answer is: 42", "42"),
    ("The correct answer, as we saw above, is 42.", "42"),
    ("**Final Answer:** 42", "42"),
    ("**Answer**: \\( 42 \\)", "42"),
    ("Answer:\n\n42", "42"),
    ("The answer is: 42. I slept 8 hours.", "42"),
    ("The answer is:\n42\nI slept 8 hours.", "42"),
    ("The answer **is**: - 7", "-7"),
    ("The answer is: - 7", "-7"),
    ("The answer is:\n- 7 apples", "7"),
    ("Final answer = 42", "42"),
    ("She has 3 apples.\n#### 42", "42"),
    ("####42", "42"),
    ("#### Step 1: add\nThe sum is 42", "42"),  # a markdown heading is no marker
    ("2+40=<<2+40=42>>42\nA: 42", "42"),
    ("So \\boxed{42}", "42"),
    ("\\boxed{\\text{42 apples}}", "42"),
    ("$$\\boxed{\\$1{,}234.50}$$", "1234.5"),
    ("\\boxed{41}. Wait, that is wrong: \\boxed{42}", "42"),
    ("\\boxed{41}. No: the answer is 42", "42"),
    ("The answer is 42. I checked it 3 times and it took 10 minutes.", "42"),
    ("The answer is 5 dollars and 30 cents", "5"),
    ("The answer is 12 + 30 = 42 apples", "42"),
    ("The answer is x = 5", "5"),
    ("x = 5", "5"),
    ("12 apples", "12"),
    ("I first thought 7, then 12", "12"),
    ("$1,234.50", "1234.5"),
    ("1,234,567", "1234567"),
    ("1 234", "1234"),
    ("1\u202f234\u202f567", "1234567"),
    ("It costs 5 dollars", "5"),
    ("US$5", "5"),
    ("-$5", "-5"),
    ("€ 12", "12"),
    ("42%", "42"),
    ("42 \\%", "42"),
    ("90^\\circ", "90"),
    ("90°", "90"),
    ("-7", "-7"),
    ("\u22127", "-7"),
    ("+7", "7"),
    ("x=-7", "-7"),
    ("10-7", "7"),  # no marker, no equals sign: the last number, and the dash is a minus between two
    ("between 5\u20137", "7"),
    ("- 7 apples", "7"),  # a bullet
    ("Answer:\n- 7 apples", "7"),
    ("- 7", "-7"),
    ("\u2212 7", "-7"),
    ("+ 7", "7"),
    ("$- 7$", "-7"),
    ("Answer: - 7", "-7"),
    ("Answer:\n- 7", "-7"),
    ("Answer: \u2212 7 apples", "-7"),
    ("The answer is x = - 7.", "-7"),
    ("so x = - 7", "-7"),
    ("\\boxed{- 7}", "-7"),
    ("\\boxed{-\\ 7}", "-7"),
    ("#### - 7", "-7"),
    ("10 - 7", "7"),
    ("The answer is 10 - 7", "10"),
    ("The answer is 10 - 7 = 3", "3"),
    ("1e3", "1000"),
    ("1.5E-2", "0.015"),
    ("1.5 \\times 10^{3}", "1500"),
    ("2 × 10^2", "200"),
    ("3/4", "0.75"),
    ("6/8", "0.75"),
    (".75", "0.75"),
    ("1/3", "1/3"),
    ("2/6", "1/3"),
    ("-1/3", "-1/3"),
    ("\\frac{3}{4}", "0.75"),
    ("-\\dfrac{3}{4}", "-0.75"),
    ("\\frac34", "0.75"),
    ("2\\frac{1}{2}", "2.5"),
    ("2 1/2 cups", "2.5"),
    ("-2 1/2", "-2.5"),
    ("016", "16"),
    ("16.0", "16"),
    ("16.00", "16"),
    ("16.", "16"),
    ("-0", "0"),
    ("-0.0", "0"),
    ("1e-7", "0.0000001"),
    ("\uff11\uff12", "12"),
    ("5kg", "5"),
    ("the 3rd", "3"),
    ("42\n\nQuestion: Tom has 3 pens.\nAnswer: 7", "42"),  # a base model goes on with a question of its own
    ("  **42**\nbecause 6 * 7", "42"),
    ("The answer is 5!", "5"),  # joy
    ("It is 5! I checked it.", "5"),
    ("The answer is 5! = 120", "120"),
    ("3½", "3.5"),
    ("Final answer: 3 ½ cups", "3.5"),
    ("½", "0.5"),
    ("√16 = 4", "4"),
    ("\\sqrt{16} = 4", "4"),
    ("Final answer: 4*5=20", "20"),
    ("Final answer: 20=4*5", "20"),
    ("Final answer: 20 = 4 \\times 5", "20"),
    ("Final answer: x = 1.5 × 10^3", "1500"),
    ("Final answer: 3/4 = 0.75", "0.75"),
    ("1/-2", "-0.5"),
    ("\\frac{1}{-2}", "-0.5"),
    ("-1/-2", "0.5"),
    ("5 m²", "5"),
    ("5 pm", "5"),
    # no number that is certain
    ("10²", None),
    ("The answer is 10²", None),
    ("√4", None),
    ("√(4)", None),
    ("\\sqrt{4}", None),
    ("\\sqrt[3]{8}", None),
    ("2√3", None),
    ("\\boxed{5!}", None),
    ("5!/3!", None),
    ("2π", None),
    ("2 \\pi", None),
    ("2 * π", None),
    ("2**10", None),
    ("1_000", None),
    ("11_{2}", None),
    ("1'000", None),
    ("1\u2019000", None),
    ("0x1F", None),
    ("5 ± 1", None),
    ("5 \\pm 1", None),
    ("1 / 2 / 2024", None),
    ("Final answer: x = 10 - 7", None),  # nobody worked it out
    ("1,6", None),
    ("1,2,3", None),
    ("3.30.1", None),
    ("at 3:30", None),
    ("2:1", None),
    ("1/2/2024", None),
    ("1,23", None),
    ("5/0", None),
    ("2^10", None),
    ("1e1234567", None),
    ("no number", None),
    ("forty-two", None),
    ("", None),
    ("   \n", None),
    ("NaN", None),
    ("infinity", None),
    ("-inf", None),
    ("x2 and H2O", None),
    ("\\boxed{}", None),
    ("\\boxed{", None),
    ("$", None),
    ("{}{}{{", None),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_number_reads_what_a_person_would(text: str, expected: str | None) -> None:
    result = graded("number", text, "987654321")
    assert result.extracted_answer == expected
    assert result.answer_class == expected
    assert result.status == ("no_answer" if expected is None else "answered")
    assert not result.correct
    if expected is not None:
        assert graded("number", text, expected).correct


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # the same texts, but the answer ran into its cap: only a complete answer counts
        ("The answer is 12", None),
        ("The answer is 12.", None),  # may become 12.5
        ("The answer is 12,", None),
        ("The answer is 12 + 30", None),
        ("The answer is 12. Let me", "12"),
        ("The answer is 12\n", "12"),
        ("#### 12", None),
        ("#### 12\n", "12"),
        ("\\boxed{12}", "12"),
        ("\\boxed{12", None),
        ("\\boxed{\\frac{1}{2", None),
        ("12", None),
        ("12\n", "12"),
        ("12\nQuestion: what is 5 plus", "12"),
        ("She has 3 apples. Then she buys 5 more, so", None),
        ("The answer is 12.\nChecking: the answer is 1", "12"),
        ("", None),
    ],
)
def test_a_truncated_number_counts_only_if_complete(text: str, expected: str | None) -> None:
    result = graded("number", text, "12", truncated=True)
    assert (result.status, result.extracted_answer, result.correct) == (
        ("truncated_answer", None, False) if expected is None else ("answered", expected, expected == "12")
    )


CERTAIN = {  # gold answer, its number
    **{"-7": "-7", "$18.00": "18", "-$5": "-5", "US$5": "5", "12 €": "12", "18%": "18", "18 \\%": "18", "18.": "18", "025": "25"},
    **{
        "5 km": "5",
        "5km/h": "5",
        "60 miles per hour": "60",
        "5 m²": "5",
        "12 apples": "12",
        "90°": "90",
        "1,234.5": "1234.5",
        "1 000": "1000",
    },
    **{"-1/3": "-1/3", "2 1/2": "2.5", "3½": "3.5", "\\frac{1}{2}": "0.5", "1.5e3": "1500", "1.5 \\times 10^{3}": "1500", "$- 7$": "-7"},
    **{"3 * 6 = 18, as 6 + 6 + 6\n#### 18": "18", "#### $18 dollars": "18", "The answer is 18.": "18", "\\boxed{18}": "18", "x = 5": "5"},
}
UNCERTAIN = [
    *("7, 8", "10 or 12", "between 3 and 5", "3 to 2", "3:2", "x=3, y=4", "3 hours 20 minutes", "#### 7, 8", "The answer is 7 or 8."),
    *("5!", "10²", "√2", "2π", "2 pi", "5 ± 1", "10 - 7", "10x", "2^10", "1_000", "1'000", "0x1F", "1.234,56"),
    *("1.5 million", "12k", "5M", "5 dozen", "no. 5", "ten", "-", "18 and that is all", "9" * 1500),
]


@pytest.mark.parametrize("gold", ["18", "#### 18", "She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18.0"])
def test_gold_answers_of_a_number_benchmark_may_be_worked_solutions(gold: str) -> None:
    assert graded("number", "It is $18.00 a day", gold).correct
    assert graded("number", gold, gold).correct


def check(grader: Grader, answer: str, metadata: str = "{}") -> None:
    load = lambda number, seed: [problem(answer, OPTIONS if grader == "choice" else (), metadata)]  # noqa: E731
    check_golds(Benchmark("b", "s", grader, 0.0, 1, 1, str, load), load(None, 0))


@pytest.mark.parametrize("gold", CERTAIN)
def test_a_gold_number_may_have_its_unit_or_stand_at_the_end_of_a_solution(gold: str) -> None:
    check("number", gold)
    assert graded("number", gold, CERTAIN[gold]).correct


@pytest.mark.parametrize("gold", UNCERTAIN)
def test_a_gold_answer_that_is_no_single_number_is_refused(gold: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^benchmark b, row 0: its grader 'number' cannot read the gold answer {re.escape(repr(gold[:60]))}"
    ):
        check("number", gold)


LONG: dict[Grader, int] = {"exact": 1000, "f1": 1000, "math": 1000, "reasoning_gym": 1000, "chrf": 20_000, "code": 20_000}


@pytest.mark.parametrize("grader", LONG)
def test_a_gold_answer_longer_than_its_grader_takes_an_answer_is_refused(grader: Grader) -> None:
    most = LONG[grader]
    check(grader, "x" * most)
    said = rf"row 7: its grader '{grader}' takes at most {most:,} characters for an answer; the gold answer 'x+' goes on to {most + 1:,}"
    with pytest.raises(ConfigError, match=said):
        check(grader, "x" * (most + 1), '{"row": 7}')


@pytest.mark.parametrize("grader", ["exact", "f1", "chrf"])
@pytest.mark.parametrize(
    "gold", ["x", "The answer is 5.", "one\ntwo", "Translation: one\n\ntwo:", '"', ".", "the", "Answer:", "**x**", "$5", "A: b"]
)
def test_gold_texts_that_look_like_something_else_are_graded_right(grader: Grader, gold: str) -> None:
    check(grader, gold)


def test_a_document_of_several_lines_may_be_translated_in_as_many() -> None:
    gold = "The house is red.\n\nHe said:\nIt is ours, and it was theirs."
    asked = problem(gold, metadata=json.dumps({"correct_from": 0.9}))
    said = "The house is red.\nHe said:\n\nIt is ours and it was theirs."
    for text in (said, f"Here is the translation:\n{said}", f"Translation: {said}\nQuestion: another one\nAnother"):
        result = grade("chrf", text, asked, False)
        assert result.correct and result.extracted_answer == "The house is red. He said: It is ours and it was theirs.", text
    assert grade("chrf", "The house is red.", asked, False).partial < 0.5
    long = problem("\n".join(f"Line {i} of the text." for i in range(900)), metadata=asked.metadata)
    start = time.process_time()
    near = grade("chrf", long.answer.replace("9 of", "9 in"), long, False)
    assert near.status == "answered" and 0.7 < near.partial < 1
    assert grade("chrf", long.answer * 2, problem("The house.", metadata=asked.metadata), False).status == "answered"  # its first line
    assert grade("chrf", "x" * 1001, problem("The house.", metadata=asked.metadata), False).status == "no_answer"
    assert time.process_time() - start < 2


def test_digit_strings_beyond_any_answer_are_none_and_cost_nothing() -> None:
    start = time.process_time()
    for text in (
        "9" * 100_000,
        "The answer is " + "9" * 100_000,
        "0." + "1" * 5000,
        "1/" + "3" * 5000,
        "7" * 5000 + "/3",
        "1e999999",
        "9 999" * 20_000,
    ):
        result = graded("number", text, "9")
        assert not result.correct
        assert result.status == "answered" or result.answer_class is None
    assert graded("number", "9" * 5000, "9").status == "no_answer"
    assert graded("number", "1e999999", "9").answer_class == graded("number", "10e999998", "9").answer_class
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "text",
    [
        "(" * 50_000,
        "\\boxed{" * 20_000,
        "answer " * 30_000,
        "1 " * 50_000,
        "111 " * 30_000 + ":5",
        "$" * 50_000,
        "\\frac{" * 20_000,
        "#### 1\n" * 20_000,
        "answer is: " * 20_000,
        "answer is" + " " * 50_000 + ": 5",
        "answer is" + "*" * 50_000,
        "\n" * 50_000 + "B",
        "\n*" * 50_000,
        "correct option " * 20_000,
        "the answer would be\n" * 20_000,
        "I choose " + "*" * 50_000,
        "B is the " * 20_000,
        "So B " * 20_000,
        "A: " + " " * 50_000 + "B is",
        "answer: " * 20 + "= " * 10_000,
        "answer: " * 20 + "4*5 = " * 3000,
        "5! " * 20_000,
        "½" * 20_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    for grader in ("number", "exact"):
        graded(grader, text, "9")  # type: ignore[arg-type]
    graded("choice", text, "A", ("x", "y"))
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("gold", "text", "partial"),
    [
        ("1234", "1234", 1.0),
        ("1234", "1235", 0.75),
        ("1234", "234", 0.75),
        ("1234", "91234", 0.8),
        ("42", "-42", 2 / 3),
        ("1.5", "1.25", 1 / 3),  # 1.50 against 1.25: only the one agrees
        ("1/3", "2/3", 0.0),
        ("1234", "nothing", 0.0),
    ],
)
def test_partial_credit_of_numbers_counts_digits_from_the_right(gold: str, text: str, partial: float) -> None:
    assert graded("number", text, gold).partial == pytest.approx(partial)


@pytest.mark.parametrize(
    ("gold", "text", "error"),
    [
        ("1234", "1234", -16),
        ("100", "The answer is 101", -2),
        ("100", "99", -2),
        ("100", "-900", 1),
        ("0", "0", -16),
        ("0", "0.001", -3),
        ("5", "0", 0),
        ("-2", "2", math.log10(2)),
        ("1/3", "2/6", -16),
        ("1/3", "1/2", math.log10(0.5)),
        ("3", "3.00000000000000000001", -16),
        ("1", "1e1000", 1000),
        ("1", "1e-1000", 0),
        ("2", "1e999999", 999998.69897),
        ("100", "nothing", None),
    ],
)
def test_how_far_a_number_is_off_is_told_in_powers_of_ten(gold: str, text: str, error: float | None) -> None:
    start = time.process_time()
    found = graded("number", text, gold)
    assert found.log10_error == (None if error is None else pytest.approx(error))
    assert not found.correct or found.log10_error == -16
    assert time.process_time() - start < 0.5


def test_the_error_of_a_number_is_that_of_exact_arithmetic() -> None:
    values = [Fraction(sign * p, q) for sign in (1, -1) for p in (1, 2, 7, 10, 999, 10**18 + 1) for q in (1, 3, 8, 700)]
    for gold, found in itertools.product(values, values):
        ratio = abs(found - gold) / abs(gold)
        exact = max(-16.0, math.log10(ratio.numerator) - math.log10(ratio.denominator)) if ratio else -16.0
        assert graded("number", str(found), str(gold)).log10_error == pytest.approx(exact, abs=1e-9), (gold, found)


def test_other_graders_tell_no_error_of_a_number() -> None:
    assert graded("exact", "12", "13").log10_error is None and graded("choice", "B", "B", OPTIONS).log10_error is None


EXACT = [  # answer text, gold, correct
    ("badce", "badce", True),
    (" badce \n", "badce", True),
    ("badce.", "badce", True),
    ('"badce"', "badce", True),
    ("**badce**", "badce", True),
    ("The answer is badce.", "badce", True),
    ("The answer is: badce", "badce", True),
    ("The answer is : badce", "badce", True),
    ("So the answer is:\nbadce\nas asked", "badce", True),
    ("**The final answer is: badce**", "badce", True),
    ("The final answer is: **badce**.", "badce", True),
    ("The answer is = badce", "badce", True),
    ("The answer **is:** badce", "badce", True),
    ("Answer: badce\nbecause of the swaps", "badce", True),
    ("\\boxed{badce}", "badce", True),
    ("badce\nQuestion: another one", "badce", True),
    ("badce\nQuestion: another one\nAnswer: xyz", "badce", True),
    ("Sure!\nThe answer is badce", "badce", True),
    ("Answer:\nbadce\n", "badce", True),
    ("Answer:badce\nbecause", "badce", True),
    ("new  york", "new york", True),
    ("caf\u0065\u0301", "caf\u00e9", True),
    ("BADCE", "badce", False),  # case can be what is asked
    ("bad ce", "badce", False),
    ("badc", "badce", False),
    ("badcee", "badce", False),
    ("I think it might be badce", "badce", False),
    ("two\nlines", "two\nlines", True),
    ("etc.", "etc.", True),
    (".", ".", True),
]


@pytest.mark.parametrize(("text", "gold", "correct"), EXACT)
def test_exact(text: str, gold: str, correct: bool) -> None:
    result = graded("exact", text, gold)
    assert (result.status, result.correct) == ("answered", correct)
    assert (result.answer_class == graded("exact", gold, gold).answer_class) == correct
    assert (result.partial == 1.0) == correct


@pytest.mark.parametrize(("text", "status"), [("", "no_answer"), ("\n \n", "no_answer"), ("x" * 2000, "no_answer")])
def test_exact_without_an_answer_abstains(text: str, status: str) -> None:
    assert graded("exact", text, "badce") == Grade(False, 0.0, status, None, None)  # type: ignore[arg-type]


BABBLE = {"number": "9" * 5000, "exact": "x" * 2000, "math": "x" * 2000, "f1": "x" * 2000, "chrf": "x" * 30_000, "code": "x = 1\n" * 9000}


@pytest.mark.parametrize("grader", BABBLE)
def test_what_is_too_long_to_be_an_answer_was_given_and_can_be_chosen(grader: Grader) -> None:
    """The highest scores are those of three babbling samples: to choose by score is to choose one of them."""
    asked = problem("7", metadata=json.dumps({"correct_from": 0.9, "tests": ["assert True"]}))
    babble = grade(grader, BABBLE[grader], asked, False)
    assert babble == Grade(False, 0.0, "no_answer", None, None)
    assert grade(grader, f"\n{BABBLE[grader]}", asked, True).status == "truncated_answer"
    rows = [
        {
            "model": "m",
            "params": 10,
            "problem_id": f"p{i}",
            "sample_index": j,
            "answer_logprob": -5.0 if j == 3 else -0.1,
            "ended": "closed",
        }
        | {"verifier_score": 0.1 if j == 3 else 0.9, "answer_finish": "stop"}
        | {k: getattr(g, k) for k in ("correct", "status", "extracted_answer", "answer_class")}
        for i in range(5)
        for j, g in enumerate([babble] * 3 + [Grade(True, 1.0, "answered", "7", "7")])
    ]
    (cell,) = measure(complete(pd.DataFrame(rows)))
    value = {point: cell.estimates[:, i].mean() for i, point in enumerate(cell.points)}
    for score in ("answer_logprob", "verifier_score"):
        assert value[f"best@k by {score}", 4] == 0 and value[f"vote@k by {score}", 4] == 1  # who abstains has no vote
    assert value["pass@k", 4] == value["maj@k", 4] == 1


@pytest.mark.parametrize(
    ("text", "status"), [("badce", "truncated_answer"), ("badce\n", "answered"), ("The answer is badce. It", "answered")]
)
def test_exact_truncated(text: str, status: str) -> None:
    result = graded("exact", text, "badce", truncated=True)
    assert (result.status, result.correct) == (status, status == "answered")


def test_partial_credit_of_strings_is_edit_similarity() -> None:
    assert graded("exact", "badcx", "badce").partial == pytest.approx(0.8)
    assert graded("exact", "zzzzz", "badce").partial == 0.0


OPTIONS = ("a good time", "Paris", "seven", "The fish")
CHOICES = [
    ("B", "B"),
    ("b", "B"),
    ("(B)", "B"),
    ("B)", "B"),
    ("B.", "B"),
    ("B) Paris", "B"),
    ("B. Paris", "B"),
    ("B: Paris", "B"),
    ("**B**", "B"),
    ("**B) Paris**", "B"),
    ("The answer is B.", "B"),
    ("The answer is (B) Paris", "B"),
    ("The answer is **B**", "B"),
    ("Answer: b", "B"),
    ("The answer is A because it fits", "A"),
    ("The answer is option C", "C"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{B}}", "B"),
    ("#### B", None),  # that marker is for numbers
    ("I choose option D, clearly.", "D"),
    ("The answer is: B", "B"),
    ("Therefore, the answer is: **B**", "B"),
    ("**answer is: B**", "B"),
    ("The answer is:\nB", "B"),
    ("The correct answer is:\n\nB) Paris", "B"),
    ("The answer is: Paris", "B"),
    ("The answer is $B$.", "B"),
    ("The answer is \\(B\\).", "B"),
    ("$(B)$", "B"),
    ("(b)", "B"),
    ("The answer is (b).", "B"),
    ("B - Paris", "B"),
    ("The correct option is B", "B"),
    ("The correct choice is **B) Paris**.", "B"),
    ("The right option here is: (B)", "B"),
    ("The best choice is Paris.", "B"),
    ("**Correct option:** B", "B"),
    ("The answer must be B.", "B"),
    ("The answer would be B.", "B"),
    ("B is the correct answer.", "B"),
    ("**B** is the best choice", "B"),
    ("We look at each. A is correct because it fits.", "A"),
    ("Thus, (A) is the right answer.", "A"),
    ("I would choose B.", "B"),
    ("I'd go with A, since it fits", "A"),
    ("Thus, B.", "B"),
    ("It rains.\nSo B", "B"),
    ("A fish is the answer", None),
    ("Which is the best option of these:\nA) a good time\nB) Paris", None),
    ("The correct option is A fish", None),
    ("I choose A fish.", None),
    ("So A fish it is", None),
    ("A or B is the correct answer.", None),
    ("Either A or B is correct.", None),
    ("A is correct. B is correct.", None),
    ("Is B the correct answer?", None),
    ("I doubt that B is the correct answer.", None),
    ("If B is correct, it rains.", None),
    ("B is correct, or C.", None),
    ("B is not the correct answer.", None),
    ("I would not choose B.", None),
    ("I would choose B or C.", None),
    ("I choose option B or C", None),
    ("The correct choice is B or C.", None),
    ("The answer would be B if it rained, otherwise C.", None),
    ("B - C", None),
    ("Not (A), so (B)", "B"),
    ("Paris", "B"),
    ("paris.", "B"),
    ("The answer is Paris.", "B"),
    ("seven", "C"),
    ("B\nQuestion: next", "B"),
    ("A good question", None),
    ("a", "A"),
    ("A", "A"),
    ("The answer is a matter of taste", None),
    ("A man goes to Paris", None),
    ("I do not know", None),
    ("E", None),  # there are four options
    ("Because", None),
    ("Don't know", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), CHOICES)
def test_choice(text: str, expected: str | None) -> None:
    result = graded("choice", text, "B", OPTIONS)
    assert (result.extracted_answer, result.answer_class, result.correct) == (expected, expected, expected == "B")
    assert result.status == ("no_answer" if expected is None else "answered")
    assert result.partial == float(expected == "B")


@pytest.mark.parametrize("text", ["A) O", "A", "(A)", "O", "The answer is (A).", "A.", "Answer: A", "a"])
def test_a_letter_is_a_letter_also_where_an_option_is_one(text: str) -> None:
    for wrong in ("B", "AB", "The answer is (C)", "D"):
        assert not graded("choice", wrong, "A", ("O", "A", "B", "AB")).correct
    assert graded("choice", text, "A", ("O", "A", "B", "AB")).correct


@pytest.mark.parametrize(
    "text",
    [
        "Answer: B, C",
        "Answer: A and B",
        "Answer: B or C.",
        "Answer: (B), (C) or (D)",
        "Answer: B/C",
        "Answer: B & A",
        "The answer is: B) Paris or C) seven",
        "Answer: (B) Paris or (C) seven.",
    ],
)
def test_who_names_several_letters_has_not_answered(text: str) -> None:
    assert graded("choice", text, "B", OPTIONS).extracted_answer is None


@pytest.mark.parametrize(
    "text",
    [
        "Answer: B, since A is wrong",
        "Answer: B. C is wrong",
        "Answer: B, and that is all",
        "Answer: B and I am sure",
        "Answer: B) Paris, as C) seven is wrong",
        "Answer: B) Paris or so",
    ],
)
def test_what_is_said_after_a_letter_is_no_second_answer(text: str) -> None:
    assert graded("choice", text, "B", OPTIONS).correct


@pytest.mark.parametrize("gold", ["B", "Paris", "(B)"])
def test_the_gold_choice_may_be_letter_or_option(gold: str) -> None:
    assert graded("choice", "B", gold, OPTIONS).correct
    assert graded("choice", gold, gold, OPTIONS).correct


@pytest.mark.parametrize(
    ("text", "status"),
    [("B", "truncated_answer"), ("The answer is B", "truncated_answer"), ("B\nQ", "answered"), ("The answer is B. As", "answered")],
)
def test_choice_truncated(text: str, status: str) -> None:
    assert graded("choice", text, "B", OPTIONS, truncated=True).status == status


SAID = ("The answer is {}", "The answer is: {}", "So the answer is:\n{}", "The final answer is: **{}**.")


@pytest.mark.parametrize(
    "dataset", ["chain_sum", "knights_knaves", "basic_arithmetic", "family_relationships", "number_sorting", "letter_counting"]
)
def test_reasoning_gym_scores_its_gold_answers_as_correct(dataset: str) -> None:
    for entry in reasoning_gym.create_dataset(dataset, size=5, seed=1):
        metadata = json.dumps({"dataset": dataset, "entry": entry})
        p = problem(entry["answer"], metadata=metadata)
        for text in (entry["answer"], f" {entry['answer']}\n", *(f.format(entry["answer"]) for f in SAID)):
            result = grade("reasoning_gym", text, p, False)
            assert (result.correct, result.partial, result.status) == (True, 1.0, "answered"), text
            assert result.answer_class == entry["answer"].strip()
        wrong = grade("reasoning_gym", "purple monkey", p, False)
        assert not wrong.correct and wrong.partial < 1
        assert grade("reasoning_gym", "", p, False).status == "no_answer"
        assert grade("reasoning_gym", "", p, True).status == "truncated_answer"
        assert grade("reasoning_gym", "x" * 3000, p, False).status == "no_answer"


def test_scorers_that_run_the_answer_as_code_are_refused() -> None:
    for dataset in ("countdown", "string_insertion", "puzzle24"):
        p = problem("any", metadata=json.dumps({"dataset": dataset, "entry": {"answer": "any"}}))
        with pytest.raises(ValueError, match=f"'{dataset}' runs the model's answer as code"):
            grade("reasoning_gym", "__import__('os').getcwd()", p, False)


def test_no_other_scorer_of_reasoning_gym_evaluates_the_answer() -> None:
    for name, (dataset, _) in reasoning_gym.factory.DATASETS.items():
        source = inspect.getsource(dataset.score_answer)
        runs = re.search(r"\beval\((?!entry)|\bexec\(|parse_expr\(|sympify\(", source) is not None
        assert runs == (name in RUN_CODE), name


def test_an_answer_that_a_scorer_trips_over_is_wrong() -> None:
    entry = reasoning_gym.create_dataset("propositional_logic", size=1, seed=1)[0]
    p = problem("any", metadata=json.dumps({"dataset": "propositional_logic", "entry": entry}))
    for text in ("(" * 900, "\u00ac" * 900, "\x00", "None", "\\boxed{"):
        assert not grade("reasoning_gym", text, p, False).correct
    right = grade("reasoning_gym", entry["metadata"]["example_answer"], p, False)
    assert (right.correct, right.answer_class) == (True, "any")  # many answers are right: they vote together


def test_a_gold_answer_that_cannot_be_read_is_an_error_not_a_wrong_answer() -> None:
    with pytest.raises(ValueError, match="number grader finds no answer in the gold answer 'none'"):
        graded("number", "5", "none")


def test_what_abstains_has_neither_class_nor_credit() -> None:
    for grader, gold in (("number", "5"), ("exact", "abc"), ("choice", "B")):
        for truncated in (False, True):
            result = graded(grader, "", gold, OPTIONS if grader == "choice" else (), truncated)  # type: ignore[arg-type]
            assert result == Grade(False, 0.0, "truncated_answer" if truncated else "no_answer", None, None)


def test_versions_name_the_grader_and_the_package_whose_scorer_it_is() -> None:
    assert grader_version("number").startswith("number-")
    assert grader_version("reasoning_gym") == f"reasoning_gym-2+{importlib.metadata.version('reasoning-gym')}"


def cobbe() -> list[dict[str, object]]:
    if not COBBE.is_file():
        pytest.skip(f"{COBBE.name} is kept outside this repository")
    return [json.loads(line) for line in COBBE.read_text().splitlines()]


def test_every_gold_answer_of_gsm8k_grades_correct() -> None:
    for row in cobbe():
        gold = str(row["ground_truth"])
        final = gold.rpartition("A:")[2].strip()
        for text in (gold, final, f"#### {final}", f"The answer is {final}."):
            for stored in (gold, final, gold.replace("\nA:", "\n####")):
                check("number", stored)
                assert graded("number", text, stored).correct, (text, stored)


@pytest.mark.parametrize(
    ("model", "accuracy"), [("6b_finetuning", 21.68), ("6b_verification", 39.04), ("175b_finetuning", 34.72), ("175b_verification", 56.25)]
)
def test_published_accuracies_on_gsm8k_come_out(model: str, accuracy: float) -> None:
    rows = cobbe()
    marks = [graded("number", str(row[model]["solution"]), str(row["ground_truth"])).correct for row in rows]  # type: ignore[index]
    assert marks == [row[model]["is_correct"] for row in rows]  # type: ignore[index]
    assert 100 * sum(marks) / len(marks) == pytest.approx(accuracy, abs=0.005)


def test_a_hundred_thousand_answers_are_graded_in_seconds() -> None:
    number_in.cache_clear()
    start = time.process_time()
    for i in range(10_000):
        graded("number", f"She has {i} apples and buys 3 more each day.\nThat makes {i} + 3 = {i + 3}.\nThe answer is {i + 3}.", "#### 18")
        graded("exact", f"ba{i}dce", "badce")
        graded("choice", f"Thinking of {i}: the answer is (B)", "B", OPTIONS)
    assert time.process_time() - start < 6  # a tenth of a minute for a tenth of the answers, of each grader
