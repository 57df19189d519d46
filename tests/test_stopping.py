"""Drawing that really stops: what is owed, what is drawn on the fake engine, and that its estimate is unbiased."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

import made
from fakes import FAKE_VLLM, engines, reopen, rows, run_fake, study
from test_adaptive import posterior
from thinkscale.adaptive import adaptive, stopped, vote
from thinkscale.config import ConfigError, Stop
from thinkscale.evaluate import Run
from thinkscale.graded import incomplete, read_graded
from thinkscale.manifest import write_manifest
from thinkscale.outlook import plan, plan_table
from thinkscale.plan import owed_shards
from thinkscale.printed import show
from thinkscale.report import analyze, planned_rows
from thinkscale.status import cells
from thinkscale.stopping import is_settled, samples_wanted
from thinkscale.summarize import summarize
from thinkscale.tidy import TableError

MODEL = "fake-100k"
EIGHT = {"thinking_budgets": [16], "num_samples": 8, "benchmarks": {"sums": {"problems": 24}}, "shard_problems": 8}
EARLY = EIGHT | {"stop": {"confidence": 0.8, "every": 2}}


@pytest.mark.parametrize(
    "classes, settled_at",
    [
        (["g", "g"], 0.87),
        (["g", "a"], 0.5),
        ([None, "g"], 0.75),
        ([None, None], 0.5),
        (["a", "b", "c"], 0.5),
        (["g", "g", "a", None], 0.68),
    ],
    ids=str,
)
def test_a_vote_is_settled_up_to_the_leading_answers_posterior(classes, settled_at):
    counts = [*sorted((classes.count(c) for c in {*classes} - {None}), reverse=True), 0, 0]
    assert posterior(counts[0], counts[1]) == pytest.approx(settled_at, abs=0.01)
    assert is_settled(classes, settled_at - 0.01) and not is_settled(classes, settled_at + 0.01)


@pytest.mark.parametrize(
    "classes, wanted",
    [
        ({}, 2),
        ({0: "g"}, 2),
        ({1: "g", 2: "g", 3: "g"}, 2),
        ({0: "g", 1: "g"}, 2),
        ({0: "g", 1: "a"}, 4),
        ({0: "g", 1: "a", 2: "g", 3: "g", 4: "a", 5: "a"}, 4),
        ({0: "g", 1: "a", 2: "g", 3: "a"}, 5),
        (dict(enumerate("gaga")) | {4: None}, 5),
    ],
    ids=str,
)
def test_samples_are_wanted_round_by_round_and_never_more_than_the_most(classes, wanted):
    assert samples_wanted(classes, Stop(confidence=0.8, every=2), 5) == wanted


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"thinking_budgets": [0, 16]}, "stop: found 2 thinking_budgets"),
        ({"num_samples": 2}, "stop.every: found 2 of num_samples = 2"),
        ({"greedy": True}, "greedy: cannot be had with `stop`"),
        ({"gold_logprob": True}, "gold_logprob: cannot be had with `stop`"),
        ({"stop": {"confidence": 0.5}}, "stop.confidence: "),
        ({"stop": {"every": 0}}, "stop.every: "),
        ({"stop": {"after": 3}}, "unknown key 'stop.after'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_had_with_stopping_is_refused_before_anything_starts(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        study(tmp_path, **EARLY | changes)


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A finished study whose drawing stopped."""
    opened = study(tmp_path_factory.mktemp("early"), **EARLY)
    write_manifest(opened)
    assert run_fake(opened) == 3
    return opened


def drawn(opened):
    """problem -> how many samples, which must be the first so many."""
    found = {}
    for row in rows(opened, "answers"):
        found.setdefault(row["problem_id"], set()).add(row["sample_index"])
    assert all(indices == set(range(len(indices))) for indices in found.values())
    return {problem: len(indices) for problem, indices in found.items()}


def test_drawing_stops_where_the_vote_is_settled_on_one_engine_and_nothing_is_owed(early):
    numbers = drawn(early)
    votes = {problem: {} for problem in numbers}
    for row in rows(early, "grades"):
        votes[row["problem_id"]][row["sample_index"]] = row["answer_class"]
    assert len(numbers) == 24 and len(set(numbers.values())) > 1 and sum(numbers.values()) < 24 * 8
    for problem, number in numbers.items():
        first = [votes[problem][i] for i in range(number)]
        assert number == 8 or is_settled(first, 0.8)
        assert not any(is_settled(first[:n], 0.8) for n in range(2, number, 2)), "it stopped as soon as it might"
    assert len(engines(early)) == 1
    assert owed_shards(early, MODEL) == [] and run_fake(early) == 0 and drawn(early) == numbers
    assert [(r.planned, r.on_disk) for r in plan(early)] == [(sum(numbers.values()),) * 2]
    assert cells(early)[["planned", "done", "owed"]].to_numpy().tolist() == [[sum(numbers.values())] * 2 + [0]]


def test_without_stop_the_rest_is_drawn_and_the_folder_is_that_of_a_fixed_number(tmp_path):
    first = study(tmp_path, **EARLY)
    assert "less may be drawn" in str(plan_table(first, plan(first)).caption)
    run_fake(first)
    fixed = study(tmp_path, **EIGHT)
    (row,) = plan(fixed)
    assert "less may be drawn" not in str(plan_table(fixed, [row]).caption)
    assert row.planned == 24 * 8 and row.on_disk < row.planned
    two = study(tmp_path, **EIGHT | {"thinking_budgets": [0, 16]})  # grades of another budget are no votes
    run_fake(two)
    assert {r["thinking_budget"] for r in rows(two, "answers")} == {0, 16}
    assert set(drawn(fixed).values()) == {8} and len(drawn(fixed)) == 24
    again = study(tmp_path, **EARLY)  # and back: what is there is more than is wanted
    assert owed_shards(again, MODEL) == [] and run_fake(again) == 0


def test_a_lost_first_round_is_owed_in_the_plan_too(tmp_path):
    opened = study(tmp_path, **EARLY)
    run_fake(opened)
    numbers = drawn(opened)
    samples = {p.stem: set(opened.store.read_part("answers", p.stem, ["sample_index"])["sample_index"].to_pylist()) for p in parts(opened)}
    first = next(stem for stem, indices in samples.items() if indices == {0, 1})
    lost = set(opened.store.read_part("answers", first, ["problem_id"])["problem_id"].to_pylist())
    for table in ("answers", "grades"):
        (opened.store.folder(table) / f"{first}.parquet").unlink()
    (row,) = plan(opened)
    assert sum(len(shard.answers) for shard in owed_shards(opened, MODEL)) == 2 * len(lost)
    assert any(numbers[problem] > 2 for problem in lost), "later rounds are there, and settle nothing by themselves"
    assert row.planned == sum(8 if problem in lost else number for problem, number in numbers.items())


def parts(opened):
    return opened.store.parts("answers")


def test_rounds_that_are_cut_off_go_on_where_they_were(tmp_path, monkeypatch):
    opened = study(tmp_path, **EARLY)
    rounds, whole = [], Run._rounds

    async def once(self, shard, generator, store):
        rounds.append(shard.work)
        if len(rounds) == 1:
            await self.do_shard(shard, generator, store)  # the first round alone, and then the process is gone
            raise KeyboardInterrupt
        return await whole(self, shard, generator, store)

    monkeypatch.setattr(Run, "_rounds", once)
    with pytest.raises(KeyboardInterrupt):
        run_fake(opened)
    assert 2 in drawn(opened).values()
    run_fake(reopen(tmp_path))
    assert owed_shards(opened, MODEL) == [] and len(drawn(opened)) == 24


def test_an_engine_that_dies_in_a_later_round_is_started_again_and_goes_on(tmp_path):
    fault = {"kind": "crash", "phase": "answers", "after": 4, "once": str(tmp_path / "died")}  # three shards had a round of answers by then
    opened = study(tmp_path, **EARLY | {"engine": {"command": [*FAKE_VLLM, "--fault", json.dumps(fault)], "prompts_per_request": 64}})
    run_fake(opened)
    assert (tmp_path / "died").exists() and len(engines(opened)) == 2
    assert owed_shards(opened, MODEL) == [] and len(drawn(opened)) == 24


def test_the_analysis_says_what_was_saved_and_what_is_refused(early, capsys):
    (early.store.root / "comparison.parquet").write_bytes(b"of a time when all samples were drawn")
    (early.store.root / "plots").mkdir(exist_ok=True)
    (early.store.root / "plots" / "accuracy-vs-flops.png").write_bytes(b"likewise")
    analysis = analyze(early)
    assert sorted(p.name for p in analysis.files) == ["adaptive.parquet", "findings.md"] and analysis.owed == 0
    assert not (early.store.root / "comparison.parquet").exists() and not list((early.store.root / "plots").iterdir())
    (row,) = pd.read_parquet(early.store.root / "adaptive.parquet").to_dict("records")
    numbers = drawn(early)
    assert row["drawn"] and row["every"] == 2 and row["confidence"] == 0.8 and row["num_problems"] == 24
    assert row["mean_samples"] == pytest.approx(sum(numbers.values()) / 24) == 8 * (1 - row["saved_share"])
    assert row["low"] <= row["value"] <= row["high"] and np.isnan(row["fixed_value"]) and np.isnan(row["difference"])
    graded = read_graded(early.store.root)
    each = [vote(mine["answer_class"].tolist(), mine["correct"]) for _, mine in graded.groupby("problem_id", observed=True)]
    assert row["value"] == pytest.approx(np.mean(each))
    show(analysis)
    said = capsys.readouterr().out
    for text in (f"{row['value']:.1%}", f"{row['saved_share']:.0%} saved", "are refused for such data"):
        assert text in " ".join(said.split()) and text in (early.store.root / "findings.md").read_text()
    with pytest.raises(TableError, match="drawing was stopped because of the answers"):
        summarize(graded, {m.name: m.shape for m in early.catalogue.models.values()}, {"sums": 0.0}, 10)


def test_a_cell_that_is_not_finished_is_left_out_and_said(tmp_path):
    opened = study(tmp_path, **EARLY)
    run_fake(opened)
    hard = max(drawn(opened), key=drawn(opened).get)
    graded = read_graded(opened.store.root)
    less = graded[(graded["problem_id"] != hard) | (graded["sample_index"] < 2)]
    shapes = {m.name: m.shape for m in opened.catalogue.models.values()}
    rule, without = opened.config.stop, graded[graded["problem_id"] != hard]
    assert len(stopped(graded, shapes, rule, 8, {"sums": 24}, draws=20)) == 1
    assert stopped(less, shapes, rule, 8, {"sums": 24}, draws=20).empty, "a problem wants more samples"
    assert stopped(without, shapes, rule, 8, {"sums": 24}, draws=20).empty, "a problem is not there yet"


def test_stopped_samples_stay_refused_without_stop_until_the_rest_is_drawn(tmp_path):
    early = study(tmp_path, **EARLY)
    write_manifest(early)
    run_fake(early)
    fixed = study(tmp_path, **EIGHT)
    write_manifest(fixed)  # a sweep that died before it drew anything
    assert read_graded(fixed.store.root)["stopped"].all()
    with pytest.raises(TableError, match="drawing was stopped because of the answers"):
        analyze(fixed)
    first = read_graded(fixed.store.root).query("sample_index < 4")
    alike = first[first.groupby("problem_id", observed=True)["sample_index"].transform("size") == 4]
    assert len(alike) and incomplete(alike, 8).all() and not incomplete(alike, 4).any(), "equal numbers may be the answers' doing, too"
    two = study(tmp_path, **EIGHT | {"num_samples": 2})  # as many as every problem has: nobody's answers decided that
    assert not planned_rows(two, read_graded(two.store.root))["stopped"].any()
    fixed = study(tmp_path, **EIGHT)
    run_fake(fixed)
    write_manifest(fixed)
    graded = read_graded(fixed.store.root)
    assert not graded["stopped"].any()
    summarize(graded, {m.name: m.shape for m in fixed.catalogue.models.values()}, {"sums": 0.0}, 10)


LAW = ("g", "g", "a", None)  # each as likely


def every_sequence(most):
    """A table whose problems are all sequences of answers of the law: each once, so that a mean over problems is an expectation."""
    problems = list(itertools.product(LAW, repeat=most))
    world = made.World(models=("nano-1m",), benchmarks=("sums",), budgets=(64,), num_problems=len(problems), num_samples=most)
    graded = made.graded(world).sort_values(["problem_id", "sample_index"]).reset_index(drop=True)
    drawn = pd.Series([c for problem in problems for c in problem], dtype=object)
    return graded.assign(answer_class=drawn, correct=(drawn == "g"), correct_unforced=(drawn == "g")), problems, made.shapes(world)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("confidence", [0.7, 0.85])
def test_what_stopping_gives_is_the_expectation_under_the_law_that_draws(every, confidence):
    graded, problems, shapes = every_sequence(5)
    (row,) = stopped(graded, shapes, Stop(confidence=confidence, every=every), 5, {"sums": len(problems)}, draws=10).to_dict("records")
    value, used = [], []
    for drawn in problems:  # one sample after the other
        votes = dict.fromkeys("ga", 0)
        for number, answer in enumerate(drawn, 1):
            if answer is not None:
                votes[answer] += 1
            if number % every == 0 and posterior(max(votes.values()), min(votes.values())) >= confidence:
                break
        used.append(number)
        value.append((votes["g"] > votes["a"]) + 0.5 * (votes["g"] == votes["a"] > 0))
    assert row["value"] == pytest.approx(np.mean(value)) and row["mean_samples"] == pytest.approx(np.mean(used))
    if every == 1:
        (replayed,) = adaptive(graded, shapes, [confidence], draws=10).to_dict("records")
        assert replayed["value"] == pytest.approx(row["value"]) and replayed["mean_samples"] == pytest.approx(row["mean_samples"])
        assert replayed["cost_flops"] == pytest.approx(row["cost_flops"], rel=0.02) and not replayed["drawn"]


def test_what_was_drawn_beyond_the_stop_is_not_used():
    graded, problems, shapes = every_sequence(4)
    rule = Stop(confidence=0.85, every=2)
    settled_early = [p for p, mine in graded.groupby("problem_id", observed=True) if is_settled(list(mine["answer_class"])[:2], 0.85)]
    beyond = graded["problem_id"].isin(settled_early) & (graded["sample_index"] >= 2)
    (whole,), (cut,) = (
        stopped(rows, shapes, rule, 4, {"sums": len(problems)}, draws=10).to_dict("records") for rows in (graded, graded[~beyond])
    )
    assert beyond.any() and json.dumps(whole, default=str) == json.dumps(cut, default=str)
