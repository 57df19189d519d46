"""Are two mathematical expressions equal? Asked of math-verify, in processes with a time limit.

Why: MATH's answers need algebra (sqrt(8) is 2 sqrt(2)). math-verify keeps its own time by signals, which fail outside a main thread, and
sympy can run for ever; so each question goes to a process that is killed and replaced when its time is up. The question that killed it
comes out as "not equal", and no other is touched. What it does not do: numbers (exact in `grading`), find the answer in the text.
"""

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECONDS = 5.0
"""For one comparison."""
START_SECONDS = 120.0
"""For a process to import sympy on a busy machine."""


class Verdict(NamedTuple):
    """What math-verify says of one answer."""

    equal: bool
    key: str | None
    """Canonical text of the answer, the same for equal writings that sympy prints alike; None where it cannot be read."""


class VerifyError(RuntimeError):
    """math-verify does not come up."""


class Worker:
    """One process that answers questions."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if self._line(START_SECONDS) != "ready":
            self.kill()
            raise VerifyError("math-verify does not start: pip install -e '.[flows]', or see what `python -c 'import math_verify'` says.")

    def ask(self, gold: str, found: str) -> Verdict | None:
        """Compare; None where its time ran out or it died (then it is of no more use)."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps([gold, found]).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._line(SECONDS)
        return Verdict(*json.loads(line)) if line else None

    def _line(self, seconds: float) -> str:
        """Its next line, empty where none comes in time."""
        assert self.process.stdout is not None
        said, deadline = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
                more = os.read(self.process.stdout.fileno(), 65536)
                if not more:
                    return ""
                said += more
        return said.decode().strip() if said.endswith(b"\n") else ""

    def kill(self) -> None:
        """End the process and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


_free: "queue.SimpleQueue[Worker]" = queue.SimpleQueue()
_made = threading.Semaphore(os.cpu_count() or 1)


@contextlib.contextmanager
def _borrowed() -> Iterator[Worker]:
    """A worker that nobody else uses; as many as there are cores."""
    with _made:
        try:
            worker = _free.get_nowait()
        except queue.Empty:
            worker = Worker()
        yield worker
        if worker.process.poll() is None:
            _free.put(worker)


def verify(gold: str, found: str) -> Verdict:
    """Is `found` equal to `gold`? Not equal where the time runs out. Raises VerifyError where math-verify does not come up."""
    with _borrowed() as worker:
        verdict = worker.ask(gold, found)
        if verdict is None:
            worker.kill()
    return verdict or Verdict(False, None)


def close() -> None:
    """End the processes that stand ready (they also end by themselves when this process does)."""
    with contextlib.suppress(queue.Empty):
        while True:
            _free.get_nowait().kill()


def serve() -> None:
    """The process's side: a question per line, an answer per line, until the pipe closes."""
    from math_verify import parse
    from math_verify import verify as equal

    print("ready", flush=True)
    for line in sys.stdin:
        gold, found = (parse(f"${text}$", parsing_timeout=None) for text in json.loads(line))
        is_equal = bool(gold and found and equal(gold, found, timeout_seconds=None))
        print(json.dumps([is_equal, str(found[0]) if found else None]), flush=True)


if __name__ == "__main__":
    serve()
