"""Programs in answers: which part of a text is the program."""

import json

import pytest

from thinkscale.grading import grade
from thinkscale.problems import Problem
from thinkscale.programs import checks, program_in, same_program

PROMPT = 'import math\n\n\ndef up(x):\n    """Round up."""\n'
GOLD = f"{PROMPT}    return math.ceil(x)\n"
ASKED = {"prompt": PROMPT, "entry_point": "up", "tests": ["assert up(1.5) == 2", "assert up(3) == 3"]}
RIGHT = {
    "the body, as a base model goes on": "    return math.ceil(x)\n",
    "the body and what a base model rambles": "    return math.ceil(x)\n\n\ndef other():\n    pass\n\nprint('Question: what is')",
    "a body whose first line lost its indentation": "return math.ceil(x)\n",
    "a body with an empty line": "    y = x\n\n    return math.ceil(y)\n# done",
    "the whole function in a block": "Sure!\n```python\ndef up(x):\n    return math.ceil(x)\n```\nThis rounds up.",
    "a block without a language": "```\ndef up(x):\n    return math.ceil(x)\n```",
    "the last block that defines it": "```python\ndef up(x):\n    return 0\n```\nNo:\n```python\ndef up(x):\n    return math.ceil(x)\n```",
    "and then one that shows its use": "```python\ndef up(x):\n    return math.ceil(x)\n```\nUse:\n```python\nprint(up(1.5))\n```",
    "a block with its own imports": "```py\nfrom math import ceil\n\ndef up(x):\n    return ceil(x)\n```",
    "no block but the whole function": "def up(x):\n    return math.ceil(x)\n",
    "the body in a block": "```python\n    return math.ceil(x)\n```",
    "a block between tildes": "Sure!\n~~~python\ndef up(x):\n    return math.ceil(x)\n~~~\nThis rounds up.",
    "tildes without a language": "~~~\ndef up(x):\n    return math.ceil(x)\n~~~",
    "one kind of block inside another": '~~~python\ndef up(x):\n    """\n    ```\n    """\n    return math.ceil(x)\n~~~',
    "tildes in a program": "    return math.ceil(x) + ~~~~0\n",
    "an indented block": "1. Here:\n   ```python\n   def up(x): return math.ceil(x)\n   ```",
}


@pytest.mark.parametrize("case", RIGHT)
def test_the_program_is_found(case: str) -> None:
    problem = Problem("p", "p", PROMPT, GOLD, 1.0, metadata=json.dumps(ASKED))
    assert grade("code", RIGHT[case], problem, False).partial == 1.0, program_in(RIGHT[case], ASKED, False)


@pytest.mark.parametrize(
    ("text", "truncated", "status"),
    [
        ("", False, "no_answer"),
        (" \n", False, "no_answer"),
        ("```python\ndef up(x):", False, "no_answer"),  # a block that is never closed
        ("~~~python\ndef up(x):", False, "no_answer"),
        ("~~~python\ndef up(x): return math.ceil(x)\n```\n", False, "no_answer"),
        ("    return math.ceil(x)", True, "truncated_answer"),
        ("```python\ndef up(x): return math.ceil(x)\n```\nThis fun", True, "answered"),
        ("x" * 30_000, False, "no_answer"),
    ],
)
def test_a_program_counts_only_if_it_is_complete(text: str, truncated: bool, status: str) -> None:
    problem = Problem("p", "p", PROMPT, GOLD, 1.0, metadata=json.dumps(ASKED))
    assert grade("code", text, problem, truncated).status == status


def test_programs_that_differ_in_layout_vote_together() -> None:
    assert same_program("def f(x):\n  return x+1 # one\n") == same_program("def f(x):\n\n    return x + 1")
    assert same_program("def f(x): return x") != same_program("def f(x): return y")
    for ugly in ("def f(", "(" * 9000, "\x00", "-" * 20_000 + "1"):
        assert isinstance(same_program(ugly), str)


def test_each_assertion_of_a_check_is_a_test_with_what_stands_before_it() -> None:
    text = (
        "import math\nX = 2\ndef check(candidate):\n    assert candidate(1) == 1\n    y = X\n    for i in range(2):\n"
        "        assert candidate(y) == i\n"
    )
    assert checks(text, "f") == [
        "import math\nX = 2\ncandidate = f\nassert candidate(1) == 1",
        "import math\nX = 2\ncandidate = f\ny = X\nfor i in range(2):\n    assert candidate(y) == i",
    ]


def test_a_test_takes_from_the_program_what_the_gold_program_defines() -> None:
    gold = "from math import gcd\nimport math\nHALF = 0.5\nclass Pair: pass\ndef sum(a, b): return 1\nup = lambda x: math.ceil(x)\n"
    tests = ["assert sum(6, 4) == up(HALF) == math.ceil(0.5)"]
    problem = Problem("p", "p", "?", gold, 1.0, metadata=json.dumps({"tests": tests}))
    assert grade("code", gold, problem, False).correct
    for wrong in ("def sum(a, b): return 2\nup = lambda x: 1", "def sum(a, b): return 1\nup = lambda x: 2", "def sum(a, b): return 1"):
        assert not grade("code", f"HALF = 0\n{wrong}", problem, False).correct, wrong


def test_a_gold_answer_that_is_no_program_is_an_error() -> None:
    problem = Problem("p", "p", "?", "def f(", 1.0, metadata=json.dumps({"tests": ["assert f(1) == 2"]}))
    with pytest.raises(ValueError, match="the gold answer is no program in Python"):
        grade("code", "def f(x): return 2", problem, False)
