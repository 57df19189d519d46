"""Runs one command and sees to it that nothing of it outlives its parent: no process, no shared memory, no temporary file.

Why: a flow that is killed with SIGKILL runs no `finally`, and an engine left behind holds a GPU for days. So the parent holds our
standard input open; when that closes (or on SIGTERM, or when our parent changes) the command and all that it started is stopped:
SIGTERM, a grace, SIGKILL until nobody is left. Children that leave their process group or lose their parent are found too: this
process is their subreaper and, started in a session of its own, knows them by session. Linux; standard library alone, to start at once.
What it does not do: no restart, no judgement whether the command works.

    python supervise.py [--grace SECONDS] [--parent PID] [--scratch FOLDER] -- COMMAND ...

Exit status: the command's own, 128 + n if signal n ended it, 143 if it was stopped from here.
"""

import argparse
import ctypes
import os
import re
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SHM = Path("/dev/shm")
TICK = 0.25  # seconds between looks at the parent (second line of defence, behind the pipe) and at /dev/shm
PAUSE = 0.02  # seconds after a look for which files made in /dev/shm, by whomever, cause no other
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
IN_MOVED_TO, IN_CREATE = 0x80, 0x100  # of inotify(7)


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    state: str
    parent: int
    session: int


def process_table() -> list[Process]:
    """All processes that /proc shows."""
    table = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:  # gone between the listing and the look
                continue
            table.append(Process(int(entry.name), fields[0], int(fields[1]), int(fields[3])))
    return table


def members(leader: int) -> list[int]:
    """Living processes that `leader` started, at any depth, and those of its session if it leads one; without itself and zombies."""
    table = process_table()
    found = {p.pid for p in table if p.session == leader}
    children: dict[int, list[int]] = {}
    for p in table:
        children.setdefault(p.parent, []).append(p.pid)
    queue = [leader, *found]
    while queue:
        fresh = [c for c in children.get(queue.pop(), ()) if c not in found]
        found.update(fresh)
        queue.extend(fresh)
    return [p.pid for p in table if p.pid in found and p.pid != leader and p.state not in "ZX"]


def send(pids: list[int], number: int) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def shared_memory() -> dict[str, int]:
    """Name -> inode of every file in /dev/shm."""
    if not SHM.is_dir():
        return {}
    found: dict[str, int] = {}
    for entry in os.scandir(SHM):
        try:
            found[entry.name] = entry.stat(follow_symlinks=False).st_ino
        except FileNotFoundError:
            continue
    return found


def tell_of_new_files(folder: Path) -> list[int]:
    """A descriptor that can be read as soon as a file is made in a folder; none where the kernel gives none (this user's are used up)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor >= 0 and libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_CREATE | IN_MOVED_TO) < 0:
        os.close(descriptor)
        return []
    return [descriptor] if descriptor >= 0 else []


def mapped(pid: int) -> set[int]:
    """Inodes in /dev/shm that a process has mapped or open, if we may look (a semaphore's maker maps it under a name that is gone)."""
    inodes: set[int] = set()
    with suppress(OSError):
        lines = (
            line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines() if f" {SHM}/" in line
        )
        inodes.update(int(fields[4]) for fields in lines)
        for fd in os.scandir(f"/proc/{pid}/fd"):
            if os.readlink(fd.path).startswith(f"{SHM}/"):
                inodes.add(os.stat(fd.path).st_ino)
    return inodes


class SharedMemoryWatch:
    """Knows which files in /dev/shm are the command's: made after it started, and seen mapped by its processes or named after one's id."""

    def __init__(self) -> None:
        self.before = shared_memory()
        self.ours: dict[str, int] = {}
        self.pids: set[str] = set()

    def note(self, leader: int) -> None:
        """Look at the processes below `leader` while they live; costs next to nothing as long as no new file is there."""
        new = {name: inode for name, inode in shared_memory().items() if self.before.get(name) != inode and name not in self.ours}
        if new:
            pids = members(leader)
            self.pids.update(map(str, pids))
            theirs = set[int]().union(*(mapped(pid) for pid in pids))
            named = {name for name in new if self.pids & set(re.split(r"[^0-9A-Za-z]", name))}
            self.ours.update({name: inode for name, inode in new.items() if inode in theirs or name in named})

    def remove(self) -> list[str]:
        """Remove what is left, once the processes are gone; a file that somebody else has mapped by now stays."""
        now = shared_memory()
        left = [name for name, inode in self.ours.items() if now.get(name) == inode and (SHM / name).stat().st_uid == os.getuid()]
        if not left:
            return []
        elsewhere = set[int]().union(*(mapped(p.pid) for p in process_table()))
        removed = [name for name in left if self.ours[name] not in elsewhere]
        for name in removed:
            (SHM / name).unlink(missing_ok=True)
        return removed


def spawn(command: list[str]) -> int:
    """Start the command in a process group of its own, which dies with us should we be killed ourselves."""
    me = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two, and what is ignored stays so through exec
        signal.signal(number, signal.SIG_DFL)
    try:
        if os.getppid() == me:
            os.execvp(command[0], command)
    except OSError as e:
        _say(f"cannot run {command[0]}: {e.strerror}")
    os._exit(127)


def stop(leader: int, main: int, grace: float, watch: SharedMemoryWatch) -> list[int]:
    """Stop everything below `leader`; returns the processes that even SIGKILL did not end within 30 seconds (a driver holds them)."""
    alive = members(leader)
    send(alive, signal.SIGSTOP)  # else a file that one makes after the look at /dev/shm, and before it ends, would be nobody's
    watch.note(leader)
    send(alive, signal.SIGTERM)
    send(alive, signal.SIGCONT)  # a stopped process hears SIGTERM only when it goes on
    start = time.monotonic()
    deadline = start + grace
    while alive and time.monotonic() < start + grace + 30:
        reap()
        watch.note(leader)
        if main not in alive:
            deadline = min(deadline, time.monotonic() + 2)  # without their head the rest has nothing to finish
        if time.monotonic() >= deadline:
            send(alive, signal.SIGKILL)
        time.sleep(0.05 if time.monotonic() < start + 1 else 0.2)
        alive = members(leader)
    reap()
    return alive


def reap() -> dict[int, int]:
    """Collect the children that ended, orphans that fell to us among them: process id -> exit status as a shell counts."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = code if code >= 0 else 128 - code


def supervise(command: list[str], grace: float, parent: int | None, scratch: str | None = None) -> int:
    """Run the command until it ends or has to be stopped, then remove its folder for temporary files; returns the exit status."""
    asked: list[int] = []
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: asked.append(n))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    watch, made = SharedMemoryWatch(), tell_of_new_files(SHM)  # a process may die sooner after it made a file than the next tick
    main, status, reason = spawn(command), None, ""
    while not reason:
        ended = reap()
        readable = select.select([0, wake_read, *made], [], [], 0 if main in ended else TICK)[0]
        if main in ended:
            status, reason = ended[main], f"the command ended with status {ended[main]}"
        elif asked:
            reason = f"got {signal.Signals(asked[0]).name}"
        elif (0 in readable and not os.read(0, 4096)) or (parent is not None and os.getppid() != parent):
            reason = "our parent is gone"
        elif made and made[0] in readable:
            os.read(made[0], 2**16)  # before the look: what is made during it causes the next
            watch.note(os.getpid())
            time.sleep(PAUSE)
        else:
            watch.note(os.getpid())
        if wake_read in readable:
            os.read(wake_read, 4096)
    left = stop(os.getpid(), main, grace, watch)
    removed = watch.remove()
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
    _say(
        reason
        + (f"; processes {left} cannot be killed" if left else "; no process left")
        + (f"; removed {', '.join(removed)} from {SHM}" if removed else "")
    )
    return 128 + signal.SIGTERM if status is None else status


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _say(text: str) -> None:
    os.write(2, f"[supervise] {text}\n".encode())


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run a command; stop it and all that it started when our standard input closes.")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--parent", type=int, help="stop as well when this is no longer our parent process")
    parser.add_argument("--scratch", help="folder that the command alone uses; removed after it")
    parser.add_argument("command", nargs="+", help="put -- before it")
    arguments = parser.parse_args()
    return supervise(arguments.command, arguments.grace, arguments.parent, arguments.scratch)


if __name__ == "__main__":
    sys.exit(main())
