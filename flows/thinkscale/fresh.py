"""Folders for runs that only ask whether everything still works: each draws everything again, and leaves nothing behind if it does.

Why: where nothing is owed no engine starts, so a sweep of every night that kept its results would test nothing from the second night on.
What it does not do: touch a folder that is not its own; a run that failed leaves its folder for people to look at, and to delete.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from upath import UPath

from thinkscale import files

log = logging.getLogger(__name__)


@contextmanager
def fresh_folder(results: str) -> Iterator[str]:
    """A new folder within `results`, named with the date, that no other run has; removed when the block ends well."""
    own = files.place(f"{results.rstrip('/')}/fresh-{datetime.now(UTC):%Y-%m-%d-%H%M%S}-{os.urandom(4).hex()}")
    try:
        yield str(own)
    except BaseException:
        with suppress(OSError):
            if own.exists():
                log.warning("%s: what was drawn before this run failed stays here; delete it when you have looked at it", own)
        raise
    try:
        _remove(own)
    except OSError as e:  # an engine that is just ending may hold its log open on a network filesystem: everything worked all the same
        log.warning("%s: cannot be removed (%s); nobody needs it", own, e)


def _remove(own: UPath) -> None:
    if files.is_local(own):
        shutil.rmtree(own)
    else:
        own.fs.rm(own.path, recursive=True)
