"""The whole job with the real vLLM, as a user runs it: sweep, killed in the middle and started again, then analyze.

Three engine starts: the first model, the second, and the second again after the kill.
"""

import hashlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from thinkscale import supervise
from thinkscale.graded import read_graded
from thinkscale.launch import is_free
from thinkscale.outlook import plan
from thinkscale.plan import open_study, owed_shards
from thinkscale.schema import TABLES
from thinkscale.store import PARTS

pytestmark = pytest.mark.engine

FLOWS = Path(__file__).resolve().parents[1] / "flows"
SMALL, BIG = "ladder-21k", "ladder-100k"
FIRST, SECOND = BIG, SMALL  # the dearest goes first
START_LIMIT = 900.0  # seconds until a sweep has got so far; generous, since engines start slowly on busy machines


class Killed(NamedTuple):
    """What a killed sweep left."""

    study: object
    owed: int
    parts: dict[str, str]
    """Path of each finished part -> hash of its bytes."""
    engine: int
    """Process id that led the engine's session."""
    engine_processes: int
    port: int
    shared_memory: set[str]
    """Names that were there before."""
    seconds_to_clear: float


def files(study):
    paths = [p for table in PARTS for p in study.store.parts(table)]
    return {str(p.relative_to(study.store.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def start_flow(script, results, log):
    """A flow file run as from a terminal, with a Prefect home of its own so that no profile or server of the user's is met."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"PREFECT_HOME": str(results / "prefect")}
    command = [sys.executable, str(FLOWS / script), "smoke", "--results", str(results)]
    with log.open("wb") as file:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def run_flow(script, results, log):
    flow = start_flow(script, results, log)
    try:
        assert flow.wait(START_LIMIT) == 0, log.read_text()[-4000:]
    finally:
        clear(flow)
    return log.read_text()


def clear(flow):
    """Kill what is left of a flow that we started: itself, and Prefect's temporary server, which outlives a SIGKILL of its flow."""
    supervise.send([*supervise.members(flow.pid), *([flow.pid] if flow.poll() is None else [])], signal.SIGKILL)
    flow.wait()


def wait_for(what, flow, log, pause):
    end = time.monotonic() + START_LIMIT
    while not (found := what()):
        assert flow.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(pause)
    return found


def supervisors(flow):
    return [pid for pid in supervise.members(flow.pid) if b"supervise.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A sweep killed as soon as the second model's first traces are on disk, their answers not yet."""
    results = tmp_path_factory.mktemp("smoke")
    study, shared = open_study("smoke", results), set(supervise.shared_memory())
    root, log = study.store.root, results / "killed.log"
    (trace_set,) = study.trace_sets(SECOND)
    flow = start_flow("sweep.py", results, log)
    try:
        wait_for((root / "logs" / f"{SECOND}-1.log").exists, flow, log, 0.1)
        (engine,) = wait_for(lambda: supervisors(flow), flow, log, 0.1)
        wait_for(lambda: list(root.glob(f"samples/{trace_set.trace_set_id}-*.parquet")), flow, log, 0.002)
        running = supervise.members(engine)
        os.kill(flow.pid, signal.SIGKILL)
        flow.wait()
        start = time.monotonic()
        while supervise.members(engine) and time.monotonic() < start + 20:
            time.sleep(0.05)
        seconds = time.monotonic() - start
    finally:
        clear(flow)
    port = int(re.search(r"--port (\d+)", (root / "logs" / f"{SECOND}-1.log").read_text())[1])
    owed = sum(r.planned - r.on_disk for r in plan(study))
    return Killed(study, owed, files(study), engine, len(running), port, shared, seconds)


@pytest.fixture(scope="module")
def finished(killed):
    """The same command again."""
    results = killed.study.store.root.parent
    return run_flow("sweep.py", results, results / "again.log")


@pytest.fixture(scope="module")
def analyzed(finished, killed):
    results = killed.study.store.root.parent
    return run_flow("analyze.py", results, results / "analyze.log")


def test_nothing_of_the_engine_is_left_seconds_after_the_flow_was_killed(killed):
    print(f"{killed.engine_processes} processes of the engine, gone after {killed.seconds_to_clear:.1f} s")
    assert killed.engine_processes >= 3 and killed.seconds_to_clear < 15  # server, core, worker
    assert supervise.members(killed.engine) == [] and is_free(("127.0.0.1", killed.port))
    now = supervise.shared_memory()
    mapped = set().union(*(supervise.mapped(p.pid) for p in supervise.process_table()))
    assert {name for name in set(now) - killed.shared_memory if now[name] not in mapped} == set()


def test_the_kill_came_in_the_middle(killed):
    per_model = 3 * 20 * 4
    assert 0 < killed.owed <= per_model
    assert sum(name.startswith("answers/") for name in killed.parts) >= 2  # both shards of the first model


def test_a_second_run_finishes_what_is_owed_and_leaves_finished_parts_as_they_were(killed, finished):
    study = killed.study
    now = files(study)
    assert {name: now.get(name) for name in killed.parts} == killed.parts and len(now) > len(killed.parts)
    assert all(owed_shards(study, model) == [] for model in study.config.models)
    logs = sorted(p.name for p in (study.store.root / "logs").iterdir())
    assert logs == [f"{FIRST}-1.log", f"{SECOND}-1.log", f"{SECOND}-2.log"]  # the finished model was not started again


def test_the_tables_hold_the_planned_keys_once_and_add_up(killed, finished):
    study = killed.study
    graded = read_graded(study.store.root)  # has checked that keys are unique, and every answer's trace and grade there
    problems = [p.problem_id for p in study.problems("sums")]
    planned = set(itertools.product(study.cells, problems, range(4)))
    assert len(problems) == 20 and set(graded[["cell_id", "problem_id", "sample_index"]].itertuples(index=False, name=None)) == planned
    samples = study.store.read("samples").to_pandas()
    sets = {t.trace_set_id for m in study.config.models for t in study.trace_sets(m)}
    traces = samples[["trace_set_id", "problem_id", "sample_index"]].itertuples(index=False, name=None)
    assert sorted(traces) == sorted(itertools.product(sets, problems, range(4)))
    assert (samples["thinking_tokens"] == samples["thinking_token_ids"].str.len()).all()
    assert (graded["thinking_tokens"] <= graded["thinking_budget"]).all()
    assert (graded["completion_tokens"] == graded[["thinking_tokens", "injected_tokens", "answer_tokens"]].sum(axis=1)).all()
    assert (graded["answer_tokens"].between(1, 8)).all() and (graded["injected_tokens"].eq(1) | graded["thinking_budget"].eq(0)).all()
    assert ((graded["ended"] == "off") == (graded["thinking_budget"] == 0)).all()
    assert ((graded["ended"] != "cut") | (graded["thinking_tokens"] == graded["thinking_budget"])).all()
    assert (
        not graded[[*TABLES["answers"].key, "model", "params", "benchmark", "skill", "difficulty", "prompt", "route", "sampling"]]
        .isna()
        .any(axis=None)
    )
    assert len({*graded["engine"], *samples["engine"]}) == 1


def test_progress_is_told(finished):
    assert re.search(rf"{SECOND}: engine starting, \d+ s", finished) and f"{SECOND}: engine ready after" in finished
    assert re.search(rf"{SECOND}: [\d,]+ of at most [\d,]+ completions, [\d,]+ tokens/s", finished)
    assert f"{FIRST}: nothing owed" in finished


def test_the_summary_says_that_thinking_helps(killed, analyzed):
    root = killed.study.store.root
    summary = pd.read_parquet(root / "summary.parquet")
    accuracy = summary.query("model == @BIG and slice == 'all' and metric == 'pass@k' and k == 1").set_index("thinking_budget")
    assert sorted(accuracy.index) == [0, 12, 40]
    print(accuracy[["value", "low", "high"]])
    assert accuracy["low"][40] > accuracy["high"][0]
    assert (accuracy["num_problems"] == 20).all() and (accuracy["num_samples"] == 4).all()


def test_the_comparison_pairs_a_smaller_model_with_a_bigger_one_and_is_printed(killed, analyzed):
    root = killed.study.store.root
    comparison = pd.read_parquet(root / "comparison.parquet")
    assert set(comparison["small_model"]) == {SMALL} and set(comparison["big_model"]) == {BIG}
    assert (comparison["cost_ratio"] <= 1).all() and comparison["winner"].notna().all()
    assert "A smaller model that thinks more, or a bigger one?" in analyzed and "Not complete" not in analyzed
    for path in ("summary.parquet", "comparison.parquet", "manifest.json", "plots/accuracy-vs-flops.png"):
        assert (root / path).stat().st_size > 0
