"""How far an experiment is, from disk alone."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from rich.console import Console
from upath import UPath

from fakes import FAKE_VLLM, run_fake, run_toy, study
from test_claims import claims
from thinkscale.claims import at_work
from thinkscale.config import FLOWS
from thinkscale.files import place
from thinkscale.graded import read_graded
from thinkscale.outlook import plan, plan_table
from thinkscale.plan import open_study, owed_shards
from thinkscale.printed import show
from thinkscale.report import analyze
from thinkscale.status import cells, speed, status_view, time_left, workers_lines
from thinkscale.store import Store


def printed(opened):
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(status_view(opened))
    return console.export_text()


def test_a_cell_is_planned_done_owed_and_right_as_the_graded_answers_say(tmp_path):
    opened = study(tmp_path)
    found = cells(opened)
    assert found[["planned", "done", "owed"]].to_numpy().tolist() == [[48, 0, 48]] * 3 and found["accuracy"].isna().all()
    run_toy(opened)
    graded = read_graded(opened.store.root).groupby("thinking_budget")["correct"].mean()
    found = cells(opened).set_index("thinking_budget")
    assert found["done"].tolist() == [48] * 3 and not found["owed"].any() and found["accuracy"].to_dict() == pytest.approx(graded.to_dict())
    more = study(tmp_path, num_samples=6, benchmarks={"mapping": {"problems": 20}})
    assert cells(more)[["planned", "done", "owed"]].to_numpy().tolist() == [[120, 48, 72]] * 3
    fewer = study(tmp_path, num_samples=2, benchmarks={"mapping": {"problems": 5}})
    assert cells(fewer)[["planned", "done", "owed"]].to_numpy().tolist() == [[10, 10, 0]] * 3
    assert cells(more)["owed"].sum() == sum(len(s.answers) for s in owed_shards(more, "fake-100k"))


def test_speed_is_that_of_all_engines_over_the_last_minutes():
    columns = ["time", "seconds", "generation_tokens"]
    engine = pd.DataFrame([(100.0, 2.0, 9999), (1000.0, 10.0, 300), (1005.0, 5.0, 500), (1010.0, 10.0, 400)], columns=columns)
    assert speed(engine, 1010.0) == pytest.approx((300 + 500 + 400) / 20.0)
    assert speed(engine, 1100.0) == speed(engine, 1010.0), "what no engine was there for does not count"
    apart = pd.DataFrame([(700.0, 10.0, 300), (1010.0, 10.0, 400)], columns=columns)
    assert speed(apart, 1010.0) == pytest.approx(700 / 20.0)
    assert speed(engine.head(1), 1010.0) != speed(engine.head(1), 1010.0), "nothing lately: not known"


def test_time_left_is_what_is_owed_at_the_cost_of_what_is_done(tmp_path):
    opened = study(tmp_path)
    shards = owed_shards(opened, "fake-100k")
    assert time_left(opened, cells(opened), 100.0) != time_left(opened, cells(opened), 100.0)
    run_toy(study(tmp_path, benchmarks={"mapping": {"problems": 4}}))
    found = cells(study(tmp_path))
    tokens = sum(sum(opened.store.read(t)["request_completion_tokens"].to_pylist()) for t in ("samples", "answers"))
    assert found["done"].sum() == 48 and found["owed"].sum() == 96 and len(shards) == 3
    assert time_left(opened, found, 10.0) == pytest.approx(tokens / 48 * 96 / 10.0)
    run_toy(study(tmp_path))
    assert time_left(opened, cells(opened), float("nan")) == 0.0


def test_who_is_at_work_is_shown_and_who_may_be_dead_is_said_to_be_silent(tmp_path):
    opened = study(tmp_path)
    assert "at work: nobody" in printed(opened)
    with claims(opened.store.root, timeout=60.0, host="node7", pid=12) as mine:
        mine.take("s", "sums 1-4")
        mine._beat(1)
        assert "at work: fake-100k on node7 (process 12): sums 1-4; logs in" in printed(opened)
        beat = mine._beat_file(mine.owner.token)
        os.utime(beat, (time.time() - 45, time.time() - 45))
        assert "fake-100k on node7 (process 12, silent for 45 s): sums 1-4" in printed(opened)
    assert "at work: nobody" in printed(opened)


def test_nobody_is_at_work_who_was_silent_for_ten_times_its_timeout_or_where_nothing_is_owed(tmp_path):
    opened = study(tmp_path)
    with claims(opened.store.root, timeout=60.0, host="node7") as mine:
        beat = mine._beat_file(mine.owner.token)
        os.utime(beat, (time.time() - 590, time.time() - 590))
        assert "silent for 590 s" in printed(opened)
        os.utime(beat, (time.time() - 610, time.time() - 610))
        assert "at work: nobody" in printed(opened)
        mine._beat(1)
        assert "node7" in printed(opened)
        run_toy(opened)
        assert "at work: nobody" in printed(opened)


def test_in_an_object_store_it_is_said_when_somebody_was_last_heard_of():
    store = Store(place(f"memory://{os.urandom(4).hex()}"))
    with claims(store.root, host="node7", pid=12):
        (line,) = workers_lines(at_work(store), float("nan"), float("nan"))
    assert re.match(r"at work: fake-100k on node7 \(process 12, last heard of at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\): no shard", line)


def test_what_people_wrote_is_shown_as_it_is_with_brackets_too(tmp_path, capsys):
    sides = {"better": {"model": "fake-100k", "thinking_budget": 16}, "worse": {"model": "fake-100k", "thinking_budget": 0}}
    claim = {"name": "it [/b] helps", "benchmark": "mapping", **sides}
    (folder := tmp_path / "[/results]").mkdir(parents=True)
    opened = study(folder, asks="Does [/INST] help?", claims=[claim])
    with claims(opened.store.root, host="[/node]") as mine:
        mine.take("s", "sums")
        mine._beat(1)
        said = printed(opened)
        assert "Does [/INST] help?" in said and "at work: fake-100k on [/node]" in said
    Console(width=150).print(plan_table(opened, plan(opened)))
    assert "Does [/INST] help?" in capsys.readouterr().out
    run_toy(opened)
    analysis = analyze(opened)
    (part,) = opened.store.root.glob("summary.parquet")
    show(replace(analysis, quarantined=(UPath(part),), engines=("[/a]", "b")))
    said = capsys.readouterr().out
    assert "it [/b] helps" in said and "come from [/a], b." in said
    assert str(analysis.files[0]) in said and str(part.parent) in said.replace("\n", "")


def test_the_status_of_a_run_has_its_speed(tmp_path):
    opened = study(tmp_path, engine={"command": [*FAKE_VLLM, "--fault", '{"kind": "slow", "seconds": 0.4}'], "concurrency": 4})
    opened = replace(
        opened, config=opened.config.model_copy(update={"engine": opened.config.engine.model_copy(update={"stall_timeout": 4.0})})
    )
    run_fake(opened)
    text = printed(opened)
    assert "speed: " in text and "time left at this speed: 0:00:00" in text
    assert (cells(opened)["tokens_per_second"] > 0).all()


def test_a_thousand_parts_are_told_of_in_seconds_without_prefect_or_vllm(tmp_path):
    path = tmp_path / "many.yaml"
    fields = {"name": "many", "asks": "?", "models": ["ladder-21k"], "benchmarks": {"sums": {"problems": 500}}}
    path.write_text(yaml.safe_dump({**fields, "thinking_budgets": [0], "num_samples": 4, "answer_tokens": 8, "shard_problems": 1}))
    opened = open_study(str(path), tmp_path)
    donor = study(tmp_path, benchmarks={"mapping": {"problems": 1}}, thinking_budgets=[0], num_samples=1)
    run_toy(donor)
    (trace_set,) = opened.trace_sets("ladder-21k")
    answer, grade = (donor.store.read(t).to_pylist()[0] for t in ("answers", "grades"))
    cell = trace_set.cell_id(0)
    for i, problem in enumerate(opened.problems("sums")):
        key = {"cell_id": cell, "problem_id": problem.problem_id, "trace_set_id": trace_set.trace_set_id}
        opened.store.publish("answers", f"p{i}", [{**answer, **key}], trace_set_id=trace_set.trace_set_id)
        opened.store.publish("grades", f"p{i}", [{**grade, **{k: v for k, v in key.items() if k in grade}}])
    code = f"import sys; sys.argv[1:] = [{str(path)!r}, '--results', {str(tmp_path)!r}, '--status']; sys.path.insert(0, {str(FLOWS)!r})\n"
    code += "import atexit, runpy; atexit.register(lambda: print('loaded', sorted({'prefect', 'vllm', 'torch'} & set(sys.modules))))\n"
    code += f"runpy.run_path({str(FLOWS / 'sweep.py')!r}, run_name='__main__')"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "150"})
    took = time.monotonic() - start
    assert "2,000" in done.stdout and "1,500" in done.stdout and "loaded []" in done.stdout, done.stdout
    assert took < 15, f"{took:.1f} s; under 3 on an idle machine"
