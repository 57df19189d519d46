"""The policy of a sweep, with launches that do not exist."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from fakes import model, run_toy, study
from test_claims import claims
from thinkscale import console, files
from thinkscale.claims import Claims
from thinkscale.config import FLOWS, ConfigError
from thinkscale.fanout import Ended, Unfinished, fan_out, largest_first, resources
from thinkscale.listening import Beats, Listener
from thinkscale.plan import RESULTS, open_study, slice_ids

MODELS = ["fake-21k", "fake-100k"]


def both(folder, **changes):
    return study(folder, models=MODELS, **changes)


class Launches:
    """Ends as told, in order, and then does the work."""

    def __init__(self, opened, *ends):
        self.opened, self.ends, self.asked, self.running, self.most = opened, list(ends), [], 0, 0

    async def __call__(self, name, label):
        self.asked.append(label)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        ended = self.ends.pop(0) if self.ends else Ended("completed")
        if ended.how == "completed":
            await asyncio.to_thread(run_toy, replace(self.opened, config=self.opened.config.model_copy(update={"models": (name,)})))
        return ended


def run(opened, launches, *, at_once=99, replicas=1, resubmits=2):
    asyncio.run(fan_out(opened, launches, "do it again", at_once=at_once, replicas=replicas, resubmits=resubmits))


def test_the_model_that_owes_most_flops_goes_first(tmp_path):
    opened = both(tmp_path)
    assert opened.config.models == ("fake-21k", "fake-100k") and largest_first(opened) == ["fake-100k", "fake-21k"]
    launches = Launches(opened)
    run(opened, launches, at_once=1)
    assert launches.asked == ["fake-100k", "fake-21k"] and launches.most == 1
    assert largest_first(opened) == ["fake-21k", "fake-100k"], "nothing is owed any more: as in the YAML"


def test_all_are_launched_at_once_and_replicas_are_told_apart(tmp_path):
    opened = both(tmp_path)
    launches = Launches(opened)
    run(opened, launches, replicas=2)
    assert launches.most == 4
    assert launches.asked == [f"{m} {i} of 2" for m in ("fake-100k", "fake-21k") for i in (1, 2)]


def test_a_lost_run_is_launched_again_and_one_that_failed_is_not(tmp_path):
    opened = both(tmp_path)
    launches = Launches(opened, Ended("lost", "gone"), Ended("lost", "gone"))
    run(opened, launches, at_once=1)
    assert launches.asked == ["fake-100k", "fake-100k, again 1", "fake-100k, again 2", "fake-21k"]


def test_a_failure_stops_nobody_else_and_says_what_is_owed_and_what_to_do(tmp_path):
    opened = both(tmp_path)
    launches = Launches(opened, Ended("failed", "no weights"))
    with pytest.raises(Unfinished) as raised:
        run(opened, launches, at_once=1)
    assert launches.asked == ["fake-100k", "fake-21k"]
    assert str(raised.value) == "owed: fake-100k 144 answers\nfake-100k: failed: no weights\nTo finish: do it again"


def test_a_run_that_is_lost_too_often_is_a_failure(tmp_path):
    opened = study(tmp_path)
    launches = Launches(opened, *[Ended("lost", "preempted")] * 3)
    with pytest.raises(Unfinished, match="fake-100k: lost: preempted"):
        run(opened, launches)
    assert len(launches.asked) == 3


def part(folder, problems):
    """The first problems of `study(folder)` done, as by a run that was killed then."""
    run_toy(study(folder, benchmarks={"mapping": {"problems": problems}}))


class Killed(Launches):
    """Does as many problems as told by the end of each launch, and is lost."""

    async def __call__(self, name, label):
        problems = self.ends.pop(0)
        if problems:
            await asyncio.to_thread(part, self.opened.store.root.parent, problems)
        self.asked.append(label)
        return Ended("lost", "time limit")


def test_a_run_that_published_something_before_it_was_lost_is_not_counted(tmp_path):
    opened = study(tmp_path)
    launches = Killed(opened, 4, 0, 8, 12)
    run(opened, launches, resubmits=1)
    assert launches.asked == ["fake-100k", *(f"fake-100k, again {i}" for i in (1, 2, 3))], "and not again where nothing is owed"
    again = study(tmp_path, num_samples=5)
    launches = Killed(again, 0, 0, 0)
    with pytest.raises(Unfinished, match="fake-100k: lost: time limit"):
        run(again, launches, resubmits=1)
    assert len(launches.asked) == 2
    with pytest.raises(Unfinished, match="fake-100k: lost: time limit"):
        run(again, Killed(again, 0), resubmits=0)


def test_what_another_run_finished_is_no_failure(tmp_path):
    opened = study(tmp_path)
    run(opened, Launches(opened, Ended("failed", "no GPU here")), replicas=2)


def test_a_run_is_silent_since_its_last_new_beat(tmp_path, monkeypatch):
    store = study(tmp_path).store
    beats = Beats(store, 0.0)
    listener = Listener(beats, "run-1")
    with claims(store.root, run="run-1") as mine, claims(store.root, run="run-2") as other:
        for number in range(1, 12):
            mine._beat(number)
            other._beat(0)
            _pause(0.05)
            assert listener.silence() < 0.04
        _pause(0.3)
        other._beat(99)
        assert listener.silence() > 0.3, "the beat of another does not count"
        assert listener.lives(9.0) and not listener.lives(0.2) and not Listener(beats, "run-3").lives(9.0)
        listener.wait_again()
        assert listener.silence() < 0.3
        _pause(0.3)
        monkeypatch.setattr(files, "listed", _no_disk)
        assert listener.silence() < 0.3, "where nothing can be read, nothing is known of the run"


def test_hundreds_of_listeners_look_once_and_write_nothing(tmp_path, monkeypatch):
    store = study(tmp_path).store
    for number in range(20):
        claims(store.root, run=str(number))._beat(0)
    listed, looks = files.listed, []
    monkeypatch.setattr(files, "listed", lambda *what: looks.append(what) or listed(*what))
    monkeypatch.setattr(files, "put", None)
    before = os.stat(store.root / "claims").st_mtime_ns
    beats = Beats(store, 60.0)
    listeners = [Listener(beats, str(number)) for number in range(20)]
    assert all(listener.lives(9.0) for listener in listeners) and all(listener.silence() == 0.0 for listener in listeners)
    assert len(looks) == 1 and os.stat(store.root / "claims").st_mtime_ns == before


def _no_disk(*_):
    raise OSError(5, "Input/output error")


def test_a_model_has_at_least_one_run(tmp_path):
    opened = both(tmp_path)
    with pytest.raises(ConfigError, match="replicas: 0; at least one"):
        run(opened, Launches(opened), replicas=0)


def _pause(seconds):
    asyncio.run(asyncio.sleep(seconds))


def test_resources_come_from_the_catalogue():
    big = model(params=32_000_000_000, gpus=4, minutes=720)
    assert resources(big) == {"gpus": 4, "cpus": 32, "memory_gb": 16 + 77, "minutes": 720, "seconds": 43200}
    assert resources(model()) == {"gpus": 1, "cpus": 8, "memory_gb": 17}


def test_an_experiment_travels_as_its_content():
    opened = open_study("smoke")
    again = open_study(console.travelling(opened))
    assert again.config == opened.config and again.cells == opened.cells


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"command": ["rm"]}, "engine.command: not taken.*THINKSCALE_ENGINE_COMMAND"),
        ({"base_url": "http://x"}, "engine.base_url: not taken"),
    ],
)
def test_content_never_says_what_a_worker_executes_or_where_its_key_goes(engine, said):
    content = console.travelling(open_study("smoke"))
    with pytest.raises(ConfigError, match=said):
        open_study({**content, "engine": engine})


def test_a_file_that_a_run_was_told_of_is_held_to_the_same(tmp_path):
    fields = yaml.safe_load((FLOWS / "experiments" / "smoke.yaml").read_text())
    path = tmp_path / "planted.yaml"
    path.write_text(yaml.safe_dump({**fields, "name": "planted", "engine": {"command": ["rm"]}}))
    assert console.opened(str(path), str(tmp_path), deployed=False).config.engine.command == ("rm",)
    with pytest.raises(ConfigError, match=r"engine\.command: not taken"):
        console.opened(str(path), str(tmp_path), deployed=True)


def test_content_that_is_wrong_gets_the_same_error_as_a_file():
    content = console.travelling(open_study("smoke"))
    with pytest.raises(ConfigError, match=r"experiment: unknown key 'num_sample'. Did you mean 'num_samples'"):
        open_study({**content, "num_sample": 3})
    with pytest.raises(ConfigError, match="found list; give a shipped name"):
        console.as_given([])


def test_the_command_that_finishes_is_the_one_that_was_given(tmp_path):
    assert console.sweep_again("nano", str(tmp_path), "gpu") == f"python flows/sweep.py nano --results {tmp_path} --pool gpu"
    assert console.sweep_again("nano", str(RESULTS), "gpu", 2) == "python flows/sweep.py nano --pool gpu --replicas 2"
    assert console.sweep_again("my $1.yaml", "a b", None) == "python flows/sweep.py 'my $1.yaml' --results 'a b'"
    assert console.experiment_name("a/b/mine.yaml") == "mine" and console.experiment_name({"name": "x"}) == "x"


def test_a_run_outlives_whoever_reads_its_output():
    code = f"""
import os, signal, sys, time
sys.path.insert(0, {str(FLOWS)!r})
from rich.console import Console
from thinkscale import console, fanout
from thinkscale.claims import Claims
console.outlive_reader()
print("before", flush=True)
sys.stdin.read()  # until the reader is gone
for _ in range(3):
    Console(file=sys.stdout).print("after")
    os.write(2, b"after\\n")
os._exit(7)
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout.readline() == b"before\n"
    run.stdout.close(), run.stderr.close(), run.stdin.close()
    assert run.wait(30) == 7
    ends = f"import sys; sys.path.insert(0, {str(FLOWS)!r}); from thinkscale import console; console.outlive_reader(); print('x' * 200_000)"
    assert subprocess.run([sys.executable, "-c", ends], capture_output=True, text=True, check=True).stdout == "x" * 200_000 + "\n"


def test_claims_of_a_run_that_was_lost_when_its_work_was_done_are_removed(tmp_path):
    opened = study(tmp_path)

    async def preempted(name, label):
        with Claims(opened.store, name, 60.0) as mine:
            assert all(mine.take(slice_id, "x") for slice_id in slice_ids(opened, name))
            await asyncio.to_thread(run_toy, opened)
        return Ended("lost", "preempted")

    run(opened, preempted)
    assert not list((opened.store.root / "claims").iterdir())
