"""SIGTERM: what can be finished in seconds is, then the process ends as the signal asks, with its engine."""

import json
import os
import signal
import time

from fakes import FAKE_VLLM, eventually, processes, rows, run_fake, start_child, study
from thinkscale.claims import Claims, at_work
from thinkscale.drain import DRAIN_SECONDS
from thinkscale.graded import read_graded
from thinkscale.plan import owed_shards, slice_ids

MODEL = "fake-100k"


def opened_in(folder, fault):
    folder.mkdir()
    command = [*FAKE_VLLM, "--fault", json.dumps(fault)]
    return study(folder, benchmarks={"sums": {"problems": 40}}, engine={"command": command, "concurrency": 4})


def terminate(opened, child):
    """SIGTERM, and how long it took to end."""
    start = time.monotonic()
    os.kill(child.pid, signal.SIGTERM)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == -signal.SIGTERM, said  # nobody handles it here: it ends the process in the end
    assert "SIGTERM: no new shard is begun" in said
    assert eventually(lambda: not processes(opened), 5)
    others = Claims(opened.store, MODEL, 60.0)
    assert at_work(opened.store) == [] and others.free(slice_ids(opened, MODEL)) == slice_ids(opened, MODEL), "others may go on at once"
    assert not [p for p in opened.store.root.rglob(".*") if p.is_file()]
    return time.monotonic() - start


def test_shards_under_way_are_finished_and_no_new_one_is_begun(tmp_path):
    opened = opened_in(tmp_path / "study", {"kind": "slow", "seconds": 0.1})
    child = start_child(opened)
    assert eventually(lambda: opened.store.parts("answers"), 60)
    before = len(opened.store.parts("answers"))
    assert terminate(opened, child) < 30
    done = len(opened.store.parts("answers"))
    assert before <= done < 10 and len(opened.store.parts("samples")) == len(opened.store.parts("grades")) == done
    assert len(owed_shards(opened, MODEL)) == 10 - done
    read_graded(opened.store.root)


def test_what_cannot_be_finished_is_given_up_in_time_and_owed(tmp_path):
    opened = opened_in(tmp_path / "study", {"kind": "hang", "after": 12, "once": str(tmp_path / "been")})
    child = start_child(opened)
    assert eventually(lambda: (tmp_path / "been").exists() and opened.store.parts("grades"), 60)
    assert DRAIN_SECONDS <= terminate(opened, child) < 30
    kept = rows(opened, "answers")
    assert owed_shards(opened, MODEL) and kept
    run_fake(opened)
    assert not owed_shards(opened, MODEL) and [r for r in rows(opened, "answers") if r in kept] == kept
