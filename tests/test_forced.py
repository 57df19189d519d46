"""What gold answers and choices get: hand-computed scores, the table `forced`, and scoring of answers that were drawn before."""

import asyncio
import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from fake_vllm import CHARACTERS
from fakes import Toy, eventually, files, generator, processes, rows, run_fake, start_child, study
from thinkscale.endpoint import ResponseInvalid
from thinkscale.forced import brier, probabilities, teacher_forced
from thinkscale.generate import AnswerKey
from thinkscale.graded import read_graded
from thinkscale.outlook import plan
from thinkscale.plan import owed_shards
from thinkscale.problems import Problem
from thinkscale.report import analyze, check_unmixed
from thinkscale.status import status_view
from thinkscale.store import StoreError
from thinkscale.thinking import Cut

MODEL, CHOICES = "fake-100k", "whereabouts"
TASKS = {"benchmarks": {"mapping": {"problems": 6}, CHOICES: {"problems": 6}}, "thinking_budgets": [0, 6, 16]}
ANSWERS = 2 * 6 * 4 * 3


def test_brier_scores_by_hand():
    assert brier([0.5, 0.25, 0.25, 0.0], 0) == pytest.approx(0.25 + 0.0625 + 0.0625)
    assert brier([0.5, 0.25, 0.25, 0.0], 3) == pytest.approx(0.25 + 0.0625 + 0.0625 + 1)
    assert brier([1.0, 0.0], 0) == 0 and brier([1.0, 0.0], 1) == 2
    for k in (2, 3, 4, 5):
        assert 1 - brier([1 / k] * k, 0) == pytest.approx(1 / k), "even odds: what guessing gets in accuracy"


def test_probabilities_are_those_of_the_letters_among_themselves():
    assert probabilities([math.log(0.1), math.log(0.3)]) == pytest.approx((0.25, 0.75))
    assert probabilities([-1000.0, -1000.0 + math.log(3)]) == pytest.approx((0.25, 0.75)), "however small they are"
    assert sum(probabilities([-3.0, -1.0, -7.5, -0.2, -9.0])) == pytest.approx(1)


@pytest.mark.parametrize(("answer", "place"), [("A", 0), ("C", 2), ("green", 1), (" B", 1)])
def test_the_gold_answer_is_a_letter_or_the_text_of_a_choice(answer, place):
    problem = Problem("p", "p", "which?", answer, 1.0, ("red", "green", "blue"))
    assert problem.right_choice == place and problem.letters == ("A", "B", "C")


@pytest.mark.parametrize("answer", ["A", "B", "C", "D"])
def test_a_gold_letter_is_a_letter_also_where_an_option_is_one(answer):
    assert Problem("p", "p", "which?", answer, 1.0, ("C", "A", "D", "B")).right_choice == "ABCD".index(answer)


def encoded(text):
    return [CHARACTERS.index(c.lower()) + 6 for c in text]


def logprob(text, before):
    """As the fake engine makes it up."""
    return sum(-0.01 * (1 + (t + before + i) % 7) for i, t in enumerate(encoded(text)))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Scored while it was drawn."""
    opened = study(tmp_path_factory.mktemp("scored"), gold_logprob=True, **TASKS)
    run_fake(opened)
    return opened


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """Drawn, then asked to be scored: (folder, study, files before, rows of the plan before scoring, requests for that)."""
    folder = tmp_path_factory.mktemp("later")
    first = study(folder, **TASKS)
    run_fake(first)
    before = files(first)
    opened = study(folder, gold_logprob=True, **TASKS)
    planned, shards = plan(opened), owed_shards(opened, MODEL)
    run_fake(opened)
    return opened, before, planned, shards


def test_gold_answers_and_choices_are_scored_in_the_place_of_every_answer(scored):
    problems = {p.problem_id: p for name in TASKS["benchmarks"] for p in scored.problems(name)}
    answers = {(a["cell_id"], a["problem_id"], a["sample_index"]): a for a in rows(scored, "answers")}
    found = rows(scored, "forced")
    assert len(found) == len(answers) == ANSWERS
    for f in found:
        a, problem = answers[f["cell_id"], f["problem_id"], f["sample_index"]], problems[f["problem_id"]]
        before = a["prompt_tokens"] + a["thinking_tokens"] + a["injected_tokens"]
        assert f["gold_tokens"] == len(problem.answer) and f["gold_logprob"] == pytest.approx(logprob(problem.answer, before))
        assert (f["trace_hash"], f["engine"], f["thinking_budget"]) == (a["trace_hash"], a["engine"], a["thinking_budget"])
        if not problem.choices:
            assert (f["choice_probs"], f["right_prob"], f["brier"]) == (None, None, None)
            continue
        weights = np.exp([logprob(letter, before) for letter in problem.letters])
        right = problem.letters.index(problem.answer)
        assert f["choice_probs"] == pytest.approx(list(weights / weights.sum()))
        assert f["right_prob"] == pytest.approx(weights[right] / weights.sum())
        assert f["brier"] == pytest.approx(((weights / weights.sum() - np.eye(len(weights))[right]) ** 2).sum())
    assert plan(scored)[0].to_score == 0 and not owed_shards(scored, MODEL)


def test_answers_drawn_before_are_scored_without_drawing_them_again(later, scored):
    opened, before, planned, shards = later
    assert [(r.planned, r.on_disk, r.to_score) for r in planned] == [(72, 72, 72)] * 2
    assert not any(s.draw or s.extend or s.answers for s in shards) and sum(len(s.forced) for s in shards) == ANSWERS
    after = files(opened)
    assert after == before, "parts that were there stay byte for byte"
    assert rows(opened, "forced") == rows(scored, "forced")
    assert not owed_shards(opened, MODEL) and [r.to_score for r in plan(opened)] == [0, 0]


def test_a_plan_says_what_scoring_costs(later, tmp_path):
    opened, _, planned, _ = later
    done = plan(opened)
    for owed, nothing in zip(planned, done, strict=True):
        assert owed.tokens == owed.to_score * opened.config.answer_tokens and owed.flops > 0
        assert nothing.tokens == nothing.flops == 0
    fresh = plan(study(tmp_path, gold_logprob=True, **TASKS))
    bare = plan(study(tmp_path, **TASKS))
    for with_scores, without, late in zip(fresh, bare, planned, strict=True):
        assert with_scores.tokens - without.tokens == late.tokens
        assert 0 < with_scores.flops - without.flops < late.flops, "later, the thinking is read once more"


def test_more_samples_owe_their_scores_and_no_others(later, tmp_path):
    opened = later[0]
    more = dataclasses.replace(opened, config=opened.config.model_copy(update={"num_samples": 5}))
    shards = owed_shards(more, MODEL)
    assert sum(len(s.answers) for s in shards) == sum(len(s.forced) for s in shards) == 2 * 6 * 3
    assert {key.sample_index for s in shards for key in s.forced} == {4}


def test_a_run_killed_before_its_scores_were_written_owes_them_alone(tmp_path, scored):
    opened = study(tmp_path, gold_logprob=True, **TASKS)
    start_child(opened, ("forced", 2)).communicate(timeout=120)
    assert eventually(lambda: not processes(opened), 30)
    before, shards = files(opened), owed_shards(opened, MODEL)
    assert any(s.forced and not (s.draw or s.answers) for s in shards)
    run_fake(opened)
    after = files(opened)
    assert {name: after[name] for name in before} == before and not owed_shards(opened, MODEL)
    assert rows(opened, "forced") == rows(scored, "forced")


def test_a_torn_trace_takes_its_scores_along_and_both_are_made_again(tmp_path):
    opened = study(tmp_path, gold_logprob=True)
    run_fake(opened)
    before = rows(opened, "forced")
    path = opened.store.parts("samples")[0]
    path.write_bytes(path.read_bytes()[:100])
    opened.store.read("samples")
    assert opened.store.set_aside_orphans() == 2 and len(rows(opened, "forced")) == 2 * len(before) // 3
    run_fake(opened)
    keys = [(r["cell_id"], r["problem_id"], r["sample_index"]) for r in before]
    assert [(r["cell_id"], r["problem_id"], r["sample_index"]) for r in rows(opened, "forced")] == keys
    read_graded(opened.store.root)


def test_what_does_not_fit_the_context_has_no_score_and_is_not_owed_for_ever(tmp_path):
    opened = study(tmp_path, gold_logprob=True, prompt="few-shot-bare", examples=[8], thinking_budgets=[0, 16])
    run_fake(opened)
    graded = read_graded(opened.store.root)
    long = graded[graded["status"] == "too_long"]
    assert len(long) and long["gold_logprob"].isna().all() and len(rows(opened, "forced")) == len(graded)
    assert not owed_shards(opened, MODEL)


def test_a_server_without_log_probabilities_of_stated_ids_is_an_error():
    async def go():
        problem = Problem("p", "p", "which?", "</think>", 1.0)
        return await teacher_forced(await generator(Toy()), {"p": [2, 20, 3]}, [problem], {AnswerKey("p", 0, 0): Cut((), "off")})

    with pytest.raises(ResponseInvalid, match="logprob_token_ids"):
        asyncio.run(go())


def test_scores_of_another_engine_are_not_mixed_in_silence(scored):
    graded = read_graded(scored.store.root)
    check_unmixed(graded, scored)
    other = graded.assign(forced_engine=["another"] * len(graded))
    with pytest.raises(StoreError, match=rf"several engines: another \({ANSWERS} answers\).*--mixed"):
        check_unmixed(other, scored)


def test_the_summary_has_the_right_choices_probability_with_its_interval(scored):
    analyze(scored)
    summary, graded = scored.store.root / "summary.parquet", read_graded(scored.store.root)
    table = pd.read_parquet(summary)
    found = table[table["metric"].isin(["right_prob", "1 - brier"])]
    assert set(found["benchmark"]) == {CHOICES} and set(found["k"]) == {1} and not found["frontier"].any()
    assert (found["chance"] == 0.25).all() and (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
    means = graded.groupby("cell_id", observed=True)[["right_prob", "brier"]].mean()
    for row in found[found["slice"] == "all"].to_dict("records"):
        mean = means.loc[row["cell_id"]]
        assert row["value"] == pytest.approx(mean["right_prob"] if row["metric"] == "right_prob" else 1 - mean["brier"])
    left = set(pd.read_parquet(scored.store.root / "membership.parquet")["metric"])
    assert "pass@k" in left and not left & {"right_prob", "1 - brier"}


def test_the_status_says_how_many_scores_are_owed(tmp_path):
    run_fake(study(tmp_path))
    said = [str(part) for part in status_view(study(tmp_path, gold_logprob=True)).renderables]
    assert "gold answers still to be scored: 144" in said
