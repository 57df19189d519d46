"""Hears which runs of an experiment live, by their beats in the results folder and our own clock.

Why: schedulers report the death of a run late or never. Hundreds may be listened to, so that one look at the folder serves all who listen.
What it does not do: judge who holds which slice (see `claims`).
"""

import logging
import threading
import time
from typing import NamedTuple

from thinkscale import files
from thinkscale.claims import FOLDER, Owner, heard
from thinkscale.remote import patient
from thinkscale.store import Store

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0
"""Between looks, at most."""


class Beat(NamedTuple):
    """One beat of a process."""

    token: str
    number: object
    """Another one once it was written again."""


class Beats:
    """All beats of an experiment that are there, by one look for all who ask within a while. Asked from any thread."""

    def __init__(self, store: Store, every: float) -> None:
        """Args: every: seconds between two looks; more where one takes long (ten times that, up to `LOOK_SECONDS`)."""
        self.every = every
        self._folder, self._on_disk = store.root / FOLDER, files.is_local(store.root)
        self._lock, self._next_look, self._at = threading.Lock(), 0.0, 0.0
        self._owners: dict[str, Owner] = {}
        self._of_run: dict[str, set[Beat]] | None = {}

    def of(self, run: str) -> tuple[float, set[Beat] | None]:
        """When was looked last, and which beats of a run were there; None where we could not look."""
        with self._lock:
            if time.monotonic() >= self._next_look:
                begun, before = time.monotonic(), self._of_run
                self._of_run = self._looked(said=before is None)
                if before is None and self._of_run is not None:
                    log.warning("%s: beats are heard again", self._folder)
                self._at = time.monotonic()
                self._next_look = begun + max(self.every, min(10 * (self._at - begun), LOOK_SECONDS)) if self.every else 0.0
            return self._at, None if self._of_run is None else self._of_run.get(run, set())

    def _looked(self, said: bool) -> dict[str, set[Beat]] | None:
        try:
            with patient(0):  # whoever listens is to hear that the store is away, not to wait for it
                return self._look()
        except OSError as e:  # the fault is the folder's, or ours: that says nothing about any run
            if not said:
                log.warning("%s: cannot listen for beats (%s); the silence of runs is counted from when that is over", self._folder, e)
            return None

    def _look(self) -> dict[str, set[Beat]]:
        if self._on_disk:  # each is read: network filesystems keep what they know of a file's times for a minute
            versions = dict.fromkeys(path.name for path in files.listed(self._folder, ".json"))
        else:
            versions = files.versions(self._folder, ".json")
        found: dict[str, set[Beat]] = {}
        for name, version in versions.items():
            if not name.startswith("owner-"):
                continue
            owner, number = self._owners.get(name), version
            if owner is None or version is None:
                beat = heard(self._folder / name)
                if beat is None:
                    continue
                owner = self._owners[name] = beat.owner
                number = version or (beat.number,)
            if not owner.gone:
                found.setdefault(owner.run, set()).add(Beat(owner.token, number))
        return found


class Listener:
    """Hears whether one run lives."""

    def __init__(self, beats: Beats, run: str) -> None:
        self.beats, self.run = beats, run
        self._last: set[Beat] = set()
        self._since = self._at = time.monotonic()

    def silence(self) -> float:
        """Seconds without a new beat, as of the last look (a run that is about to begin, or to end, has none)."""
        self._at, found = self.beats.of(self.run)
        if found is None:  # nothing is known of the run
            self.wait_again()
        else:
            if found - self._last:
                self._since = self._at
            self._last = found
        return self.silent

    @property
    def silent(self) -> float:
        """The same, without another look."""
        return max(0.0, self._at - self._since)

    def lives(self, timeout: float) -> bool:
        """Whether its process has not given back its beat, and that moved within so many seconds."""
        return self.silence() <= timeout and bool(self._last)

    def wait_again(self) -> None:
        """Count from now."""
        self._since = time.monotonic()
