"""The ladder's verifier: its data, its measures against brute force, and what ships."""

import asyncio
import itertools
import json
import os

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from fakes import FAKE_VLLM
from thinkscale import evaluate, examination, scores, scoring, teaching, verifier
from thinkscale.estimators import pass_at_k
from thinkscale.graded import read_graded
from thinkscale.loading import load_catalogue
from thinkscale.plan import open_study
from thinkscale.problems import Draft, held_out
from thinkscale.teaching import FIRST
from thinkscale.verifier import Course, Reading

TINY = Course(start="10k", teachers=("21k",), problems=3, samples=2, steps=3, batch=4, micro_batch=2, compile=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def reading(question, right, model="m", budget=0):
    return Reading([], right, [], model, question, budget)


def pairs(score, right):
    """Share of pairs in which the right answer scores above the wrong one, ties half."""
    good, bad = ([s for s, r in zip(score, right, strict=True) if r == wanted] for wanted in (True, False))
    return np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad]) if good and bad else np.nan


@pytest.mark.parametrize("seed", range(20))
def test_the_area_is_the_share_of_pairs_in_order_also_where_rows_count_several_times(seed):
    rng = np.random.default_rng(seed)
    score, right = rng.integers(0, 4, 9) / 4, rng.random(9) < 0.5
    times = rng.integers(0, 4, 9)
    np.testing.assert_allclose(examination.area(score, right), pairs(score, right))
    np.testing.assert_allclose(examination.area(score, right, times), pairs(np.repeat(score, times), np.repeat(right, times)))


def test_within_and_gain_are_means_over_cells_then_problems():
    rng = np.random.default_rng(1)
    rows = [
        reading(q, bool(rng.random() < 0.5), m, b)
        for q, m, b in itertools.product("pqr", ("a", "b"), (0, 9))
        for _ in range(examination.SAMPLES)
    ]
    score = rng.integers(0, 3, len(rows)) / 3
    areas, gains = {}, {}
    for question, model, budget in itertools.product("pqr", ("a", "b"), (0, 9)):
        mine = [i for i, r in enumerate(rows) if (r.question, r.model, r.budget) == (question, model, budget)]
        right = np.array([rows[i].right for i in mine])
        areas.setdefault(question, []).append(pairs(score[mine], right))
        best = right[score[mine] == score[mine].max()].mean()
        gains.setdefault(question, []).append(best - right.mean())
    within, gain = examination.area_within(score, rows, 200), examination.gain(score, rows, 200)
    assert within.value == pytest.approx(np.mean([np.nanmean(a) for a in areas.values()])) and within.low <= within.value <= within.high
    assert gain.value == pytest.approx(np.mean([np.mean(g) for g in gains.values()])) and gain.low <= gain.value <= gain.high
    oracle = examination.gain([r.right for r in rows], rows, 10).value
    counts = [sum(r.right for r in rows[i : i + 4]) for i in range(0, len(rows), 4)]
    assert oracle == pytest.approx(np.mean(pass_at_k(4, counts, 4) - pass_at_k(4, counts, 1)))


def test_tokens_are_judged_by_the_worked_solution_and_the_last_by_the_grade():
    draft = Draft("12+45=", "210+54=750", "57")

    def judged(thinking, answer, right):
        before = [teaching.USER, *FIRST.encode("12+45="), teaching.ASSISTANT, teaching.OPEN, *FIRST.encode(thinking), teaching.CLOSE]
        found = verifier._judged(draft, before, FIRST.encode(answer), right)
        assert len(found) == len(before) + len(answer) and set(found[:9]) == {-1.0}
        return found[9:]

    assert judged("210+54=750", "57", True) == [1.0] * 10 + [-1.0, 1.0, 1.0]
    assert judged("210+44=750", "57", True) == [1.0] * 4 + [0.0] * 6 + [-1.0, 1.0, 1.0]
    assert judged("210", "58", False) == [1.0] * 3 + [-1.0, 1.0, 0.0]
    assert judged("210+54=7501", "", False) == [1.0] * 10 + [0.0, 0.0], "nothing was answered: the close carries the grade"


def test_no_problem_of_the_lessons_is_held_out_and_every_one_of_the_examination_is():
    lessons = verifier.lessons(TINY)
    assert len(lessons) == 3 * 2 * 2 and not any(held_out(r.question) for r in lessons)
    asked = examination.examination(1, ("21k",), (0, 40))
    levels = sum(len(g.levels) for g in FIRST.skills.values())
    assert len(asked) == levels * examination.SAMPLES * 2 and all(held_out(r.question) for r in asked)
    for r in [*lessons, *asked]:
        closed = r.ids.index(teaching.CLOSE)
        assert r.ids[0] == teaching.USER and closed - r.ids.index(teaching.OPEN) - 1 <= r.budget and teaching.END not in r.ids
        assert len(r.judged) == len(r.ids) and r.judged[-1] == float(r.right)


def test_training_makes_a_checkpoint_whose_scores_are_the_classifier_s(tmp_path):
    folder = verifier.train(TINY, tmp_path / "v", verifier.lessons(TINY))
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    rows = examination.examination(1, ("21k",), (10,))[:5]
    plain = [torch.sigmoid(model(torch.tensor([r.ids])).logits[0, 0]).item() for r in rows]
    assert verifier.scores(rows, folder) == pytest.approx(plain, abs=1e-5)
    assert json.loads((folder / "training.json").read_text())["answers"] == 12


def test_the_shipped_verifier_is_small_and_what_the_catalogue_says():
    entry = load_catalogue().models["ladder-verifier"]
    model = AutoModelForSequenceClassification.from_pretrained(verifier.FOLDER)
    assert model.num_parameters() == entry.params and model.dtype == torch.bfloat16 and model.config.num_labels == 1
    assert sum(p.stat().st_size for p in verifier.FOLDER.iterdir()) < 1e6


def test_the_card_is_what_was_measured_and_the_area_is_above_a_seventh_tenth(tmp_path):
    for name in ("training.json", "examination.json", "README.md"):
        (tmp_path / name).write_bytes((verifier.FOLDER / name).read_bytes())
    assert examination.write_card(tmp_path).read_text() == (verifier.FOLDER / "README.md").read_text()
    stated = json.loads((verifier.FOLDER / "examination.json").read_text())
    value, low, high = stated["all"]["area"]
    assert 0.7 <= low <= value <= high


def test_the_stated_area_comes_out_again_on_other_answers_to_held_out_problems():
    rows = examination.examination(2, ("21k", "46k", "100k"))
    found = examination.area_over_problems(verifier.scores(rows), rows, 200)
    assert found.value >= 0.7


@pytest.mark.engine
@pytest.mark.slow
def test_a_real_engine_scores_answers_as_transformers_does(tmp_path):
    """Answers of the fake engine, read by the shipped verifier in vLLM's pooling runner; what was read is put together from the tables."""
    config = {"name": "read", "asks": "Does vLLM read what was said?", "models": ["ladder-100k"], "benchmarks": {"sums": {"problems": 6}}}
    config |= {"thinking_budgets": [0, 12], "num_samples": 2, "answer_tokens": 8}

    def opened(**more):
        (tmp_path / "read.yaml").write_text(yaml.safe_dump(config | more))
        return open_study(str(tmp_path / "read.yaml"), tmp_path)

    asyncio.run(evaluate.evaluate(opened(engine={"command": list(FAKE_VLLM)}), "ladder-100k"))
    study = opened(scorer="ladder-verifier", engine={"start_timeout": 600.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THINKSCALE_DEVICE", os.environ.get("THINKSCALE_DEVICE", "cpu"))
        asyncio.run(scoring.score(study))
    graded = read_graded(study.store.root, scores.identity(study))
    questions = {row["problem_id"]: row["question"] for row in study.store.read("problems").to_pylist()}
    traces = {(r["problem_id"], r["sample_index"]): r["thinking_token_ids"] for r in study.store.read("samples").to_pylist()}
    rows = []
    for row in graded.to_dict("records"):
        thought = traces[row["problem_id"], row["sample_index"]][: row["thinking_tokens"]] if row["thinking_budget"] else []
        ids = [teaching.USER, *FIRST.encode(questions[row["problem_id"]]), teaching.ASSISTANT, teaching.OPEN, *thought, teaching.CLOSE]
        rows.append(Reading([*ids, *FIRST.encode(row["answer_text"])], bool(row["correct"]), [], row["model"], row["problem_id"], 0))
        assert row["scorer_tokens"] == len(rows[-1].ids)
    assert len(rows) == 6 * 2 * 2
    assert graded["verifier_score"].to_numpy() == pytest.approx(verifier.scores(rows), abs=1e-3)
