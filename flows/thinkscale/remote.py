"""What an object store's driver raises, said in one way; and patience with a store that is away for minutes.

Why: drivers raise errors of a dozen libraries, most of them no OSError, and an outage of minutes must cost neither a run nor the parent
that waits for hundreds. The drivers are optional, so their errors are known by name. What it does not do: judge errors of a disk.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from upath import UPath

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
"""How long a run waits for a store that is away: a restart or a lost link is over by then, and its GPU is idle meanwhile."""
FIRST_WAIT, WAIT_SECONDS = 0.2, 15.0
"""Between two tries: first and at most."""
SAID_AFTER = 1.0
"""Seconds after which it is worth a line in the log."""

_DRIVERS = ("botocore", "aiobotocore", "s3fs", "aiohttp", "gcsfs", "google", "requests", "urllib3", "adlfs", "azure", "fsspec")
_CREDENTIALS = ("Credential", "Token", "SSO", "Refresh")
"""In the name of an error: nothing is there that we could show to the store, or it ran out."""
_AWAY = {"ConnectionError", "HTTPClientError", "ResponseParserError", "IncompleteRead", "ClientConnectionError", "ClientPayloadError"}
_AWAY |= {"TransportError", "FSTimeoutError", "FileExpired"}
_LATER = (408, 409, 425, 429)
"""HTTP: ask again; as are all from 500 on, but 501."""


class StorageError(OSError):
    """An object store that does not answer or refuses: where, what it said and what to do."""

    passing = False
    """It may be over in a while: the store is away or busy."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class Fault(NamedTuple):
    """What kind of error it is."""

    what: str
    hint: str
    passing: bool = False


class Patience:
    """With one store that is away, shared by all who ask it: the first says so, and who comes later does not wait as long again."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.over = seconds, threading.Event()
        self._lock, self._since, self._said = threading.Lock(), 0.0, False

    def wait(self, error: StorageError, seconds: float) -> bool:
        """Wait before the next try; False where there is to be none."""
        with self._lock:
            self._since = self._since or time.monotonic()
            gone = time.monotonic() - self._since
            say, self._said = gone > SAID_AFTER and not self._said, self._said or gone > SAID_AFTER
        if self.over.is_set() or gone > self.seconds:
            return False
        if say:
            log.warning("%s Asking again, for up to %g s.", error, self.seconds)
        return not self.over.wait(min(seconds, self.seconds))

    def answered(self) -> None:
        """Take note that it is back."""
        if self._since:
            with self._lock:
                said, self._since, self._said = self._said, 0.0, False
            if said:
                log.warning("The store of results answers again.")


_PATIENCE: ContextVar[Patience | None] = ContextVar("patience", default=None)


@contextmanager
def patient(seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Within the block (and in threads that have its context) a store that is away is asked again for so long; 0: not at all."""
    patience = Patience(seconds)
    before = _PATIENCE.set(patience if seconds else None)
    try:
        yield
    finally:
        patience.over.set()  # who still waits in a thread is to end, too
        _PATIENCE.reset(before)


def ask(where: UPath, do: Callable[[], T]) -> T:
    """What a store answers. Raises StorageError; FileNotFoundError and FileExistsError are answers, too."""
    patience, wait = _PATIENCE.get(), FIRST_WAIT
    while True:
        try:
            with in_our_words(str(where)):
                found = do()
        except (FileNotFoundError, FileExistsError):
            if patience is not None:
                patience.answered()
            raise
        except StorageError as e:
            if patience is None or not e.passing or not patience.wait(e, wait):
                raise
            wait = min(2 * wait, WAIT_SECONDS)
        else:
            if patience is not None:
                patience.answered()
            return found


@contextmanager
def in_our_words(where: str) -> Iterator[None]:
    """Raise a driver's error as StorageError. What says that a file is there, or is not, stays; as does what no driver raised."""
    try:
        yield
    except Exception as e:
        fault = fault_of(e)
        if fault is None:
            raise
        number = e.errno if isinstance(e, OSError) else None
        said = StorageError(number, f"{fault.what} ({' '.join(str(e).split())[:200] or type(e).__name__}). {fault.hint}", where)
        said.passing = fault.passing
        raise said from e


def fault_of(e: Exception) -> Fault | None:
    """What kind of error it is; None where it is an answer about a file, or none of a store's."""
    kinds = [c for c in type(e).__mro__ if c.__module__.partition(".")[0] in _DRIVERS]
    code, status = _told(e)
    if code == "NoSuchBucket":
        return Fault("there is no such bucket", "Make it, or correct --results.")
    if isinstance(e, StorageError | FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError):
        return None
    if not kinds and not isinstance(e, OSError):
        return None
    if "Token" in code or any(word in kind.__name__ for kind in kinds for word in _CREDENTIALS):
        return Fault(
            "credentials are missing or have expired", "Put new ones into the store's own variables, then run the same command again."
        )
    if isinstance(e, PermissionError) or status in (401, 403):
        return Fault("the store refuses", "See whether the credentials in its variables are right, and may read, write and delete there.")
    away = isinstance(e, ConnectionError | TimeoutError) or any(kind.__name__ in _AWAY for kind in kinds)
    if away or status in _LATER or (status >= 500 and status != 501):
        return Fault("the store does not answer", "Run the same command again once it does; its address is in its own variables.", True)
    return Fault("the store cannot do that", "Look into what it said, then run the same command again.")


def _told(e: Exception) -> tuple[str, int]:
    """What a store said, as code and as HTTP status; empty and 0 where it said nothing."""
    for error in (e, e.__cause__):
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # of S3, which s3fs raises as an OSError with this behind it
            told = response.get("Error", {}).get("Code", ""), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(told[0]), int(told[1])
        status = getattr(error, "status", None) or getattr(error, "code", None)  # of aiohttp; of gcsfs
        if isinstance(status, int):
            return "", status
    return "", 0
