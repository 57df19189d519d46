"""SIGTERM: finish what takes seconds, then end as the signal asks.

Why: a preempted cluster job is given about 30 seconds. Requests in flight are worth a few of them, since a finished shard is kept; the
engine's end takes the rest. What it does not do: SIGINT (Ctrl-C ends at once) and SIGKILL, after which `supervise` ends the engine.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0
"""For requests in flight; stopping the engine may take another 12, and 30 is what clusters give."""


class Preempted(RuntimeError):
    """SIGTERM came, and whoever handles it let us live: what was not finished is owed."""


class Drain:
    """Whether we were asked to end."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.asked = False

    def check(self) -> None:
        """Raise Preempted if we were."""
        if self.asked:
            raise Preempted(f"{self.what}: told to end (SIGTERM); what was finished is kept, the rest is owed.")


@contextmanager
def drain_on_sigterm(what: str) -> Iterator[Drain]:
    """While the block runs SIGTERM sets `asked`; ten seconds later the block's task is cancelled; after it the signal has its way.

    Enter it in a task of the main thread's event loop; elsewhere signals cannot be handled and nothing is changed.
    """
    drain = Drain(what)
    if threading.current_thread() is not threading.main_thread():
        yield drain
        return
    loop, task, before = asyncio.get_running_loop(), asyncio.current_task(), signal.getsignal(signal.SIGTERM)
    assert task is not None

    def asked() -> None:
        if not drain.asked:
            drain.asked = True
            log.warning("%s: SIGTERM: no new shard is begun; those under way have %g s", what, DRAIN_SECONDS)
            loop.call_later(DRAIN_SECONDS, task.cancel)

    loop.add_signal_handler(signal.SIGTERM, asked)
    try:
        yield drain
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        if drain.asked:
            os.kill(os.getpid(), signal.SIGTERM)
