"""Scores: every answer is read as it was said, once; what is owed, charged and joined."""

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fake_vllm import FakeModel, Tokenizer
from fakes import FAKE_VLLM, engines, files, model, reopen, rows, run_fake, score_fake, study
from thinkscale import cost, report, scores, scoring
from thinkscale.choices import ResponseInvalid, check_scores
from thinkscale.claims import Claims
from thinkscale.config import FLOWS, ConfigError
from thinkscale.endpoint import EngineFailure
from thinkscale.fanout import Ended, Unfinished, fan_out
from thinkscale.graded import Scorer, read_graded
from thinkscale.store import StoreError
from thinkscale.summarize import deployable, summarize

SUMS = {"benchmarks": {"sums": {"problems": 12}}, "thinking_budgets": [0, 6, 30]}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A finished study that then gets a scorer."""
    folder = tmp_path_factory.mktemp("scored")
    plain = study(folder, **SUMS)
    run_fake(plain)
    before = files(plain)
    opened = study(folder, **SUMS, scorer="fake-scorer")
    score_fake(opened)
    return opened, before


def test_a_finished_experiment_that_adds_a_scorer_computes_only_the_scores(scored):
    opened, before = scored
    assert run_fake(opened) == 0 and score_fake(opened) == 0, "nothing is owed"
    assert files(opened) == before
    assert len(engines(opened)) == 2, "one of the model, one of the scorer"
    assert scores.owed(opened) == [] and len(opened.store.parts("scores")) == len(opened.store.parts("answers"))


def test_every_answer_is_read_as_the_model_read_and_said_it(scored):
    """Prompt, thinking as cut at this budget, close, answer: put together here from what is on disk, id by id."""
    opened, _ = scored
    tokenizer = Tokenizer(FLOWS)
    fake, t = FakeModel("fake-scorer", tokenizer), tokenizer.ids
    questions = {row["problem_id"]: row["question"] for row in rows(opened, "problems")}
    traces = {(row["problem_id"], row["sample_index"]): row["thinking_token_ids"] for row in rows(opened, "samples")}
    said = {(row["cell_id"], row["problem_id"], row["sample_index"]): row for row in rows(opened, "scores")}
    answers = rows(opened, "answers")
    assert len(said) == len(answers) == 12 * 4 * 3
    for row in answers:
        thought = [] if row["ended"] == "off" else traces[row["problem_id"], row["sample_index"]][: row["thinking_tokens"]]
        ids = [*tokenizer.chat([{"role": "user", "content": questions[row["problem_id"]]}], True), t["<think>"], *thought, t["</think>"]]
        ids += tokenizer.encode(row["answer_text"])
        score = said[row["cell_id"], row["problem_id"], row["sample_index"]]
        assert score["verifier_score"] == pytest.approx(fake.score(ids)) and score["scorer_tokens"] == len(ids)
        assert score["scorer_flops"] == cost.scoring_flops(opened.catalogue.models["fake-scorer"].shape, len(ids))
    assert {row["ended"] for row in answers} >= {"off", "cut", "closed"}


def test_what_reads_the_same_is_sent_once_and_charged_to_each_row(scored):
    opened, _ = scored
    found = rows(opened, "scores")
    assert 0 < sum(row["request_scorer_tokens"] == 0 for row in found) < len(found)
    assert all(row["request_scorer_tokens"] in (0, row["scorer_tokens"]) for row in found)
    prompt_tokens = opened.store.read("engine").to_pandas().query("model == 'fake-scorer'")["prompt_tokens"].sum()
    assert prompt_tokens == sum(row["request_scorer_tokens"] for row in found)


def test_scores_are_joined_and_by_them_points_are_chosen_weighed_and_charged(scored):
    opened, _ = scored
    graded = read_graded(opened.store.root, scores.identity(opened))
    assert graded["verifier_score"].between(0, 1).all()
    assert "verifier_score" not in read_graded(opened.store.root, None)
    shapes = {name: opened.catalogue.models[name].shape for name in opened.config.models}
    table = summarize(graded, shapes, {"sums": 0.0}, 200)
    points = table[table["slice"] == "all"].set_index(["thinking_budget", "metric", "k"])
    for budget in opened.config.thinking_budgets:
        mine = graded[graded["thinking_budget"] == budget]
        best = mine.sort_values("verifier_score").groupby("problem_id", observed=True).tail(1)
        assert points.loc[(budget, "best@k by verifier_score", 4), "value"] == pytest.approx(best["correct"].mean())
        for k in (1, 2, 4):
            plain, chosen = (points.loc[(budget, metric, k)] for metric in ("maj@k", "best@k by verifier_score"))
            reading = mine.groupby("problem_id", observed=True)["scorer_flops"].mean().mean()
            assert chosen["cost_scorer_flops"] == pytest.approx(k * reading) and plain["cost_scorer_flops"] == 0
            assert chosen["cost_flops"] == pytest.approx(plain["cost_flops"] + k * reading)
    assert "vote@k by verifier_score" in set(deployable(table)["metric"])
    unknown = summarize(graded.drop(columns="scorer_flops"), shapes, {"sums": 0.0}, 200)
    assert not deployable(unknown)["metric"].str.endswith("verifier_score").any(), "a verifier that costs nothing would look cheap"
    assert unknown.loc[unknown["metric"] == "best@k by verifier_score", "cost_flops"].isna().all()


def test_an_analysis_claims_with_the_verifier_and_says_what_is_not_scored(tmp_path):
    claim = {"name": "the verifier chooses well", "benchmark": "sums", "worse": {"model": "fake-100k", "thinking_budget": 30}}
    claim["better"] = {"model": "fake-100k", "thinking_budget": 30, "metric": "best@k by verifier_score", "k": 4}
    opened = study(tmp_path, **SUMS, scorer="fake-scorer", claims=[claim])
    run_fake(opened)
    assert scores.unscored(opened) == 12 * 4 * 3
    (row,) = report.analyze(opened).claims.to_dict("records")
    assert row["verdict"] == "not shown" and math.isnan(row["better_value"])
    score_fake(opened)
    found = report.analyze(opened)
    (row,) = found.claims.to_dict("records")
    assert row["verdict"] == "holds" and row["cost_ratio"] > 1 and found.unscored == 0


def test_answers_that_come_later_are_owed_their_scores(tmp_path):
    run_fake(study(tmp_path, **SUMS, scorer="fake-scorer"))
    score_fake(reopen(tmp_path))
    more = study(tmp_path, **SUMS | {"thinking_budgets": [0, 6, 30, 40]}, scorer="fake-scorer")
    before = files(more, "scores")
    run_fake(more)
    assert scores.unscored(more) == 12 * 4
    score_fake(more)
    assert len(rows(more, "scores")) == len(rows(more, "answers")) and files(more, "scores").items() >= before.items()


def test_no_scorer_is_started_for_parts_that_were_scored_since_they_were_read_as_owed(tmp_path, monkeypatch):
    opened = study(tmp_path, **SUMS, scorer="fake-scorer")
    run_fake(opened)
    read, looks = scoring.owed, []

    def read_slowly(*what):
        found = read(*what)
        looks.append(len(found))
        if len(looks) == 1:  # another run scores them all before we look at the claims
            assert score_fake(reopen(tmp_path)) == 3
        return found

    monkeypatch.setattr(scoring, "owed", read_slowly)
    assert score_fake(opened) == 0
    assert looks == [3, 3, 0, 0] and len(engines(opened)) == 2, "one of the model, one of the other run's scorer"


def test_a_part_that_was_scored_since_the_run_began_is_not_scored_again(tmp_path, monkeypatch):
    opened = study(tmp_path, **SUMS, scorer="fake-scorer")
    run_fake(opened)
    start, begun = scoring.serving.start, []

    def start_late(*what, **how):
        begun.append(what)
        if len(begun) == 1:  # another run scores them all while our engine starts
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(score_fake, reopen(tmp_path)).result() == 3
        return start(*what, **how)

    monkeypatch.setattr(scoring.serving, "start", start_late)
    assert score_fake(opened) == 0
    assert len(rows(opened, "scores")) == len(rows(opened, "answers"))


def test_scores_of_answers_that_were_set_aside_go_with_them(tmp_path):
    opened = study(tmp_path, **SUMS, scorer="fake-scorer")
    run_fake(opened)
    score_fake(opened)
    torn = opened.store.parts("answers")[0]
    torn.write_bytes(torn.read_bytes()[:-9])
    opened.store.read("answers")
    assert len(opened.store.parts("scores")) == len(opened.store.parts("answers")) == 2
    run_fake(opened)
    assert len(scores.owed(opened)) == 1
    score_fake(opened)
    assert len(rows(opened, "scores")) == len(rows(opened, "answers"))


@pytest.mark.parametrize("kind", ["wrong_n", "wrong_usage"])
def test_a_scorer_that_contradicts_itself_leaves_nothing(tmp_path, kind):
    run_fake(study(tmp_path, **SUMS))
    command = [*FAKE_VLLM, "--fault", f'{{"kind": "{kind}", "phase": "scores", "after": 1}}']
    with pytest.raises(ResponseInvalid):
        score_fake(study(tmp_path, **SUMS, scorer="fake-scorer", engine={"command": command}))
    assert files(reopen(tmp_path), "scores") == {}


def test_a_scorer_that_dies_is_started_again_and_finishes(tmp_path):
    run_fake(study(tmp_path, **SUMS))
    fault = f'{{"kind": "crash", "phase": "scores", "after": 2, "once": "{tmp_path}/been"}}'
    opened = study(tmp_path, **SUMS, scorer="fake-scorer", engine={"command": [*FAKE_VLLM, "--fault", fault]})
    assert score_fake(opened) == len(opened.store.parts("answers"))
    assert len(rows(opened, "scores")) == len(rows(opened, "answers")) and len(engines(opened)) == 3


def test_a_scorer_that_dies_while_another_part_is_being_claimed_does_not_wait_for_itself(tmp_path, monkeypatch):
    died, read = threading.Event(), scores.score_part

    class SlowToTake(Claims):
        def take(self, slice_id, label):
            if self._held and not died.is_set():
                assert died.wait(30)
                time.sleep(0.5)  # its shard is cancelled meanwhile
            return super().take(slice_id, label)

    async def score_part(*what):
        try:
            return await read(*what)
        except EngineFailure:
            died.set()
            raise

    run_fake(study(tmp_path, **SUMS))
    monkeypatch.setattr(scoring, "Claims", SlowToTake)
    monkeypatch.setattr(scoring, "score_part", score_part)
    fault = f'{{"kind": "crash", "phase": "scores", "after": 1, "once": "{tmp_path}/been"}}'
    opened = study(tmp_path, **SUMS, scorer="fake-scorer", engine={"command": [*FAKE_VLLM, "--fault", fault]})
    assert asyncio.run(asyncio.wait_for(scoring.score(opened), 60)) == len(opened.store.parts("answers"))
    assert died.is_set() and len(rows(opened, "scores")) == len(rows(opened, "answers")) and len(engines(opened)) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scorer": "fake-scorr"}, "scorer: unknown model with runner 'pooling' 'fake-scorr'.*Did you mean 'fake-scorer'"),
        ({"scorer": "fake-21k"}, "scorer: unknown model with runner 'pooling' 'fake-21k'"),
        ({"models": ["fake-scorer"]}, "models: unknown model 'fake-scorer'"),
    ],
)
def test_a_scorer_reads_and_a_model_writes(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        study(tmp_path, **changes)


def test_a_claim_by_a_verifier_needs_one(tmp_path):
    side = {"model": "fake-100k", "thinking_budget": 0}
    claim = {"name": "c", "benchmark": "mapping", "better": {**side, "metric": "vote@k by verifier_score", "k": 4}, "worse": side}
    with pytest.raises(ConfigError, match=r"claims.c.better.metric: .* needs a scorer"):
        study(tmp_path, claims=[claim])


def test_a_scorer_with_another_tokenizer_is_an_error_that_says_so(tmp_path):
    """A folder with a vocabulary of its own: every "+" of a question is two tokens there."""
    run_fake(study(tmp_path, **SUMS))
    opened = study(tmp_path, **SUMS, scorer="fake-scorer")
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("tokenizer.json", "config.json"):
        (folder / name).write_text((FLOWS / "ladder" / "100k" / name).read_text())
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<|user|>>{{ m['content'] }}{% endfor %}<|assistant|>")
    opened.catalogue.models["fake-scorer"] = opened.catalogue.models["fake-scorer"].model_copy(update={"source": str(folder)})
    with pytest.raises(ConfigError, match=r"fake-scorer reads an answer of fake-100k as .* Take a scorer with the models' tokenizer"):
        score_fake(opened)


def test_two_scorers_of_one_folder_are_not_mixed(scored):
    opened, _ = scored
    part, *_ = opened.store.parts("answers")
    more = [{**row, "scorer": "another", "verifier_score": 0.5} for row in opened.store.read("scores").to_pylist()]
    opened.store.publish("scores", f"{part.stem}-another", more, trace_set_id="elsewhere")
    try:
        with pytest.raises(StoreError, match=r"scored by .*another.* and .*fake-scorer.*Name one"):
            read_graded(opened.store.root)
        assert read_graded(opened.store.root, Scorer("another", more[0]["scorer_revision"]))["verifier_score"].eq(0.5).all()
        assert read_graded(opened.store.root, scores.identity(opened))["verifier_score"].ne(0.5).all()
    finally:
        (opened.store.folder("scores") / f"{part.stem}-another.parquet").unlink()


def test_the_plan_says_what_scoring_costs_and_shrinks_as_it_is_done(tmp_path):
    opened = study(tmp_path, **SUMS, scorer="fake-scorer")
    prompt, shape = opened.known["sums"].mean_prompt_tokens, opened.catalogue.models["fake-scorer"].shape
    lengths = [prompt + budget + 6 for budget in (0, 6, 30)]
    flops = sum(48 * float(cost.scoring_flops(shape, n)) for n in lengths)
    expected = f"reads 144 answers, 0 are scored; owed: at most {48 * sum(lengths):,} tokens to read, {flops:.2g} FLOPs"
    assert expected in scores.outlook(opened)
    run_fake(opened)
    score_fake(opened)
    assert "reads 144 answers, 144 are scored; owed: at most 0 tokens" in scores.outlook(opened)
    assert scores.outlook(study(tmp_path, **SUMS)) == ""


def test_a_fan_out_runs_the_scorer_after_the_models_and_says_what_it_owes(tmp_path):
    opened = study(tmp_path, **SUMS, scorer="fake-scorer")
    launched = []

    async def launch(name, label):
        launched.append(label)
        if name != "fake-scorer":
            await asyncio.to_thread(run_fake, opened)
        return Ended("completed")

    with pytest.raises(Unfinished, match="owed: fake-scorer 144 scores"):
        asyncio.run(fan_out(opened, launch, "command", at_once=1, replicas=2, resubmits=0))
    assert launched[-2:] == ["fake-scorer 1 of 2", "fake-scorer 2 of 2"] and len(launched) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": []}, "asked for the scores of 2 texts, got 0"),
        ({"data": [{"index": 0, "probs": [0.2]}, {"index": 0, "probs": [0.2]}]}, "got 2 with indices"),
        ({"data": [{"index": 0, "probs": [1.5]}, {"index": 1, "probs": [0.2]}]}, "a score is 1.5: not a probability"),
        ({"data": [{"index": 0, "probs": []}, {"index": 1, "probs": [0.2]}]}, "lacks or garbles"),
        ({"usage": {"prompt_tokens": 4}}, "read 4 tokens, it was sent 5"),
    ],
)
def test_scores_that_do_not_add_up_are_refused(changes, said):
    answer = {"data": [{"index": 1, "probs": [0.3, 0.7]}, {"index": 0, "probs": [0.2]}], "usage": {"prompt_tokens": 5}}
    assert check_scores(answer, [[1, 2, 3], [4, 5]]) == [0.2, 0.7]
    with pytest.raises(ResponseInvalid, match=said):
        check_scores(answer | changes, [[1, 2, 3], [4, 5]])


def test_reading_costs_what_a_prompt_costs_without_the_output_matrix():
    shape = model().shape
    for tokens in (1, 7, 100):
        head = 2 * shape.hidden_size * (shape.vocab_size - 1)
        assert cost.scoring_flops(shape, tokens) == pytest.approx(cost.prefill_flops(shape, tokens) - head)
    assert np.asarray(cost.scoring_flops(shape, 0)) == 0
