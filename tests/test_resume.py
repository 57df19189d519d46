"""Killed at any point and started again: nothing lost, nothing twice, the same tables. One kill goes through `sweep.py`, in test_flows."""

import json
import os
import signal

import httpx
import pytest

from fakes import FAKE_VLLM, engines, eventually, files, processes, rows, run_fake, start_child, study
from thinkscale.endpoint import EngineDied, EngineHung, EngineNotStarted
from thinkscale.graded import read_graded
from thinkscale.plan import owed_shards
from thinkscale.report import analyze

MODEL = "fake-100k"
SHARDS = 4
CLAIM = {"name": "thinking helps", "benchmark": "sums"}
CLAIM |= {"better": {"model": MODEL, "thinking_budget": 16}, "worse": {"model": MODEL, "thinking_budget": 0}}


def opened_in(folder, fault=None, **engine):
    """A study of four shards of four problems; requests one after the other, so that a fault meets them in a known order."""
    folder.mkdir(exist_ok=True)
    command = [*FAKE_VLLM, *(("--fault", json.dumps(fault)) if fault else ())]
    options = {"command": command, "concurrency": 4, "request_timeout": 60.0, **engine}
    return study(folder, benchmarks={"sums": {"problems": 16}}, claims=[CLAIM], engine=options)


def analyzed(opened):
    analyze(opened)
    return {name: (opened.store.root / f"{name}.parquet").read_bytes() for name in ("summary", "comparison", "claims")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same study, never killed: its rows, parts and derived tables."""
    opened = opened_in(tmp_path_factory.mktemp("undisturbed") / "study")
    assert run_fake(opened) == SHARDS
    assert eventually(lambda: not processes(opened))
    return {t: rows(opened, t) for t in ("problems", "samples", "answers", "grades")}, files(opened), analyzed(opened)


def check_equal(opened, undisturbed, *, derived=False):
    tables, parts, summaries = undisturbed
    for table, expected in tables.items():
        assert rows(opened, table) == expected, table
    assert files(opened) == parts
    if derived:  # they are made from the tables: once is enough for all kills
        assert analyzed(opened) == summaries
    read_graded(opened.store.root)  # checks keys, traces and grades
    assert owed_shards(opened, MODEL) == [] and eventually(lambda: not processes(opened), 20)


def requests_seen(opened):
    """Completions that the running engine was asked for."""
    for port in engines(opened):
        try:
            return httpx.get(f"http://127.0.0.1:{port}/fake/requests", trust_env=False).json()["completions"]
        except httpx.TransportError:
            continue
    return 0


def test_killed_while_traces_are_drawn(tmp_path, undisturbed):
    # one request to see that the engine is ready, then 4 of traces and 1 of answers for each shard, two shards at a time: after 12 one
    # shard at least is done and another draws
    opened = opened_in(tmp_path, {"kind": "hang", "after": 12})
    run = start_child(opened)
    assert eventually(lambda: requests_seen(opened) > 12), run.communicate(timeout=1)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert 1 <= len(opened.store.parts("answers")) <= len(opened.store.parts("samples")) < SHARDS
    finish(opened, undisturbed, derived=True)


@pytest.mark.parametrize(
    ("die_before", "samples", "answers", "grades"),
    [
        (("samples", 2), 1, None, None),  # traces drawn, not written: owed
        (("answers", 1), None, 0, 0),  # between traces and answers
        (("grades", 3), None, None, 2),  # answers without grades
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, tuple) else "",
)
def test_killed_between_two_parts(tmp_path, undisturbed, die_before, samples, answers, grades):
    opened = opened_in(tmp_path)
    run = start_child(opened, die_before)
    _, said = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL, said
    found = [len(opened.store.parts(t)) for t in ("samples", "answers", "grades")]
    assert all(b is None or a == b for a, b in zip(found, (samples, answers, grades), strict=True)), found
    assert found[0] >= found[1] >= found[2] and found[0] > found[2]
    finish(opened, undisturbed)


def finish(killed, undisturbed, **options):
    """Start again after a kill: what was finished stays as it is, and in the end everything is as if nothing had happened."""
    assert eventually(lambda: not processes(killed), 30), "an engine outlives the process that started it"
    opened = opened_in(killed.store.root.parent)
    before = {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for t in ("problems", "samples", "answers", "grades") for p in opened.store.parts(t)
    }
    owed = len(owed_shards(opened, MODEL))
    assert run_fake(opened) == owed
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before} == before
    check_equal(opened, undisturbed, **options)
    assert run_fake(opened) == 0


@pytest.mark.parametrize("kind", ["crash", "hang"])
def test_an_engine_that_fails_is_started_again_and_only_owed_work_is_redone(tmp_path, undisturbed, kind, caplog):
    caplog.set_level("INFO", "thinkscale")
    opened = opened_in(tmp_path, {"kind": kind, "after": 12, "once": str(tmp_path / "been")}, stall_timeout=1.5)
    redone = run_fake(opened)
    assert 1 <= redone < SHARDS and len(engines(opened)) == 2
    assert "Starting the engine again (1 of at most 2); finished shards stay." in caplog.text
    check_equal(opened, undisturbed)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ({"kind": "crash", "after": 3}, EngineDied, "the engine ended with status"),
        ({"kind": "hang", "after": 3}, EngineHung, "requests wait and no token came"),
        ({"kind": "die_at_start"}, EngineNotStarted, "no weights in this folder"),
    ],
)
def test_an_engine_that_fails_again_and_again_ends_the_run_with_a_clear_message(tmp_path, fault, error, said):
    opened = opened_in(tmp_path, fault, stall_timeout=1.0, max_restarts=1)
    with pytest.raises(error, match=said) as raised:
        run_fake(opened)
    assert str(opened.store.root / "logs") in str(raised.value) and MODEL in str(raised.value)
    assert len(engines(opened)) == 2, "the first start and one restart"
    assert eventually(lambda: not processes(opened), 20) and not files(opened, "samples", "answers", "grades")


def test_requests_that_fail_for_good_end_the_run_and_leave_nothing_half_done(tmp_path):
    opened = opened_in(tmp_path, {"kind": "wrong_usage", "after": 12})
    with pytest.raises(Exception, match="the server's usage says") as raised:
        run_fake(opened)
    assert type(raised.value).__name__ == "ResponseInvalid"
    assert len(opened.store.parts("answers")) == len(opened.store.parts("grades")) < SHARDS
    assert eventually(lambda: not processes(opened), 20)
