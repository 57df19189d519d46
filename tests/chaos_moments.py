"""Faults at exact moments of writing and of stopping, for the campaign in `chaos`: real code, nothing patched.

Why: the windows between "a temporary file is there", "it is whole", "it is published" and "it is cleaned away" last microseconds, and no
watcher hits them from outside. Python's own audit events name them in the process that writes. The end of an engine is held open by a
fake that is deaf for a while. What it does not do: judge what comes out (`chaos`). Run as a script it is the disturbed process:

    python tests/chaos_moments.py FOLDER MOMENT     where MOMENT is JSON, see `at_moment`
"""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from fakes import eventually, files, reopen, run_child, run_fake
from thinkscale import supervise
from thinkscale.config import FLOWS

KILL, TERM, STOP, CONT = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT
MOMENTS = {  # phase -> tables, audit event on the temporary file of a part
    "writing": (("samples", "answers", "forced"), "open"),
    "between write and publish": (("samples", "answers", "forced"), "os.link"),
    "published, not cleaned": (("samples", "answers", "forced"), "os.remove"),
    "grading": (("grades",), "os.rename"),
}


# --- in the disturbed process


def at_moment(moment, root):
    """Install what strikes at the `count`-th audit event of a kind on a temporary file of a table."""
    left, one_at_a_time = [moment["count"]], threading.Lock()
    beginning = f"{root}/{moment['table']}/."

    def hook(event, args):
        if event == moment["event"] and str(args[0]).startswith(beginning) and str(args[0]).endswith(".tmp"):
            with one_at_a_time:
                left[0] -= 1
                if left[0] == 0:
                    strike(moment, root)

    if moment["does"] == "torn":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it: the writer would be told instead of killed
    sys.addaudithook(hook)


def strike(moment, root):
    does = moment["does"]
    if does == "torn":  # the kernel kills the writer at this byte of the file
        resource.setrlimit(resource.RLIMIT_FSIZE, (moment["bytes"], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    elif does == "full":
        fill(root / "ballast", moment["bytes"])
    else:
        supervise.send(targets(os.getpid(), moment["whom"]), does)


def fill(ballast, leave):
    """Fill the disk but for some bytes (whole pages, on a tmpfs)."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
        file.truncate(file.tell() - leave)


def targets(run, whom):
    """Process ids of a run itself (`flow`), its supervisor, or its engine."""
    if whom == "flow":
        return [run]
    supervisors = []
    for pid in supervise.members(run):
        with suppress(OSError):
            supervisors += [pid] if b"supervise.py" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return supervisors if whom == "supervisor" else [pid for head in supervisors for pid in supervise.members(head)]


# --- in the campaign


def start_at(place, **moment):
    """The study in a process that strikes at a moment."""
    command = [sys.executable, __file__, str(place.folder), json.dumps(moment)]
    environment = {**os.environ, "PYTHONPATH": str(FLOWS)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def drawn(place, phase, **what):
    tables, event = MOMENTS[phase]
    return {"table": place.moment.choice(tables), "event": event, "count": place.moment.randint(1, 3), **what}


def is_frozen(run):
    return Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def flow_struck(phase, number):
    """Killed, or told to end, by its own hand at the moment."""

    def do(place):
        place.open()
        begun = time.monotonic()
        place.ended(start_at(place, **drawn(place, phase, does=int(number), whom="flow")), -number)
        assert time.monotonic() - begun < 60, "starting takes seconds, and a preempted job is given 30"

    return do


def owner_frozen(phase):
    """Stopped at the moment, until another has taken its claims over and done everything; then it goes on."""

    def do(place):
        place.open()
        child = start_at(place, **drawn(place, phase, does=int(STOP), whom="flow"))
        assert eventually(lambda: is_frozen(child), 60), "it was never frozen"
        opened = reopen(place.folder)
        run_fake(opened)
        before = files(opened)
        child.send_signal(CONT)
        place.ended(child, 0)
        assert files(opened) == before, "an owner that was frozen changed something when it woke"

    return do


def engine_struck(phase, number, whom):
    """The run goes on by itself: its engine is started again, or was not needed any more."""

    def do(place):
        place.open()
        place.ended(start_at(place, **drawn(place, phase, does=int(number), whom=whom)), 0)

    return do


def stopping_struck(whom, number):
    """The engine is deaf to its end for a while; meanwhile something is signalled."""

    def do(place):
        place.open({"kind": "deaf", "seconds": 1.5})
        child = start_at(place, table="none", event="none", count=1, does="none")
        assert eventually(place.marker.exists, 60), "it does not come to its end"
        time.sleep(place.moment.uniform(0, 0.5))
        place.supervisor_died = whom == "supervisor"
        supervise.send(targets(child.pid, whom), number)
        if whom == "flow" and number == STOP:
            assert eventually(lambda: is_frozen(child), 10)
            child.send_signal(CONT)
        place.ended(child, -number if whom == "flow" and number != STOP else 0)

    return do


def killed_in_a_write(table):
    """Torn for real: the kernel kills the writer at a byte of the file."""

    def do(place):
        place.open()
        what = {"count": place.moment.randint(1, 3), "does": "torn", "bytes": place.moment.randint(600, 3000)}
        place.ended(start_at(place, table=table, event="open", **what), -signal.SIGXFSZ)
        assert [p for p in (reopen(place.folder).store.root / table).glob(".*.tmp")], "no torn file: the moment was missed"

    return do


def disk_full(table):
    """A real ENOSPC in the write of a part: the results lie on a tmpfs that something else fills up at that moment."""

    def do(place):
        room = place.folder / "out"
        room.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(room)], check=True)
        place.mounted = room
        place.open()
        what = {"count": place.moment.randint(1, 3), "does": "full", "bytes": place.moment.choice((0, 4096))}
        said = place.ended(start_at(place, table=table, event="open", **what), 1)
        assert "No space left on device" in said, said[-1500:]
        assert not [p for p in room.rglob(".*.tmp")], "a file that could not be written is left"
        (room / "ballast").unlink()

    return do


def moment_cases():
    """(phase, fault, do) of every case."""
    found = [(p, f"flow {n.name} at its moment", flow_struck(p, n)) for p in MOMENTS for n in (KILL, TERM)]
    found += [(p, "flow SIGSTOP at its moment, then SIGCONT", owner_frozen(p)) for p in MOMENTS]
    found += [(p, f"engine {n.name} at its moment", engine_struck(p, n, "engine")) for p in MOMENTS for n in (KILL, TERM, STOP)]
    found += [
        ("stopping", f"{whom} {n.name} while its engine ends", stopping_struck(whom, n))
        for whom in ("flow", "engine")
        for n in (KILL, TERM, STOP)
    ]
    found += [("stopping", "supervisor SIGKILL while its engine ends", stopping_struck("supervisor", KILL))]
    found += [("writing", f"killed in a write of {t}", killed_in_a_write(t)) for t in ("samples", "answers", "grades", "forced")]
    if os.geteuid() == 0:  # mounting a small disk needs root
        found += [("writing", f"disk full at {t}", disk_full(t)) for t in ("samples", "answers", "grades", "forced")]
    return found


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    at_moment(given, reopen(sys.argv[1]).store.root)
    run_child(sys.argv[1], None)
