import itertools
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from fakes import files, rows, run_fake, run_toy, study
from thinkscale import evaluate
from thinkscale.config import FLOWS, ConfigError
from thinkscale.generate import AnswerKey, SampleKey
from thinkscale.graded import read_graded
from thinkscale.outlook import plan, plan_table
from thinkscale.plan import open_study, owed_shards
from thinkscale.schema import TABLES
from thinkscale.store import Store

MODEL = "fake-100k"
SHIPPED = sorted((FLOWS / "experiments").glob("*.yaml"))
COST = ("request_completion_tokens", "trace_hash")  # depend on what was there when it was drawn


def owed(opened):
    """(traces to draw, traces to continue, answers) by benchmark, over all shards."""
    shards = owed_shards(opened, MODEL)
    return tuple({(s.benchmark.name, key) for s in shards for key in part(s)} for part in (draws, extends, answers))


def draws(shard):
    return shard.draw


def extends(shard):
    return shard.extend


def answers(shard):
    return shard.answers


def planned(opened):
    """Every answer of the YAML, by brute force."""
    config = opened.config
    return {
        (b, AnswerKey(p.problem_id, i, budget))
        for b in config.benchmarks
        for p, i, budget in itertools.product(opened.problems(b), range(config.num_samples), config.thinking_budgets)
    }


def answered(opened):
    return {(r["benchmark"], AnswerKey(r["problem_id"], r["sample_index"], r["thinking_budget"])) for r in rows(opened, "answers")}


def plan_says(opened):
    found = plan(opened)
    return sum(r.planned for r in found), sum(r.on_disk for r in found)


def test_a_new_study_owes_all_that_is_planned(tmp_path):
    opened = study(tmp_path)
    draw, extend, answer = owed(opened)
    assert answer == planned(opened) and len(answer) == 12 * 4 * 3
    assert draw == {(b, SampleKey(*key[:2])) for b, key in answer} and not extend
    assert [len(s.problems) for s in owed_shards(opened, MODEL)] == [4, 4, 4]
    assert plan_says(opened) == (144, 0)


def test_a_finished_study_owes_nothing_and_asks_nothing(tmp_path):
    opened = study(tmp_path)
    run_toy(opened)
    before = files(opened)
    assert owed_shards(opened, MODEL) == [] and plan_says(opened) == (144, 144)
    assert run_toy(opened).requests == [] and files(opened) == before


def test_budget_0_alone_needs_no_traces(tmp_path):
    opened = study(tmp_path, thinking_budgets=[0])
    draw, extend, answer = owed(opened)
    assert (len(draw), len(extend), len(answer)) == (0, 0, 48)
    run_toy(opened)
    assert not files(opened, "samples") and len(read_graded(opened.store.root)) == 48


CHANGES = {
    "more samples": ({"num_samples": 7}, 12 * 3, 0, 12 * 3 * 3),
    "a larger budget": ({"thinking_budgets": [0, 6, 16, 40]}, 0, None, 48),
    "a budget in between": ({"thinking_budgets": [0, 3, 6, 11, 16]}, 0, 0, 96),
    "other budgets, all smaller": ({"thinking_budgets": [5, 10]}, 0, 0, 96),
    "more problems": ({"benchmarks": {"mapping": {"problems": 18}}}, 24, 0, 72),
    "a new benchmark": ({"benchmarks": {"mapping": {"problems": 12}, "swaps": {"problems": 5}}}, 20, 0, 60),
    "skills of other graders": (
        {"benchmarks": {"mapping": {"problems": 12}, "passages": {"problems": 5}, "toy-translation": {"problems": 3}}},
        32,
        0,
        96,
    ),
    "programs to be run": ({"benchmarks": {"mapping": {"problems": 12}, "functions": {"problems": 2}}}, 8, 0, 24),
    "another slicing": ({"shard_problems": 5}, 0, 0, 0),
    "less of everything": ({"num_samples": 2, "thinking_budgets": [6], "benchmarks": {"mapping": {"problems": 5}}}, 0, 0, 0),
    "fewer samples of more problems": ({"num_samples": 2, "benchmarks": {"mapping": {"problems": 30}}}, 36, 0, 108),
    "more samples of fewer problems": ({"num_samples": 8, "benchmarks": {"mapping": {"problems": 6}}}, 24, 0, 72),
    "all at once": ({"num_samples": 5, "thinking_budgets": [0, 20], "benchmarks": {"mapping": {"problems": 13}}}, 17, None, 17 + 65),
    "another order of budgets": ({"thinking_budgets": [16, 0, 6]}, 0, 0, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_yaml_computes_only_what_is_owed_and_leaves_what_is_there(tmp_path, change):
    first = study(tmp_path)
    run_toy(first)
    before, unclosed = files(first), {(r["problem_id"], r["sample_index"]) for r in rows(first, "samples") if r["ended"] == "cut"}
    keys, changes, *expected = answered(first), *CHANGES[change]
    opened = study(tmp_path, **changes)
    draw, extend, answer = owed(opened)
    if expected[1] is None:
        assert {key for _, key in extend} == unclosed != set()
        expected[1] = len(unclosed)
    assert [len(draw), len(extend), len(answer)] == expected
    assert answer == planned(opened) - keys
    assert plan_says(opened) == (len(planned(opened)), len(planned(opened) - answer))

    client = run_toy(opened)
    after = files(opened)
    assert {name: after[name] for name in before} == before
    assert owed(opened) == (set(), set(), set()) and answered(opened) == planned(opened) | keys
    assert len(rows(opened, "samples")) == 48 + expected[0] + expected[1]
    spent = [sum(r["request_completion_tokens"] for r in rows(opened, t)) for t in ("samples", "answers")]
    assert client.drawn <= sum(spent) and bool(client.requests) == bool(sum(expected))
    read_graded(opened.store.root)


@pytest.mark.parametrize("budgets", [[0, 6, 11, 16], [0, 6, 16, 40]], ids=["in between", "larger"])
def test_a_shard_of_a_finished_experiment_reads_its_own_traces_and_answers_and_no_others(tmp_path, monkeypatch, budgets):
    run_fake(study(tmp_path, benchmarks={"sums": {"problems": 40}}))
    opened = study(tmp_path, benchmarks={"sums": {"problems": 40}}, thinking_budgets=budgets)
    shards, read, reads = len(owed_shards(opened, MODEL)), Store._read_part, []

    def counted(self, table, path, schema, trace_sets):
        wanted = {"thinking_token_ids", "trace_budget"} if table == "samples" else {"answer_text", "engine"}
        if wanted < set(schema.names) < set(TABLES[table].names):  # not what looks through everything at the beginning
            reads.append(path.name)
        return read(self, table, path, schema, trace_sets)

    monkeypatch.setattr(Store, "_read_part", counted)
    assert run_fake(opened) == shards == 10
    # each its part of traces and its part of answers; and what its neighbour has published while it looked
    assert 2 * shards <= len(reads) <= 4 * shards
    assert owed(opened) == (set(), set(), set()) and answered(opened) == planned(opened)


@pytest.mark.parametrize(
    "changes", [{"prompt": "final-answer"}, {"answer_tokens": 7}, {"sampling": {"temperature": 0.5}}, {"problem_seed": 1}]
)
def test_what_changes_what_is_drawn_owes_everything_anew(tmp_path, changes):
    run_toy(study(tmp_path))
    opened = study(tmp_path, **changes)
    assert [len(part) for part in owed(opened)] == [48, 0, 144] and plan_says(opened) == (144, 0)
    run_toy(opened)
    assert len(read_graded(opened.store.root)) == 288 and plan_says(opened) == (144, 144)


def test_tokens_charged_are_tokens_drawn(tmp_path):
    """Over all starts, also where traces were continued and answers shared."""
    drawn = 0
    for changes in ({}, {"thinking_budgets": [0, 6, 16, 40]}, {"num_samples": 6, "thinking_budgets": [0, 40, 60]}):
        opened = study(tmp_path, **changes)
        drawn += run_toy(opened).drawn
        charged = [r["request_completion_tokens"] for t in ("samples", "answers") for r in rows(opened, t)]
        assert sum(charged) == drawn


def test_a_budget_raised_later_gives_what_it_would_have_given_at_once(tmp_path):
    """Cuts and continuations must not show: one draw under the largest cap, or three under growing ones."""
    (tmp_path / "steps").mkdir()
    (tmp_path / "once").mkdir()
    for budgets in ([6], [0, 6, 16], [0, 6, 16, 40]):
        steps = study(tmp_path / "steps", thinking_budgets=budgets)
        run_toy(steps, engine_seed=0)
    once = study(tmp_path / "once", thinking_budgets=[0, 6, 16, 40])
    run_toy(once, engine_seed=0)
    assert rows(steps, "answers", without=COST) == rows(once, "answers", without=COST)
    assert rows(steps, "grades") == rows(once, "grades")
    longest = {(r["problem_id"], r["sample_index"]): r["trace_hash"] for r in rows(steps, "samples")}
    assert longest == {(r["problem_id"], r["sample_index"]): r["trace_hash"] for r in rows(once, "samples")}


def test_samples_added_later_are_not_copies_of_the_first(tmp_path):
    run_toy(study(tmp_path))
    opened = study(tmp_path, num_samples=8)
    run_toy(opened)
    by_problem = {}
    for r in rows(opened, "samples"):
        by_problem.setdefault(r["problem_id"], {})[r["sample_index"]] = r["trace_hash"]
    copies = sum(hashes[i] == hashes[i + 4] for hashes in by_problem.values() for i in range(4))
    assert len(by_problem) == 12 and copies <= 4, "a few empty traces are equal by chance"


def test_an_engine_seed_depends_on_what_is_owed_and_on_nothing_that_changes_by_itself(tmp_path):
    opened = study(tmp_path)
    first = evaluate.engine_seed(opened, MODEL, owed_shards(opened, MODEL))
    assert first == evaluate.engine_seed(opened, MODEL, owed_shards(opened, MODEL)) and 0 <= first < 2**31
    assert first != evaluate.engine_seed(opened, "fake-21k", owed_shards(opened, "fake-21k"))
    assert len({evaluate.engine_seed(opened, MODEL, owed_shards(opened, MODEL), process) for process in ("", "node1 7", "node2 7")}) == 3
    seeds = {first}
    for changes in ({}, {"num_samples": 8}, {"num_samples": 8, "thinking_budgets": [0, 40]}):
        run_toy(opened)
        opened = study(tmp_path, **changes)
        seeds.add(evaluate.engine_seed(opened, MODEL, owed_shards(opened, MODEL)))
    assert len(seeds) == 4


def test_requests_of_a_second_start_have_seeds_of_their_own(tmp_path):
    first = run_toy(study(tmp_path), seeds=True)
    second = run_toy(study(tmp_path, num_samples=8), seeds=True)
    seeds = [{r["seed"] for r in client.requests} - {None} for client in (first, second)]
    assert len(seeds[0]) == len(seeds[1]) == 12 and not seeds[0] & seeds[1]


@pytest.mark.parametrize("lost", ["answers", "samples and answers"])
def test_parts_that_are_gone_are_owed_again_and_nothing_else(tmp_path, lost):
    opened = study(tmp_path)
    run_toy(opened)
    part = opened.store.parts("answers")[0]
    gone = {r["problem_id"] for r in opened.store.read_part("answers", part.stem).to_pylist()}
    before = rows(opened, "answers")
    part.unlink()
    if lost == "samples and answers":
        for p in opened.store.parts("samples"):
            if {r["problem_id"] for r in opened.store.read_part("samples", p.stem).to_pylist()} == gone:
                p.unlink()
    draw, extend, answer = owed(opened)
    assert len(draw) == (16 if lost != "answers" else 0) and not extend
    assert {key.problem_id for _, key in answer} == gone and len(answer) == 48
    run_toy(opened, engine_seed=0)
    assert len(rows(opened, "answers")) == len(before)
    read_graded(opened.store.root)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_experiment_loads_and_plans(path, tmp_path):
    if path.stem == "smollm2" and not (FLOWS / "prepared" / "smollm2-135m-q4").is_dir():
        with pytest.raises(ConfigError, match=r"python flows/models\.py prepare smollm2-135m-q4"):
            plan(open_study(path.stem, tmp_path))
        return
    opened = open_study(path.stem, tmp_path)
    found = plan(opened)
    config = opened.config
    assert config.name == path.stem and config.asks.endswith("?")
    assert len(found) == len(config.models) * len(config.benchmarks) * (1 + config.greedy)
    assert all(r.planned > 0 and r.on_disk == 0 and r.tokens > 0 and r.flops > 0 for r in found)
    assert all((r.gpu_hours > 0) == (config.gpu is not None) for r in found)
    assert len(opened.cells) == len(found) * len(config.thinking_budgets)
    assert not list(tmp_path.iterdir())


def test_these_experiments_are_shipped():
    assert {"nano", "smoke", "ladder", "qwen3"} <= {p.stem for p in SHIPPED}
    assert len(open_study("ladder").config.models) == 7 and len(open_study("nano").config.models) == 5
    assert len(open_study("smoke").config.models) == 2 and len(open_study("smoke").config.benchmarks) == 1
    qwen = open_study("qwen3").config
    assert [m.removeprefix("qwen3-") for m in qwen.models] == ["0.6b", "1.7b", "4b", "8b", "14b", "32b"]
    assert (min(qwen.thinking_budgets), max(qwen.thinking_budgets), qwen.num_samples) == (0, 16384, 64)


def sweep(*arguments):
    begin = time.monotonic()
    command = [sys.executable, "-X", "importtime", str(FLOWS / "sweep.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done, time.monotonic() - begin


def test_plan_takes_seconds_imports_no_engine_and_starts_nothing(tmp_path):
    begun = study(tmp_path)
    run_toy(begun)
    limit, seconds = 3 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), []  # three seconds of a machine that has time for us
    for _ in range(3):
        done, took = sweep("qwen3", "--plan", "--results", tmp_path)
        seconds.append(took)
        assert done.returncode == 0, done.stderr[-2000:]
        if took < limit:
            break
    assert min(seconds) < limit
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"thinkscale", "pyarrow"} <= imported
    assert not imported & {"prefect", "vllm", "torch", "transformers"}
    assert "qwen3-32b" in done.stdout and "GPU-hours" in done.stdout and "owed" in done.stdout
    assert not (tmp_path / "qwen3").exists()


def test_plan_shows_what_is_on_disk(tmp_path):
    text = (FLOWS / "experiments" / "smoke.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(text) | {"name": "mine"}))
    opened = open_study(str(path), tmp_path)
    run_toy(opened)
    bigger = tmp_path / "bigger.yaml"
    bigger.write_text(yaml.safe_dump(yaml.safe_load(text) | {"name": "mine", "num_samples": 5}))
    done, _ = sweep(bigger, "--plan", "--results", tmp_path)
    (total,) = [line for line in done.stdout.splitlines() if line.startswith("│ all")]
    assert "problems × 5 samples show differences from" in done.stdout
    assert [c.strip() for c in total.split("│")][3:7] == ["6", "600", "480", "120"]


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({}, [""]),
        ({"examples": [2]}, [""]),
        ({"examples": [0, 2], "greedy": True}, ["examples=0", "examples=0, greedy", "examples=2", "examples=2, greedy"]),
        ({"thinking": {"route": "native"}, "thinking_budgets": [6, 16]}, ["budget=6", "budget=16"]),
        (
            {"thinking": {"route": "effort", "levels": {"high": {"e": 2}, "low": {"e": 1}}}, "thinking_budgets": [16], "greedy": True},
            ["effort=high", "effort=high, greedy", "effort=low", "effort=low, greedy"],
        ),
    ],
)
def test_rows_of_a_plan_say_what_tells_them_apart(tmp_path, changes, labels):
    opened = study(tmp_path, prompt="few-shot-bare", **changes)
    found = plan(opened)
    assert [r.variant for r in found] == labels
    shown = next(iter(plan_table(opened, found).columns[1].cells))
    assert shown == (f"mapping, {labels[0]}" if labels[0] else "mapping")


@pytest.mark.parametrize(
    ("experiment", "said"),
    [("nanoo", "Did you mean 'nano'?"), ("qwen", "Did you mean 'qwen3'?"), ("no/such.yaml", "no file 'no/such.yaml'")],
)
def test_an_unknown_experiment_is_an_error_that_names_the_nearest(experiment, said, tmp_path):
    with pytest.raises(ConfigError) as error:
        open_study(experiment, Path(tmp_path))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("difficulty", "problems", "said"),
    [(2, 12, ""), (99, 12, "found 99.0; .* have 1.0, 2.0, 3.0, 4.0"), (4, 3, "found 4.0; .* have 1.0, 2.0, 3.0")],
)
def test_a_claim_on_a_difficulty_that_no_problem_has_is_an_error_before_anything_is_started(tmp_path, difficulty, problems, said):
    sides = {"better": {"model": MODEL, "thinking_budget": 16}, "worse": {"model": MODEL, "thinking_budget": 0}}
    claim = {"name": "c", "benchmark": "mapping", "difficulty": difficulty, **sides}
    opened = study(tmp_path, claims=[claim], benchmarks={"mapping": {"problems": problems}})
    for begin in (lambda: opened.check(fetch=False), lambda: evaluate.check_input(opened)):
        with pytest.raises(ConfigError, match=rf"fake: claims\.c\.difficulty: {said}\. Take one of these") if said else nullcontext():
            begin()
