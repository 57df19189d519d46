"""Several runs share what is owed: who has a slice, who is dead, and that a frozen owner who wakes mixes nothing in."""

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from fakes import FAKE_VLLM, engines, eventually, files, processes, reopen, rows, run_fake, start_child, study
from thinkscale import evaluate
from thinkscale.claims import ClaimLost, Claims, Guarded, at_work
from thinkscale.config import FLOWS
from thinkscale.drain import Drain, Preempted
from thinkscale.graded import read_graded
from thinkscale.plan import owed_shards, slice_ids
from thinkscale.store import Store, StoreError

MODEL = "fake-100k"


def claims(folder, timeout=60.0, **owner):
    """Claims of a process that pretends to be on another machine."""
    found = Claims(Store(folder), MODEL, timeout)
    found.owner = replace(found.owner, machine=owner.pop("machine", os.urandom(4).hex()), **owner)
    return found


def test_a_slice_is_had_by_one_at_a_time(tmp_path):
    with claims(tmp_path) as one, claims(tmp_path) as other:
        assert one.take("s", "sums 1-4") and not other.take("s", "") and not other.free(["s"])
        assert other.take("t", "") and not one.take("t", "")
        one.check("s")
        one.release("s")
        assert other.free(["s", "t", "u"]) == {"s", "u"} and other.take("s", "") and not one.take("s", "")
        other.check("s")


def test_of_many_that_reach_for_a_slice_one_has_it(tmp_path):
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        everybody = [claims(tmp_path).__enter__() for _ in range(8)]

        def reach(mine):
            barrier.wait()
            return [mine.take(f"slice-{i}", "") for i in range(20)]

        taken = list(pool.map(reach, everybody))
        for mine in everybody:
            mine.__exit__(None, None, None)
    assert [sum(column) for column in zip(*taken, strict=True)] == [1] * 20


def test_an_owner_whose_beat_stands_still_by_our_own_clock_is_dead(tmp_path):
    owner, watcher = claims(tmp_path, timeout=0.3), claims(tmp_path, timeout=0.3)
    owner._beat(0)  # and never again: as when its machine died
    assert owner.take("s", "")
    os.utime(owner._beat_file(owner.owner.token), (0, 0))  # what its clock said does not matter
    assert not watcher.free(["s"]), "nothing is known at the first look"
    assert not watcher.take("s", "")
    time.sleep(0.4)
    assert watcher.take("s", "")
    with pytest.raises(ClaimLost, match="another run took it over"):
        owner.check("s")
    owner.release("s")
    watcher.check("s")  # what the old owner does touches nothing


def test_nobody_is_dead_because_the_storage_was_away(tmp_path):
    owner, mine = claims(tmp_path, timeout=0.6), claims(tmp_path, timeout=0.6)
    owner._beat(0)
    assert owner.take("s", "")
    with mine:
        assert not mine.free(["s"])
        (tmp_path / "claims").rename(tmp_path / "away")
        (tmp_path / "claims").write_text("in the way")
        assert eventually(lambda: mine._there_since > time.monotonic(), 10), "its own beat tells it"
        time.sleep(0.7)
        (tmp_path / "claims").unlink()
        (tmp_path / "away").rename(tmp_path / "claims")
        assert not mine.free(["s"]), "it could not beat either"
        assert eventually(lambda: mine.free(["s"]), 10)


@pytest.fixture
def full(monkeypatch):
    """Fills the disk."""

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "fsync", fsync)


def test_on_a_full_disk_what_the_work_failed_of_is_told_and_no_beat_is_left(tmp_path, full, caplog):
    with pytest.raises(RuntimeError, match="the work failed"), Claims(Store(tmp_path), MODEL, 60.0) as mine:
        assert mine.take("s", "") and mine.take("t", "")
        full()
        raise RuntimeError("the work failed")
    assert not list((tmp_path / "claims").glob("owner-*")) and claims(tmp_path).free(["s", "t"]) == {"s", "t"}
    assert "claims could not be given back" in caplog.text and "No space left" in caplog.text


def test_a_claim_that_could_not_be_given_back_can_be_taken_again_by_who_had_it(tmp_path, full, monkeypatch):
    async def hold(mine):
        async with mine.hold("s", "sums 1-4"):
            full()
            raise RuntimeError("the work failed")

    with claims(tmp_path) as mine, claims(tmp_path) as other:
        with pytest.raises(RuntimeError, match="the work failed"):
            asyncio.run(hold(mine))
        monkeypatch.undo()
        assert not other.take("s", "") and mine.free(["s"]) == {"s"} and mine.take("s", "")
        mine.check("s")


def test_a_living_owner_is_not_dead_however_long_it_takes(tmp_path):
    with claims(tmp_path, timeout=1.0) as owner:  # a busy machine may stop us for a good part of it
        watcher = claims(tmp_path, timeout=1.0)
        assert owner.take("s", "")
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            assert not watcher.free(["s"])
            time.sleep(0.05)
        owner.check("s")


def test_a_process_of_this_machine_that_is_gone_is_known_to_be_so_at_once(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(FLOWS)!r})
from thinkscale.claims import Claims; from thinkscale.store import Store
import os, signal
mine = Claims(Store({str(tmp_path)!r}), "m", 3600.0); mine.__enter__(); assert mine.take("s", "")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with Claims(Store(tmp_path), MODEL, 3600.0) as watcher:
        assert [seen.owner for seen in at_work(Store(tmp_path))] == [watcher.owner]
        assert watcher.take("s", "")
        watcher.forget({"s"})
        watcher.check("s")  # what is held is not forgotten
        watcher.release("s")
        watcher.forget({"s"})
        assert os.listdir(tmp_path / "claims") == [f"owner-{watcher.owner.token}.json"]
    assert os.listdir(tmp_path / "claims") == []


def test_the_beat_of_a_machine_that_died_is_deleted_by_who_saw_it_silent_and_no_living_one(tmp_path):
    dead, living, watcher = claims(tmp_path, timeout=1.0), claims(tmp_path, timeout=60.0), claims(tmp_path, timeout=1.0)
    for mine in (dead, living, watcher):
        mine._beat(0)
    assert dead.take("s", "") and not watcher.take("s", "")
    watcher.forget(set())
    assert dead._beat_file(dead.owner.token).exists(), "it may live: it was seen silent for no time yet"
    time.sleep(1.2)
    assert watcher.take("s", "")
    watcher.release("s")
    watcher.forget({"s"})
    assert {seen.owner.token for seen in at_work(Store(tmp_path))} == {living.owner.token, watcher.owner.token}


def test_beats_of_another_version_of_this_project_are_read_and_what_is_no_beat_is_not_ours(tmp_path):
    other, watcher = claims(tmp_path), claims(tmp_path)
    other._beat(0)
    assert other.take("s", "")
    beat = other._beat_file(other.owner.token)
    said = json.loads(beat.read_text())
    beat.write_text(json.dumps({**said, "more": 1, "owner": {**said["owner"], "cloud": "x"}}))
    assert [seen.owner for seen in at_work(Store(tmp_path))] == [other.owner] and not watcher.take("s", "")
    for no_beat in ("[]", "{}", '{"beat": 1, "owner": {"token": "x"}, "slices": []}', '{"beat": 1, "owner": null, "slices": []}'):
        beat.write_text(no_beat)
        watcher.forget({"t"})
        assert at_work(Store(tmp_path)) == [] and watcher.free(["s"]) == {"s"}
    assert watcher.take("s", "")


def test_after_all_is_forgotten_an_old_owner_finds_that_it_lost(tmp_path):
    old, new, third = claims(tmp_path, timeout=0.1), claims(tmp_path, timeout=0.1), claims(tmp_path, timeout=0.1)
    for mine in (old, new, third):
        mine._beat(0)
    assert old.take("s", "") and not new.take("s", "")
    time.sleep(0.2)
    assert new.take("s", "")
    new.release("s")
    new.forget({"s"})
    assert not list((tmp_path / "claims").glob("s.*")) and third.take("s", "")
    with pytest.raises(ClaimLost):
        old.check("s")
    old.release("s")
    third.check("s")


def test_a_beat_that_cannot_be_written_is_said_and_tried_again(tmp_path, caplog):
    with claims(tmp_path, timeout=0.3) as mine:
        (tmp_path / "claims").rename(tmp_path / "away")
        (tmp_path / "claims").write_text("in the way")
        assert eventually(lambda: "the beat of this run could not be written" in caplog.text, 10)
        (tmp_path / "claims").unlink()
        (tmp_path / "away").rename(tmp_path / "claims")
        beat = mine._beat_file(mine.owner.token)
        before = beat.read_text()
        assert eventually(lambda: beat.read_text() != before, 10)


def test_who_is_at_work_on_what_is_seen_from_disk(tmp_path):
    with claims(tmp_path, timeout=0.3, host="node7", pid=12) as mine:
        mine.take("s", "sums 1-4")
        assert eventually(lambda: at_work(Store(tmp_path))[0].slices == ("sums 1-4",), 10)
        (seen,) = at_work(Store(tmp_path))
        assert (seen.owner.host, seen.owner.pid, seen.owner.model) == ("node7", 12, MODEL) and 0 <= seen.silent < 10
    assert at_work(Store(tmp_path)) == []


def test_a_guarded_store_publishes_nothing_for_who_lost_its_slice(tmp_path):
    def lost():
        raise ClaimLost("s")

    store = Store(tmp_path)
    with pytest.raises(ClaimLost):
        Guarded(store, lost).publish("grades", "a", [])
    assert store.parts("grades") == [] and Guarded(store, lambda: None).publish("grades", "a", []) and len(store.parts("grades")) == 1


# --- whole runs


def opened_in(folder, fault=None, problems=24, **engine):
    folder.mkdir(exist_ok=True)
    command = [*FAKE_VLLM, *(("--fault", json.dumps(fault)) if fault else ())]
    options = {"command": command, "concurrency": 4, "claim_timeout": 1.5, **engine}
    return study(folder, benchmarks={"sums": {"problems": problems}}, engine=options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    opened = opened_in(tmp_path_factory.mktemp("undisturbed") / "study")
    assert run_fake(opened) == 6
    return {t: rows(opened, t) for t in ("problems", "samples", "answers", "grades")}


def check(opened, undisturbed):
    assert {t: rows(opened, t) for t in undisturbed} == undisturbed
    read_graded(opened.store.root)
    assert owed_shards(opened, MODEL) == [] and os.listdir(opened.store.root / "claims") == []
    assert not [p for p in opened.store.root.rglob(".*") if p.is_file()]
    assert eventually(lambda: not processes(opened), 20)


def test_runs_side_by_side_share_the_shards_and_do_none_twice(tmp_path, undisturbed):
    opened = opened_in(tmp_path / "study")
    children = [start_child(opened) for _ in range(3)]
    said = [c.communicate(timeout=120)[1] for c in children]
    assert [c.returncode for c in children] == [0, 0, 0], said
    check(opened, undisturbed)
    assert sum(int(re.search(r"ran (\d+)", text)[1]) for text in said) == 6


def test_a_run_waits_without_an_engine_for_what_others_do_and_takes_over_when_they_die(tmp_path, undisturbed):
    opened = opened_in(tmp_path / "study")
    other = claims(opened.store.root, timeout=1.5)
    with other:
        for slice_id in slice_ids(opened, MODEL):
            assert other.take(slice_id, "")
        waiting = start_child(opened)
        assert not eventually(lambda: engines(opened), 4) and waiting.poll() is None
        other._ending.set()  # its beat stops: as if its machine had died
        said = waiting.communicate(timeout=60)[1]
        assert waiting.returncode == 0 and "ran 6" in said, said
        for slice_id in slice_ids(opened, MODEL):
            with pytest.raises(ClaimLost):
                other.check(slice_id)
    check(opened, undisturbed)


def test_an_owner_that_was_frozen_and_wakes_mixes_nothing_in(tmp_path, undisturbed):
    # after 9 requests it has drawn traces of the first shards and is in the middle of others
    opened = opened_in(tmp_path / "study", {"kind": "slow", "seconds": 0.3, "after": 9, "once": str(tmp_path / "been")})
    frozen = start_child(opened)
    assert eventually(lambda: opened.store.parts("samples"), 60)
    os.kill(frozen.pid, signal.SIGSTOP)  # of the run alone: its engine goes on, as after a long garbage collection or a swapped-out node
    owed = len(owed_shards(opened, MODEL))
    assert owed
    assert run_fake(reopen(tmp_path / "study")) >= 1
    assert owed_shards(opened, MODEL) == []
    before = files(opened)
    os.kill(frozen.pid, signal.SIGCONT)
    said = frozen.communicate(timeout=60)[1]
    assert frozen.returncode == 0, said
    assert files(opened) == before
    check(opened, undisturbed)


class Forgetful(Store):
    """A store that says it wrote answers and did not."""

    def publish(self, table, name, rows, **options):
        return True if table == "answers" else super().publish(table, name, rows, **options)


def test_a_shard_that_is_owed_after_it_was_done_ends_the_run_instead_of_being_done_for_ever(tmp_path):
    opened = opened_in(tmp_path / "study")
    with pytest.raises(StoreError, match=r"sums 1-4 was done and still owes 48 completions.*Look into"):
        run_fake(replace(opened, store=Forgetful(opened.store.root)))


class SlowToRelease(Claims):
    """Takes its time to release."""

    def release(self, slice_id):
        time.sleep(0.6)
        super().release(slice_id)


def test_a_release_that_waits_its_turn_is_seen_by_who_looks_next_even_if_who_asked_for_it_was_cancelled(tmp_path):
    async def two(mine):
        holding = []

        async def one(slice_id):
            async with mine.hold(slice_id, "") as ours:
                holding.append(ours)
                await asyncio.sleep(0.1)  # both are held; then both are given back, one after the other

        tasks = [asyncio.create_task(one(name)) for name in "st"]
        while len(holding) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert holding == [True, True] and all(task.cancelled() for task in tasks)
        assert await mine.in_turn(mine.free, ["s", "t"]) == {"s", "t"}

    with SlowToRelease(Store(tmp_path), MODEL, 60.0) as mine:
        asyncio.run(two(mine))


def test_an_engine_that_dies_is_started_again_once_however_slowly_claims_are_released(tmp_path, monkeypatch):
    """Both shards find out by themselves; the second is cancelled while it gives its slice back."""
    monkeypatch.setattr(evaluate, "Claims", SlowToRelease)
    opened = opened_in(tmp_path / "study", {"kind": "crash", "after": 3, "once": str(tmp_path / "been")}, problems=8)
    assert run_fake(opened) == 2 and len(engines(opened)) == 2
    assert owed_shards(opened, MODEL) == [] and os.listdir(opened.store.root / "claims") == []


def test_who_ends_while_releases_wait_their_turn_leaves_nothing_claimed(tmp_path):
    async def end(mine):
        for name in "st":
            await mine.in_turn(mine.take, name, "")
        tasks = [asyncio.create_task(mine.in_turn(mine.release, name)) for name in "st"]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with SlowToRelease(Store(tmp_path), MODEL, 60.0) as mine:
        asyncio.run(end(mine))
    assert claims(tmp_path).free(["s", "t"]) == {"s", "t"}


class Slow(Claims):
    """Takes its time to take."""

    def take(self, slice_id, label):
        self.taking.set()
        time.sleep(0.5)
        return super().take(slice_id, label)


def test_a_claim_that_was_being_taken_when_the_engine_died_is_given_back(tmp_path):
    opened = opened_in(tmp_path / "study")
    (shard, *_) = owed_shards(opened, MODEL)

    async def go(mine):
        run = evaluate.Run(opened, MODEL, mine, Drain("m"), None)
        task = asyncio.create_task(run._one(shard, None))
        assert await asyncio.to_thread(mine.taking.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    with Slow(opened.store, MODEL, 60.0) as mine:
        mine.taking = threading.Event()
        asyncio.run(go(mine))
        assert mine.free([shard.slice_id]) and claims(opened.store.root).free([shard.slice_id])


def test_who_waits_looks_soon_and_then_ever_less_often_until_a_slice_is_given_back(tmp_path, monkeypatch):
    waits = []

    async def slept(seconds):
        waits.append(seconds)
        if len(waits) == 12:
            owner.release("t")

    monkeypatch.setattr(evaluate.asyncio, "sleep", slept)
    with claims(tmp_path) as owner, claims(tmp_path) as mine:
        assert owner.take("s", "") and owner.take("t", "")
        asyncio.run(evaluate.until_free(mine, ["s", "t"], Drain("m")))
        assert mine.free(["s", "t"]) == {"t"}
    assert len(waits) == 12 and waits == sorted(waits) and waits[0] == 0.1 and waits[-1] == evaluate.WAIT_SECONDS


def test_who_waits_and_is_told_to_end_ends(tmp_path):
    drain = Drain("m")
    drain.asked = True
    with claims(tmp_path) as owner, claims(tmp_path) as mine:
        assert owner.take("s", "")
        with pytest.raises(Preempted, match=r"m: told to end"):
            asyncio.run(evaluate.until_free(mine, ["s"], drain))


def test_no_engine_is_started_for_shards_that_were_done_since_they_were_read_as_owed(tmp_path, monkeypatch):
    opened = opened_in(tmp_path / "study")
    read, looks = evaluate.owed_shards, []

    def read_slowly(*what):
        found = read(*what)
        looks.append(len(found))
        if len(looks) == 1:  # another run does it all before we look at the claims
            for slice_id in slice_ids(opened, MODEL):
                other.release(slice_id)
            assert run_fake(reopen(tmp_path / "study")) == 6
        return found

    monkeypatch.setattr(evaluate, "owed_shards", read_slowly)
    with claims(opened.store.root) as other:
        assert all(other.take(slice_id, "") for slice_id in slice_ids(opened, MODEL))
        assert run_fake(opened) == 0
    assert looks == [6, 6, 0, 0] and len(engines(opened)) == 1
