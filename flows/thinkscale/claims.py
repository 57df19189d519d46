"""Who is working on which slice: several runs of one experiment share what is owed, and none does what a living other is doing.

Why: replicas of a model, and two sweeps of one experiment, would otherwise draw everything twice. A claim is a small file that only one
can create; each process rewrites one file of its own, the beat, every few seconds. Whoever sees a beat stand still for `timeout` seconds
*by its own clock* may take over, by creating the claim's next generation: again only one can. Clocks of two machines are never compared.
A process of this very machine that is gone is known to be so at once. What it does not do: keep a frozen owner from waking up; it then
finds the next generation, and `Guarded` stores publish nothing for it (and could not replace anything: parts have the names of their work).

    claims/<slice>.<generation>.json   {"owner": token}, or {"owner": null} once released; the last generation counts
    claims/owner-<token>.json          the beat: who, where, and a number that grows
"""

import asyncio
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass, fields
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from upath import UPath

from thinkscale import files
from thinkscale.schema import TableName
from thinkscale.store import Store

log = logging.getLogger(__name__)

FOLDER = "claims"

T = TypeVar("T")


class ClaimLost(RuntimeError):
    """Somebody took our slice over: our beat stood still for too long (the process was frozen, or the storage away)."""


@dataclass(frozen=True)
class Owner:
    """A process that works on an experiment, as its beat file says."""

    token: str
    model: str
    host: str
    machine: str
    pid: int
    started: int
    """Ticks since boot, see `files.started`."""
    timeout: float
    """Seconds of silence after which others may take over; it beats six times as often."""
    logs: str
    """Folder of its engine's logs, on its machine."""
    run: str
    """Id of the flow run, for who started it; empty where there is none."""

    @property
    def gone(self) -> bool:
        """Certainly dead: it was a process of this machine, which has it no more. False: nothing is known."""
        return self.machine == files.machine() and not files.is_running(self.pid, self.started)


class Beat(NamedTuple):
    """What a beat file says."""

    number: int
    """Grows while its process lives."""
    owner: Owner
    slices: tuple[str, ...]
    """Labels of what it works on."""


class Claim(NamedTuple):
    """The last generation of a slice's claim."""

    generation: int
    owner: str | None
    """Token; None: free."""


class Held(NamedTuple):
    """A slice that this process has claimed."""

    generation: int
    label: str


class Claims:
    """This process's claims on the slices of an experiment; `with Claims(...) as claims`. Methods may be called from any thread."""

    def __init__(self, store: Store, model: str, timeout: float, logs: str = "", run: str = "") -> None:
        me = os.getpid()
        self.folder = store.root / FOLDER
        self.timeout = timeout
        host, machine = socket.gethostname(), files.machine()
        self.owner = Owner(os.urandom(8).hex(), model, host, machine, me, files.started(me), timeout, logs, run)
        self._held: dict[str, Held] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._there_since = 0.0  # the storage, as far as we know by our own beat
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True, name="claims")
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="claim")

    def __enter__(self) -> Self:
        self._beat(0)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._turns.shutdown()  # what waits its turn is done first
        self._ending.set()
        self._thread.join()
        try:
            for slice_id in list(self._held):
                self.release(slice_id)
        except OSError as e:
            log.warning("claims could not be given back (%s); they are nobody's once this run's beat is gone", e)
        try:  # also on a full disk; and what the work failed of is to be told, not this
            files.remove(self._beat_file(self.owner.token))
        except OSError as e:
            log.warning("this run's beat could not be deleted (%s); others take over after %g s", e, self.timeout)

    async def in_turn(self, do: Callable[..., T], *arguments: Any) -> T:
        """What a call returns that is made after all that were asked for before: in one thread, and made even where we are cancelled.

        Else a release that waits its turn would be dropped, and who looks what is free would still see it claimed.
        """
        as_here = partial(copy_context().run, do, *arguments)
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._turns, as_here))

    @asynccontextmanager
    async def hold(self, slice_id: str, label: str) -> AsyncIterator[bool]:
        """Hold a slice within the block; False where a living other has it. Given back even where we are cancelled while taking it."""
        try:
            yield await self.in_turn(self.take, slice_id, label)
        except BaseException:
            try:
                await self.in_turn(self.release, slice_id)
            except OSError as e:  # what the work failed of is to be told, not this
                log.warning("%s could not be given back (%s)", label, e)
            raise
        await self.in_turn(self.release, slice_id)

    def take(self, slice_id: str, label: str) -> bool:
        """Claim a slice; False where a living other has it.

        Args:
            label: for people, see `owners`.
        """
        last = _last(_by_slice(files.listed(self.folder, ".json", f"{slice_id}.")).get(slice_id, {}))
        if not self._is_open(slice_id, last):
            return False
        mine = Claim(last.generation + 1, self.owner.token)
        files.put_new(self._file(slice_id, mine.generation), json.dumps({"owner": mine.owner}).encode())
        self._held[slice_id] = Held(mine.generation, label)
        if self._is_ours(slice_id):  # read back: a put that was sent again after a lost answer loses against itself
            return True
        del self._held[slice_id]
        return False

    def free(self, slice_ids: Iterable[str]) -> set[str]:
        """Those of them that nobody has claimed, or whose owner is dead; by one look at the folder."""
        return self._free(slice_ids, _by_slice(files.listed(self.folder, ".json")))

    def check(self, slice_id: str) -> None:
        """Raise ClaimLost where a slice that we claimed is not ours any more."""
        if not self._is_ours(slice_id):
            raise ClaimLost(f"slice {slice_id}: another run took it over, since nothing was heard of this one for {self.timeout:g} s.")

    def release(self, slice_id: str) -> None:
        """Let others have it; nothing happens where we have it not."""
        if slice_id not in self._held:
            return
        try:
            if self._is_ours(slice_id):
                files.put_new(self._file(slice_id, self._held[slice_id].generation + 1), json.dumps({"owner": None}).encode())
        finally:
            del self._held[slice_id]

    def forget(self, slice_ids: set[str]) -> None:
        """Delete the claims on slices that nothing is owed of, unless somebody holds them, and the beats of owners known to be dead."""
        there = files.listed(self.folder, ".json")
        for path in there:
            beat = heard(path) if path.name.startswith("owner-") else None
            if beat is not None and beat.owner.token != self.owner.token and self._is_silent(beat):
                files.remove(path)
        claimed = _by_slice(there)
        for slice_id in self._free(slice_ids & claimed.keys(), claimed):
            for path in claimed[slice_id].values():  # not what has come since: that is a new claim
                files.remove(path)

    def _free(self, slice_ids: Iterable[str], claimed: Mapping[str, Mapping[int, UPath]]) -> set[str]:
        return {slice_id for slice_id in slice_ids if self._is_open(slice_id, _last(claimed.get(slice_id, {})))}

    def _is_open(self, slice_id: str, last: Claim) -> bool:
        if last.owner == self.owner.token:  # not held: we could not say that we gave it back, or that we took it
            return slice_id not in self._held
        return last.owner is None or self._is_dead(last.owner)

    def _is_ours(self, slice_id: str) -> bool:
        generation = self._held[slice_id].generation
        said = _read(self._file(slice_id, generation))
        return said == {"owner": self.owner.token} and _read(self._file(slice_id, generation + 1)) is None

    def _is_dead(self, token: str) -> bool:
        beat = heard(self._beat_file(token))
        return beat is None or self._is_silent(beat)  # the beat is there before the first claim and goes after the last

    def _is_silent(self, beat: Beat) -> bool:
        if beat.owner.gone:
            return True
        now = time.monotonic()
        number, since = self._seen.setdefault(beat.owner.token, (beat.number, now))
        if number != beat.number:
            self._seen[beat.owner.token] = (beat.number, now)
            return False
        return now - max(since, self._there_since) > max(self.timeout, beat.owner.timeout)  # while it was away nobody could beat

    def _file(self, slice_id: str, generation: int) -> UPath:
        return self.folder / f"{slice_id}.{generation}.json"

    def _beat_file(self, token: str) -> UPath:
        return self.folder / f"owner-{token}.json"

    def _beat(self, number: int) -> None:
        said = {"beat": number, "owner": asdict(self.owner), "slices": [held.label for held in list(self._held.values())]}
        files.put(self._beat_file(self.owner.token), json.dumps(said).encode())

    def _keep_beating(self) -> None:
        number, pool, last = 0, ThreadPoolExecutor(1, thread_name_prefix="beat"), time.monotonic()
        while not self._ending.wait(self.timeout / 6):
            number += 1
            failure = pool.submit(self._beat, number).exception()  # of whatever kind the storage's driver raises
            if failure is not None:  # storage that comes back in time costs nothing; otherwise `check` finds out
                log.warning("the beat of this run could not be written: %s", failure)
                self._there_since = math.inf
                continue
            now = time.monotonic()
            if self._there_since > now or now - last > self.timeout / 2:
                self._there_since = now
            last = now


class Seen(NamedTuple):
    """A process that works on an experiment, as seen from outside."""

    owner: Owner
    slices: tuple[str, ...]
    """Labels of what it works on."""
    beat: int
    """Grows while it lives."""
    silent: float
    """Seconds since the last beat by the filesystem's own clock; NaN in an object store."""
    file: UPath
    """Its beat."""


def heard(path: UPath) -> Beat | None:
    """A beat; None where it is gone, or no beat as we know it (another version of this project may say more of its owner)."""
    try:
        said = _read(path) or {}
        owner = Owner(**{field.name: said["owner"][field.name] for field in fields(Owner)})
        return Beat(said["beat"], owner, tuple(said["slices"]))
    except (KeyError, TypeError):
        return None


def at_work(store: Store) -> list[Seen]:
    """Who works on an experiment; processes that certainly ended are left out, others may have died `silent` seconds ago."""
    folder = store.root / FOLDER
    beats = [(path, beat) for path in files.listed(folder, ".json", "owner-") if (beat := heard(path)) and not beat.owner.gone]
    there = files.now(folder) if beats and files.is_local(store.root) else float("nan")
    return [Seen(beat.owner, beat.slices, beat.number, files.age(path, there), path) for path, beat in beats]


def _by_slice(paths: Iterable[UPath]) -> dict[str, dict[int, UPath]]:
    """Slice -> generation -> file, of the claims among these files."""
    found: dict[str, dict[int, UPath]] = {}
    for path in paths:
        slice_id, generation, *_ = path.name.split(".")
        if generation.isdecimal():  # else a beat
            found.setdefault(slice_id, {})[int(generation)] = path
    return found


def _last(generations: Mapping[int, UPath]) -> Claim:
    """The claim that counts; generation 0 where there is none."""
    if not generations:
        return Claim(0, None)
    last = max(generations)
    said = _read(generations[last])
    return Claim(last, None if said is None else said.get("owner"))


def _read(path: UPath) -> dict[str, Any] | None:
    try:
        said = json.loads(files.read(path))
    except (FileNotFoundError, ValueError):  # gone since it was listed; or not ours
        return None
    return said if isinstance(said, dict) else None


class Guarded(Store):
    """A store that asks, before it publishes, whether its user may still."""

    def __init__(self, store: Store, check: Callable[[], None]) -> None:
        super().__init__(store.root)
        self._store, self._check = store, check
        self._kept, self._trace_set_of = store._kept, store._trace_set_of  # what it knows of its parts

    def publish(self, table: TableName, name: str, rows: Iterable[Mapping[str, Any]], *, replace: bool = False, **meta: Any) -> bool:
        """As `Store.publish`. Raises what the check raises."""
        self._check()
        return self._store.publish(table, name, rows, replace=replace, **meta)
