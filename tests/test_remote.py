"""What runs, parents and commands do while an object store is away, refuses, or loses its answers."""

import contextlib
import contextvars
import os
import subprocess
import sys
import threading
import time

import pytest

from fakes import study
from s3_server import S3
from test_claims import claims
from test_fanout import Launches, run
from thinkscale import files
from thinkscale.claims import Claims
from thinkscale.config import FLOWS
from thinkscale.fanout import Ended, Unfinished
from thinkscale.listening import Beats, Listener
from thinkscale.remote import StorageError, fault_of, patient
from thinkscale.store import Store


@pytest.fixture
def s3(monkeypatch):
    """A server, and the variables that lead to it."""
    from s3fs import S3FileSystem

    with S3() as server:
        for name, value in server.settings.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # one for another server, perhaps
        yield server
        S3FileSystem.clear_instance_cache()


@pytest.fixture
def folder(s3, tmp_path):
    return files.place(f"s3://flaky/{tmp_path.name}")


def away_for(server, seconds):
    """The server goes, and comes back so much later."""
    server.go()
    threading.Timer(seconds, server.come).start()


@pytest.fixture
def again(monkeypatch):
    """The driver asks again by itself, as it does unless told otherwise: moto answers 500 where it is asked for what it replaces."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")


def test_a_file_that_is_rewritten_all_the_time_is_read_whole(s3, again, folder):
    ending, beat = threading.Event(), folder / "beat"
    files.put(beat, b"0" * 100)

    def rewrite():
        number = 0
        while not ending.is_set():
            number += 1
            files.put(beat, str(number % 10).encode() * (100 + number % 7))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        found = [files.read(beat) for _ in range(100)]
    finally:
        ending.set()
        writer.join()
    assert all(len(set(data)) == 1 for data in found) and len(set(found)) > 20


def test_who_looks_while_another_beats_all_the_time_is_not_disturbed(s3, again, folder):
    with Claims(Store(folder), "m", 0.02) as owner, Claims(Store(folder), "m", 60.0) as other:  # a beat every 3 ms
        assert owner.take("s", "")
        assert [other.free(["s"]) for _ in range(100)] == [set()] * 100


@pytest.mark.parametrize("how", ["listed", "versions", "read", "put", "put_new", "exists", "remove", "check"])
def test_whatever_is_asked_of_a_store_that_is_away_raises_one_kind_of_error(s3, folder, how):
    s3.go()
    what = (folder / "x", b"1") if how.startswith("put") else (folder / "x",)
    with pytest.raises(StorageError, match=r"^s3://flaky/.*: the store does not answer \(.*\)\. Run the same command again") as error:
        getattr(files, how)(*what)
    assert error.value.passing and error.value.filename.startswith("s3://flaky/")


@pytest.mark.parametrize(
    ("answer", "said", "passing"),
    [
        ("AccessDenied", r"the store refuses \(AccessDenied, it said\)\. See whether the credentials", False),
        ("ExpiredToken", r"credentials are missing or have expired \(ExpiredToken, it said\)\. Put new ones", False),
        ("SlowDown", r"the store does not answer \(.*SlowDown, it said\)\. Run the same command again", True),
    ],
)
def test_what_a_store_answers_is_said_with_what_to_do(s3, folder, answer, said, passing):
    s3.answer = answer
    for ask in (lambda: files.listed(folder), lambda: files.put(folder / "x", b"1")):
        with pytest.raises(StorageError, match=said) as error:
            ask()
        assert error.value.passing == passing


def test_a_bucket_that_is_not_there_is_no_empty_folder(s3):
    with pytest.raises(StorageError, match=r"s3://none/x: there is no such bucket .*correct --results"):
        files.listed(files.place("s3://none/x"))
    assert files.listed(files.place("s3://flaky/none")) == []


def test_an_error_that_is_not_the_store_s_stays_what_it_is():
    assert fault_of(ValueError("x")) is None and fault_of(FileNotFoundError("x")) is None and fault_of(OSError("x")) is not None


def test_who_is_patient_waits_for_a_store_that_is_away_for_seconds_and_says_so_once(s3, folder, caplog):
    away_for(s3, 3.0)
    with patient(60.0):
        assert files.put_new(folder / "x", b"1") and files.read(folder / "x") == b"1"
    said = [record.getMessage() for record in caplog.records if record.name == "thinkscale.remote"]
    assert len(said) == 2 and "Asking again, for up to 60 s" in said[0] and said[1] == "The store of results answers again."


def test_patience_ends_after_a_while_for_all_who_ask_and_never_began_for_what_does_not_pass(s3, folder):
    s3.go()
    with patient(1.0):
        for least in (1.0, 0.0):
            begun = time.monotonic()
            with pytest.raises(StorageError):
                files.put(folder / "x", b"1")
            assert time.monotonic() - begun >= least
        s3.come()
        s3.answer = "AccessDenied"
        with pytest.raises(StorageError, match="refuses"):
            files.put(folder / "x", b"1")


def test_who_waits_in_a_thread_ends_with_the_block(s3, folder):
    s3.go()
    ended = []

    def write():
        with contextlib.suppress(StorageError):
            files.put(folder / "x", b"1")
        ended.append(time.monotonic())

    with patient(600.0):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(write,))
        thread.start()
        time.sleep(2.0)
        assert not ended
    thread.join(20.0)
    assert ended


def test_a_write_whose_answer_was_lost_is_ours(s3, folder):
    s3.loses = 1
    assert files.put_new(folder / "x", b"ours") and not files.put_new(folder / "x", b"theirs")
    assert files.read(folder / "x") == b"ours"


def test_parts_are_read_and_written_though_the_store_is_away_meanwhile(s3, folder):
    store = Store(folder)
    store.publish("grades", "a", [])
    with patient(60.0):
        away_for(s3, 2.0)
        assert store.read("grades").num_rows == 0 and store.parts("grades")
        away_for(s3, 2.0)
        assert store.publish("grades", "b", []) and [p.stem for p in store.parts("grades")] == ["a", "b"]


def test_what_was_claimed_when_the_store_went_away_is_given_back_by_what_ends(s3, folder, caplog):
    with pytest.raises(RuntimeError, match="the work failed"), claims(folder) as mine:
        assert mine.take("s", "") and mine.take("t", "")
        s3.go()
        raise RuntimeError("the work failed")
    assert "claims could not be given back" in caplog.text and "beat could not be deleted" in caplog.text


def test_listeners_go_on_while_the_store_is_away_and_hear_again(s3, folder, caplog):
    store = Store(folder)
    beats = Beats(store, 0.0)
    one, other = Listener(beats, "1"), Listener(beats, "2")
    mine = claims(folder, run="1")
    mine._beat(0)
    assert one.silence() == 0.0 and one.lives(1.0) and not other.lives(1.0)
    s3.go()
    for _ in range(2):
        assert one.silence() == 0.0, "nothing is known of the run"
    s3.come()
    assert one.silence() < 5.0 and one.lives(5.0)
    time.sleep(0.1)
    assert one.silence() >= 0.1
    mine._beat(1)
    assert one.silence() == 0.0
    assert caplog.text.count("cannot listen for beats") == 1 and caplog.text.count("beats are heard again") == 1


def test_in_a_store_known_beats_are_not_read_again(s3, folder):
    runs = [claims(folder, run=str(i)) for i in range(4)]
    for mine in runs:
        mine._beat(0)
    beats = Beats(Store(folder), 0.0)
    listeners = [Listener(beats, str(i)) for i in range(4)]
    assert all(listener.lives(1.0) for listener in listeners)
    s3.requests.clear()
    for mine in runs[:2]:
        mine._beat(1)
    s3.requests.clear()
    assert [listener.silence() == 0.0 for listener in listeners] == [True, True, False, False]
    assert [request.split()[0] for request in s3.requests] == ["GET"] * 4, "a listing for each look"


def test_what_is_owed_that_cannot_be_read_hides_neither_what_failed_nor_the_command(tmp_path, s3, folder):
    opened = study(tmp_path)
    object.__setattr__(opened, "store", Store(folder))

    class Away(Launches):
        async def __call__(self, name, label):
            s3.answer = "AccessDenied"
            return await super().__call__(name, label)

    with pytest.raises(Unfinished) as error:
        run(opened, Away(opened, *[Ended("lost", "away")] * 3))
    first, second, last = str(error.value).splitlines()
    assert first.startswith("owed: not known (s3://flaky/") and "refuses" in first
    assert second == "fake-100k: lost: away" and last == "To finish: do it again"


@pytest.mark.parametrize(
    ("answer", "option"),
    [("none", "--plan"), ("AccessDenied", "--status"), ("ExpiredToken", "--plan"), ("SlowDown", "--status"), ("away", "--plan")],
)
def test_at_the_command_line_it_is_one_line(s3, answer, option):
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    if answer == "away":
        s3.go()
    elif answer == "none":
        del settings["AWS_ACCESS_KEY_ID"], settings["AWS_SECRET_ACCESS_KEY"]
        settings["AWS_SHARED_CREDENTIALS_FILE"] = settings["AWS_CONFIG_FILE"] = os.devnull
    else:
        s3.answer = answer
    command = [sys.executable, str(FLOWS / "sweep.py"), "smoke", option, "--results", "s3://flaky/x"]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: s3://flaky/x/smoke"), done.stderr
    assert done.stderr.count("\n") == 1 and "sekret" not in done.stderr


LOST = """
import asyncio, json, sys
import evaluate_model, pooled, shown
from thinkscale import remote

away = remote.StorageError(None, "the store does not answer", "s3://x/y")
away.passing = True
said = []

def cells(study):
    raise away

async def evaluate(*_):
    raise away

async def tolerated(call):
    call.close()

evaluate_model.evaluate.evaluate, shown.cells, shown._tolerated = evaluate, cells, tolerated
for away.passing in (True, False):
    try:
        found = pooled.ended(asyncio.run(evaluate_model.evaluate_model.fn("smoke", "ladder-21k", "memory://lost")))
        said.append(found)
    except remote.StorageError as e:
        said.append(str(e))
print(json.dumps(said))
"""


def test_a_run_that_ends_of_an_outage_is_lost_and_one_that_was_refused_failed(tmp_path):
    from test_sweep import told

    assert told(LOST, tmp_path) == [["lost", "s3://x/y: the store does not answer"], "s3://x/y: the store does not answer"]


SHOWN = """
import asyncio, json, shown
from thinkscale.plan import open_study

async def tolerated(call):
    call.close()

def cells(study):
    raise OSError(5, "Input/output error", "results")

async def work():
    async with shown.show_cells(open_study("smoke", "memory://shown")):
        raise RuntimeError("the work failed")

shown._tolerated, shown.cells = tolerated, cells
try:
    asyncio.run(work())
except Exception as e:
    print(json.dumps(repr(e)))
"""


def test_that_nothing_can_be_shown_hides_nothing(tmp_path):
    from test_sweep import told

    assert told(SHOWN, tmp_path) == repr(RuntimeError("the work failed"))
