"""Runs programs that models wrote, so that they can do no harm, and says what they did.

Why: code benchmarks run what a model writes. Each program gets a process of its own, shut in by `jail`, with an empty environment, closed
files, a deadline, and a bound on what is read of its output; its tests run in another, so that it has no say in what they find. Where the
kernel does not hold it, `check` refuses code benchmarks: there is no way to run them unprotected. That the door was shut is said by the
process itself before the program starts; where it does not come, that is our failure and an error, never a wrong answer.
What it does not do: find the program in a text, count credit (see `programs`).
"""

import contextlib
import functools
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JAIL = Path(__file__).with_name("jail.py")
MEGABYTE = 2**20


class SandboxError(RuntimeError):
    """Programs cannot be shut in here, or a process for one did not come up."""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    memory_mb: int = 512
    cpu_seconds: int = 5
    seconds: float = 20.0
    """From when it starts; sleeping counts."""
    start_seconds: float = 120.0
    """For the process to come up on a busy machine."""
    output_bytes: int = 2**20
    """Of what it returns."""


LIMITS = Limits()


def returned(program: str, entry_point: str, calls: list[list[Any]], limits: Limits = LIMITS) -> list[list[Any]]:
    """What a program's function returns for each list of arguments, as [value]; [] where it fails. Raises SandboxError."""
    found = _run({"program": program, "entry_point": entry_point, "calls": calls}, limits)
    right = isinstance(found, list) and len(found) == len(calls) and all(isinstance(f, list) for f in found)
    return found if right else [[] for _ in calls]


def passed(program: str, gold: str, names: list[str], tests: list[str], limits: Limits = LIMITS) -> list[bool]:
    """Which of the tests hold after a program; each is Python that fails by raising. Raises SandboxError.

    Args:
        gold: a program that passes them, which they take all from but `names`.
        names: functions and classes that they take from the program.
    """
    found = _run({"program": program, "gold": gold, "names": names, "tests": tests}, limits)
    if not (isinstance(found, list) and len(found) == len(tests)):
        return [False for _ in tests]
    uncarried = next((f for f in found if isinstance(f, str)), None)
    if uncarried:
        raise SandboxError(
            f"a hidden test gives the program an object of type '{uncarried}', which cannot be carried into its process. "
            "Write the test with plain values, functions, or objects of classes that it defines."
        )
    return [f is True for f in found]


def _run(job: dict[str, Any], limits: Limits) -> Any:
    """The jail's answer, None where the program did not come to its end."""
    word = secrets.token_hex(16)
    sent = json.dumps({**job, "word": word, "memory": limits.memory_mb * MEGABYTE, "cpu_seconds": limits.cpu_seconds}).encode() + b"\n"
    process = subprocess.Popen(
        [sys.executable, "-P", "-s", "-S", str(JAIL)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},  # nothing of ours; the order of sets is the same each time
        cwd="/",
        start_new_session=True,
    )
    said = b""
    try:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: said below
            process.stdin.write(sent)
            process.stdin.flush()
        said = _read(process.stdout.fileno(), limits, f"{word} ".encode())
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]
        if not said:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()  # it ends and reaps its two children first: no orphan is left
        process.stdout.close()  # type: ignore[union-attr]
    lines = [line.removeprefix(f"{word} ") for line in said.decode(errors="replace").split("\n") if line.startswith(f"{word} ")]
    if lines[:1] != ["shut"]:
        why = lines[0] if lines else f"its process did not come up in {limits.start_seconds:g} s (exit code {process.returncode})"
        raise SandboxError(f"the program of a model was not run: {why}. On an overloaded machine, try again; otherwise see sandbox.check.")
    try:
        return json.loads(lines[1]) if len(lines) > 1 and said.endswith(b"\n") else None
    except (ValueError, RecursionError):  # the program found a way to write where only we should
        return None


def _read(descriptor: int, limits: Limits, word: bytes) -> bytes:
    """What the process writes until it ends, its time is up or it has written too much."""
    said, deadline, started = b"", time.monotonic() + limits.start_seconds, False
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(said) <= limits.output_bytes and selector.select(max(0.0, deadline - time.monotonic())):
            more = os.read(descriptor, 65536)
            if not more:
                break
            said += more
            if not started and said.startswith(word + b"shut\n"):
                started, deadline = True, time.monotonic() + limits.seconds
            if time.monotonic() > deadline:
                break
    return said


_REFUSED = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nassert libc.syscall({}, 0, 0, 0) != -1 or ctypes.get_errno() != 1"
SELF_TESTS = {
    "open a file": "open('/etc/passwd').close()",
    "start a process": "import os; os.fork()",
    "start a thread": "import threading; threading.Thread(target=int).start()",
    "take a gigabyte": "bytes(2**30)",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))",
} | {
    f"call {name}": _REFUSED.format(number)  # raw, past Python: the kernel must say EPERM
    for name, number in {
        "open": 2,
        "openat": 257,
        "socket": 41,
        "execve": 59,
        "kill": 62,
        "unlink": 87,
        "ptrace": 101,
        "io_uring": 425,
    }.items()
}
"""Each must fail: a program that can do one of these is not shut in."""
_ATTEMPT = "def attempt(code):\n    exec(code, {})\n    return True"


@functools.cache
def check() -> None:
    """Raise SandboxError where programs, or the tests that judge them, are not held; once per process."""
    codes = [*SELF_TESTS.values(), "assert sum(range(10)) == 45"]
    *in_tests, judges = passed("", "", [], codes)
    *in_program, adds = [found == [True] for found in returned(_ATTEMPT, "attempt", [[code] for code in codes])]
    broken = [name for name, *did in zip(SELF_TESTS, in_tests, in_program, strict=True) if any(did)]
    broken += ["not even add numbers"] * (not (judges and adds))
    if broken:
        raise SandboxError(
            f"code benchmarks are refused on this machine: a program in the sandbox could {', '.join(broken)}. "
            "It needs Linux on x86_64 with seccomp (a container's default profile is enough). "
            "Take the code benchmarks out of the experiment or grade elsewhere."
        )
