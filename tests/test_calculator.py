"""The calculator: right on arithmetic, `error` and fast on everything else; a ladder can be taught to call it."""

import random
import re
import timeit
from fractions import Fraction

import pytest

from thinkscale.calculator import (
    CALCULATOR,
    ERROR,
    MAX_DIGITS,
    MAX_EXPRESSION,
    MAX_RESULT,
    Result,
    answer,
    calculate,
    expression_in,
    result_text,
    worked_call,
)
from thinkscale.problems import held_out_drafts, training_draft
from thinkscale.skills import SKILLS, Draft
from thinkscale.teaching import CLOSE as CLOSE_ID
from thinkscale.teaching import FIRST, LADDERS, example
from thinkscale.teaching import OPEN as OPEN_ID

SKILL = SKILLS["calculator"]
OPEN, CLOSE = CALCULATOR.open, CALCULATOR.close


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*34", "408"),
        (" 2 + 3 * ( 4 - 1 ) ", "11"),
        ("2-3-4", "-5"),
        ("16/4/2", "2"),
        ("-3*-(2+1)", "9"),
        ("--1", "1"),
        ("007+1", "8"),
        ("0.1+0.2", "0.3"),
        (".5*4", "2"),
        ("1/3", "0.3333333333"),
        ("-2/3", "-0.6666666667"),
        ("1/30000000000", "0"),
        ("-1/30000000000", "0"),
        ("12345678901234567890*98765432109876543210", "1219326311370217952237463801111263526900"),
        ("((((((((((1))))))))))", "1"),
    ],
)
def test_arithmetic_is_exact(expression, value):
    assert calculate(expression) == Result(value, True)


def test_random_expressions_are_what_python_makes_of_them():
    rng = random.Random(0)
    for _ in range(500):
        parts = [str(rng.randrange(1, 1000))]
        for _ in range(rng.randrange(1, 8)):
            parts += [rng.choice("+-*/"), rng.choice(("", "-", "(", "-(")), str(rng.randrange(1, 1000))]
        text = "".join(parts)
        text += ")" * text.count("(")
        exact = eval(re.sub(r"\d+", r"Fraction(\g<0>)", text), {"Fraction": Fraction})
        found = calculate(text)
        assert found.valid and abs(Fraction(found.text) - exact) <= Fraction(1, 2 * 10**10), text


HOSTILE = [
    *("", " ", "()", "(", ")", "1)", "(1", "+", "1+", "*1", "1 2", "1. 5", "1.", ".", "1.2.3", "1,234", "1(2)", "(1)(2)"),
    *("2**9", "9**9**9", "9//2", "7%2", "1e9", "0x10", "1_000", "1j", "True", "1<2", "1if 1else 2", "[1]", "1;1", "1\n+1", "1\t"),
    *("x", "abs(1)", "__import__('os')", "().__class__", "1 .__class__", "(1).real", "lambda:1", "print(1)", "{1}", "'1'", "f'{1}'"),
    *("1/0", "1/(2-2)", "0/0", "\u0661+1", "\uff11+\uff12", "\u00bd", "2\u00d73", "1\u00a0+1", "1\x00", "\ud800"),
    *("9" * (MAX_DIGITS + 1), "(" * 50 + "1" + ")" * 50, "1+" * 50 + "1", "-" * (MAX_EXPRESSION + 1) + "1", "9" * 10**6),
    *("(" * 10**6, "9" * 20 + ("*" + "9" * 20) * 2, "0." + "0" * 19 + "1", "<tool>1+1"),
]


@pytest.mark.parametrize("expression", HOSTILE, ids=lambda e: repr(e[:20]))
def test_what_is_no_arithmetic_within_the_bounds_is_an_error_at_once(expression):
    assert calculate(expression) == Result(ERROR, False)
    assert min(timeit.repeat(lambda: calculate(expression), number=1, repeat=3)) < 0.05


def test_whatever_is_made_of_its_letters_is_answered_in_the_letters_of_a_result():
    rng = random.Random(0)
    for _ in range(5000):
        text = "".join(rng.choices("0123456789+-*/(). ", k=rng.randrange(MAX_EXPRESSION + 1)))
        found = calculate(text)
        assert set(result_text(found)) <= set(CALCULATOR.letters) and len(found.text) <= MAX_RESULT + 13, text
    deep = "(" * 49 + "1" + ")" * 49
    assert calculate(deep).valid and calculate("-" * (MAX_EXPRESSION - 1) + "1").valid
    slow = "/".join(["1"] + ["9" * 17] * 5)
    assert calculate(slow) == Result("0", True)


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("so <tool>1+2</tool>", "1+2"),
        ("<tool>1</tool>=1\n<tool>2</tool>", "2"),
        ("<tool>1<tool>2</tool>", "2"),
        ("<tool></tool>", ""),
        ("1+2</tool>", None),
        ("<tool>1</tool>=1\n2</tool>", None),
        ("<tool>1+2", None),
        ("<tool>1+2</tool>\n", "1+2"),
        ("1+2", None),
        ("", None),
    ],
)
def test_a_call_is_the_last_that_ends_in_the_text(text, expression):
    assert expression_in(text) == expression
    assert answer(expression) == (calculate(expression) if expression is not None else Result(ERROR, False))


# --- teaching it to a ladder


def test_worked_calculations_lead_to_the_answer_call_by_call():
    for level in SKILL.levels:
        for draft in [training_draft(SKILL, random.Random(seed)) for seed in range(40)] + [
            d for d, _ in zip(held_out_drafts(SKILL, level, 0), range(20), strict=False)
        ]:
            assert eval(draft.question.removesuffix("=")) == int(draft.answer) > 0
            lines = draft.worked.split("\n")
            assert lines.pop() == "" and lines[-1].endswith(f"={draft.answer}")
            for line, (start, end) in zip(lines, draft.injected, strict=True):
                call = line[: line.index(CLOSE) + len(CLOSE)]
                assert worked_call(expression_in(call)) == (call, line.removeprefix(call) + "\n")
                assert draft.worked[start:end] == line.removeprefix(call) + "\n"


@pytest.mark.parametrize("taught", LADDERS.values(), ids=LADDERS)
@pytest.mark.parametrize("cut", [None, 0, 5, 20, 24, 60])
def test_training_learns_the_calls_and_not_what_is_put_in(taught, cut):
    """Whether the markup of a call is one token or many."""
    draft = SKILL.draw(random.Random(3), 3)
    e = example(taught, draft, cut)
    names = {i: token for token, i in taught.vocabulary.items()}
    start, end = e.ids.index(OPEN_ID) + 1, e.ids.index(CLOSE_ID)
    thinking = [names[i] for i in e.ids[start:end]]
    assert thinking == taught.tokens(draft.worked)[:cut] and len(e.ids) == len(e.learned) < taught.context
    learned = "".join(token for token, it_is in zip(thinking, e.learned[start:end], strict=True) if it_is)
    assert learned == re.sub(r"=-?[\d.]*\n?", "", "".join(thinking)) and (OPEN in learned or not cut or cut < 6)
    assert all(e.learned[end + 1 :]) and e.learned[end] == (cut is None)


def test_a_calculation_of_the_longest_kind_fits_a_ladder_s_context():
    longest = max((SKILL.draw(random.Random(s), max(SKILL.levels)) for s in range(2000)), key=lambda d: len(d.worked))
    for taught in LADDERS.values():
        assert len(example(taught, longest, None).ids) < taught.context - 60
        assert set(longest.question + longest.worked + longest.answer) <= set(taught.characters)


def test_drafts_of_other_skills_are_learned_whole():
    e = example(FIRST, Draft("12+45=", "210+54=750", "57"), None)
    assert all(e.learned[e.ids.index(OPEN_ID) + 1 :])
