"""What a tokenizer cannot write is not scored as if it could; what is wrong with a problem or prompt is said before an engine starts."""

import asyncio
import dataclasses

import pandas as pd
import pytest

from fakes import rows, run_fake, study
from thinkscale import evaluate, plan, serving
from thinkscale.config import ConfigError
from thinkscale.graded import read_graded
from thinkscale.grades import grade_all
from thinkscale.prompting import check_alphabet, written
from thinkscale.report import analyze
from thinkscale.store import StoreError

LETTERS = "abcdefghij \n"


class Small:
    """A tokenizer of ten letters: what it has none for is one and the same unknown token."""

    async def tokenize(self, text):
        return [1 + LETTERS.index(c) if c in LETTERS else 0 for c in text.lower()]

    async def detokenize(self, ids):
        return "".join(LETTERS[i - 1] if i else "" for i in ids)


def test_an_answer_in_letters_that_the_tokenizer_lacks_is_not_scored():
    assert asyncio.run(written(Small(), "bad", "m")) == (2, 1, 4) == asyncio.run(written(Small(), "BAD", "m"))
    with pytest.raises(ValueError, match=r"m: its tokenizer reads the gold answer 'Z' as '', which would be scored in its place"):
        asyncio.run(written(Small(), "Z", "m"))


def test_a_few_foreign_letters_are_said_and_many_refused(caplog):
    asyncio.run(check_alphabet(Small(), "m", "the text", ["a bad cafe\n", "A"]))
    assert not caplog.records
    asyncio.run(check_alphabet(Small(), "m", "the text", ["bad " * 30 + "x"]))
    assert "m: its tokenizer cannot write 'x', 0.8% of the text" in caplog.text
    with pytest.raises(ValueError, match=r"cannot write 'z', 'x', 50.0% of the text: what it reads and says of it means nothing"):
        asyncio.run(check_alphabet(Small(), "m", "the text", ["bad", "xzz"]))


def test_a_loss_on_a_text_that_the_model_cannot_read_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("äöü" * 20 + "some words")
    opened = study(tmp_path, loss={"text": str(tmp_path / "text.txt"), "context": 32})
    with pytest.raises(ValueError, match=r"fake-100k: its tokenizer cannot write 'ä', 'ö', 'ü', 8\d\.\d% of loss.text"):
        run_fake(opened)
    assert not opened.store.parts("loss")


def with_problems(opened, **changes):
    """The study on other problems than its benchmark would give."""
    mapping = opened.known["mapping"]
    changed = dataclasses.replace(mapping, load=lambda n, s: [dataclasses.replace(p, **changes) for p in mapping.load(n, s)])
    return dataclasses.replace(opened, known={**opened.known, "mapping": changed})


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{{ question }}{{ ''.__class__ }}", "prompts/question, benchmark mapping: prompt cannot be rendered"),
        ("{% if question %}hello{% endif %}", "prompts/question, benchmark mapping: prompt leaves out the question"),
    ],
)
def test_a_prompt_that_cannot_be_filled_in_is_said_before_an_engine_starts(tmp_path, monkeypatch, prompt, said):
    opened = study(tmp_path)
    monkeypatch.setattr(plan, "prompt_text", lambda name: prompt)
    monkeypatch.setattr(serving, "start", lambda *_, **__: pytest.fail("an engine was started"))
    for begin in (lambda: opened.check(fetch=False), lambda: evaluate.start_first(opened), lambda: run_fake(opened)):
        with pytest.raises(ConfigError, match=said):
            begin()


def test_a_gold_answer_that_cannot_be_read_is_said_before_an_engine_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "start", lambda *_, **__: pytest.fail("an engine was started"))
    opened = with_problems(study(tmp_path), answer="ten")
    opened = dataclasses.replace(opened, known={**opened.known, "mapping": dataclasses.replace(opened.known["mapping"], grader="number")})
    with pytest.raises(ConfigError, match=r"mapping, row 0: its grader 'number' cannot read the gold answer 'ten'"):
        run_fake(opened)


def test_a_changed_threshold_grades_stored_answers_anew_and_is_not_overlooked(tmp_path):
    def stating(threshold):
        known = dataclasses.replace(opened.known["sums"], grader="chrf", correct_from=threshold)
        return dataclasses.replace(opened, known={**opened.known, "sums": known})

    opened = study(tmp_path, benchmarks={"sums": {"problems": 12}})
    run_fake(opened)
    shares = {}
    for threshold in (0.05, 0.9):
        stated = stating(threshold)
        assert grade_all(stated.store, stated.known) == len(rows(opened, "answers"))
        graded = read_graded(opened.store.root)
        assert set(graded["grader_version"].astype(str).str.split(" from ").str[1]) == {f"{threshold:g}"}
        pd.testing.assert_series_equal(graded["correct"], graded["partial"] >= threshold, check_names=False)
        shares[threshold] = graded["correct"].mean()
        analyze(stated)
    assert shares[0.05] > shares[0.9]
    with pytest.raises(StoreError, match=r"graded by chrf.* from 0\.9, which is chrf.* from 0\.05 by now.*python flows/regrade\.py fake"):
        analyze(stating(0.05))
