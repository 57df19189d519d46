"""The runs of a sweep in a work pool: submitted, waited for, taken for lost, cancelled when the sweep is stopped.

Why: Prefect's server may be away, slow or forgetful, and what it says of a run late or wrong; the beat in the results folder knows
better.
What it does not do: decide what is submitted, or again (see `fanout`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from thinkscale.claims import at_work
from thinkscale.fanout import CLUSTERS, Ended, resources, work_queue
from thinkscale.listening import Beats, Listener
from thinkscale.plan import Study
from thinkscale.store import Store

log = logging.getLogger("thinkscale.pooled")

POLL_SECONDS = 2.0
PAGE = 200
"""Of how many runs Prefect's API tells at once."""
LOOK_SECONDS = 20.0
"""Between looks at the states of runs, at most."""
BEGIN_SECONDS = 300.0
"""From being taken by a worker to running: Python starts and imports Prefect, on a busy machine."""
OUTAGE_SECONDS = 900.0
"""How long Prefect's API may be away while a run is to be submitted."""
HINT_SECONDS = 60.0
"""How long a run may wait for a worker before we say what it waits for."""
STOP_AT_ONCE = 4
"""Runs cancelled at a time: more of them wait for each other's locks in SQLite."""


@dataclass
class Open:
    """A run that was submitted and has not ended, as far as we know."""

    label: str
    state: State | None = None
    """By the last look; None while the API does not answer."""
    seen: StateType = StateType.SCHEDULED
    """The last that was told."""


class Runs:
    """The runs of a sweep that Prefect's API is told and asked of: hundreds perhaps, so that they share what is asked."""

    def __init__(self) -> None:
        self._turn, self._answered = asyncio.Lock(), 0.0
        self._look, self._next_look = asyncio.Lock(), 0.0
        self._open: dict[UUID, Open] = {}
        self._unseen: str | None = None
        """Key of a run that was being submitted when we were stopped."""
        self._beats: Beats | None = None

    async def submit(self, deployment: str, **run: Any) -> FlowRun:
        """Submit a run once, however often we have to ask.

        One after the other: workers take them in that order, and the dearest is to begin first.
        Raises: ObjectNotFound, httpx.HTTPError.
        """
        key, asked = str(uuid4()), time.monotonic()
        async with self._turn:
            self._unseen = key
            try:
                while True:
                    try:
                        found = await arun_deployment(deployment, **run, timeout=0, idempotency_key=key)
                        self._answered = time.monotonic()
                        self._unseen, self._open[found.id] = None, Open(str(run["flow_run_name"]))
                        return found
                    except httpx.HTTPError as e:
                        refused = isinstance(e, httpx.HTTPStatusError) and e.response.status_code < 500
                        if refused or time.monotonic() - max(asked, self._answered) > OUTAGE_SECONDS:
                            raise
                        log.warning(
                            "Prefect's API does not answer (%s: %s); submitting %s again", type(e).__name__, e, run["flow_run_name"]
                        )
                        await asyncio.sleep(5 * POLL_SECONDS)
            except Exception:
                self._unseen = None  # there is none
                raise

    async def state(self, run: UUID) -> State | None:
        """State of a run by the last look at all that are waited for; None while the API does not answer."""
        there = self._open.setdefault(run, Open(str(run)))
        async with self._look:
            if time.monotonic() >= self._next_look:
                begun = time.monotonic()
                for id, state in (await _states(list(self._open))).items():
                    if known := self._open.get(id):
                        known.state, known.seen = state, known.seen if state is None else state.type
                took = time.monotonic() - begun
                self._next_look = begun + min(
                    max(POLL_SECONDS, 10 * took), LOOK_SECONDS
                )  # a slow server is not asked more than it can answer
        return there.state

    def listener(self, study: Study, run: UUID) -> Listener:
        """Who hears whether a run lives; all of them by the same looks at the results folder."""
        self._beats = self._beats or Beats(study.store, POLL_SECONDS)
        return Listener(self._beats, str(run))

    def forget(self, run: UUID) -> None:
        """It ended: ask of it no more."""
        self._open.pop(run, None)

    @contextmanager
    def cancelled_at_the_end(self, store: Store, command: str, seconds: float) -> Iterator[None]:
        """Cancel what is open when the block ends, which means that we are stopped; say who could not be, and where they work.

        Args:
            command: goes on with what they leave.
            seconds: how long that may take.
        """
        try:
            yield
        finally:
            if self._open or self._unseen:
                left = self._cancel(seconds)
                works = _at_work(store) if left else {}
                for run, why in left.items():
                    where = works.get(str(run), "; nobody there is heard of who works on it")
                    log.warning("%s could not be cancelled (%s)%s", self._open[run].label, why, where)
                log.warning("stopped; %d of %d runs cancelled. To go on: %s", len(self._open) - len(left), len(self._open), command)

    def _cancel(self, seconds: float) -> dict[UUID, str]:
        """Have what is open cancelled, those that work before those that wait; returns why some could not be.

        Not asynchronous: it must also happen while our own event loop is being torn down. No beats are listened to: there is no time.
        """
        first = sorted(self._open, key=lambda run: self._open[run].seen == StateType.SCHEDULED)
        try:
            with get_client(sync_client=True) as client:
                hands = ThreadPoolExecutor(STOP_AT_ONCE)
                # who was called crashed lives, or would not be open: that is a final state, which nobody leaves unless forced to
                asked = {run: hands.submit(_cancel, client, run, force=self._open[run].seen == StateType.CRASHED) for run in first}
                unseen = [hands.submit(_cancel_unseen, client, self._unseen)] if self._unseen else []
                wait([*asked.values(), *unseen], timeout=seconds)
                hands.shutdown(wait=False, cancel_futures=True)
        except (httpx.HTTPError, RuntimeError) as e:  # as Prefect's client says that it reaches no API
            return dict.fromkeys(first, str(e))
        said = {run: _failure(answer, seconds) for run, answer in asked.items()}
        return {run: why for run, why in said.items() if why}


async def in_pool(study: Study, content: dict[str, Any], results: str, runs: Runs, pool: str, model: str, label: str) -> Ended:
    """Submit one run, wait for its end or its silence; if we are stopped before, it stays open."""
    queue = work_queue(pool, study.catalogue.models[model])
    try:
        run = await runs.submit(
            f"evaluate-model/{pool}",
            parameters={"experiment": content, "model": model, "results": results},
            job_variables=resources(study.catalogue.models[model]),
            flow_run_name=f"{label} of {study.config.name}",
            tags=[study.config.name],
            work_queue_name=queue,
        )
    except ObjectNotFound:
        return Ended(
            "failed", f"there is no deployment evaluate-model/{pool}. `python flows/deploy.py POOL` sets up gpu, slurm or kubernetes"
        )
    except httpx.HTTPError as e:
        return Ended("failed", f"Prefect's API did not take the run ({type(e).__name__}: {e})")
    listener, seen, over, claim_timeout = runs.listener(study, run.id), StateType.SCHEDULED, False, study.config.engine.claim_timeout
    patience = {StateType.RUNNING: 2 * claim_timeout, StateType.CANCELLING: 2 * claim_timeout}
    if pool not in CLUSTERS:
        patience[StateType.PENDING] = BEGIN_SECONDS
    hint_at = time.monotonic() + HINT_SECONDS
    try:
        while True:
            state = await runs.state(run.id)
            # Prefect's server takes a run for dead that could not reach it for a while; its beat knows better
            overruled = state is not None and state.is_crashed() and await asyncio.to_thread(listener.lives, claim_timeout)
            if state is not None and state.is_final() and not overruled:
                over = True
                log.info("%s: %s", label, (state.name or state.type.value).lower())
                return ended(state)
            if state is not None and state.type != seen:
                seen = state.type
                log.info("%s: %s%s", label, (state.name or seen.value).lower(), ", says Prefect, but its beat moves" if overruled else "")
                if not overruled:
                    listener.wait_again()
            if seen in patience and await asyncio.to_thread(listener.silence) > patience[seen]:
                await asyncio.to_thread(_declare_crashed, run.id)
                over = True
                return Ended("lost", f"{seen.name.lower()}, and nothing heard of it for {patience[seen]:g} s")
            if state is not None and state.is_scheduled() and time.monotonic() > hint_at:
                hint_at = math.inf
                log.info("%s waits for a worker of pool %s: prefect worker start --pool %s%s", label, pool, pool, _of_queue(pool, queue))
            await asyncio.sleep(POLL_SECONDS)
    finally:
        if over:
            runs.forget(run.id)


async def _states(runs: list[UUID]) -> dict[UUID, State | None]:
    """States of runs; None of each while the API does not answer."""
    found: dict[UUID, State | None] = {}
    try:
        async with get_client() as client:
            for some in (runs[start : start + PAGE] for start in range(0, len(runs), PAGE)):
                there = await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=some)), limit=PAGE)
                found |= dict.fromkeys(some, Crashed(message="Prefect's server has this run no more")) | {
                    run.id: run.state for run in there
                }
    except httpx.HTTPError:
        return dict.fromkeys(runs)
    return found


def _declare_crashed(run: UUID) -> None:
    """Of a run that fell silent: it has nobody who could cancel it."""
    with suppress(httpx.HTTPError, ObjectNotFound), get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Crashed(message="fell silent"), force=True)


def _cancel(client: SyncPrefectClient, run: UUID, *, force: bool) -> None:
    client.set_flow_run_state(run, Cancelling(), force=force)


def _cancel_unseen(client: SyncPrefectClient, key: str) -> None:
    """Cancel a run that was being submitted when we were stopped: it is there by now, or in a moment, or never came to be."""
    of_key = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    for _ in range(4):
        for run in client.read_flow_runs(flow_run_filter=of_key):
            client.set_flow_run_state(run.id, Cancelling())
            return
        time.sleep(0.5)


def _failure(answer: Future[None], seconds: float) -> str:
    """Why a run could not be cancelled; nothing where it was."""
    if not answer.done() or answer.cancelled():
        return f"Prefect's API did not answer within {seconds:g} s"
    match answer.exception():
        case None:
            return ""
        case ObjectNotFound():
            return "Prefect's server has this run no more"
        case e:
            return f"Prefect's API: {type(e).__name__}: {e}"


def _at_work(store: Store) -> dict[str, str]:
    """Run -> where it works and how it is stopped there, by its beat."""
    try:
        owners = [seen.owner for seen in at_work(store)]
    except OSError as e:
        log.warning("%s: cannot be asked who works there (%s)", store.root, e)
        return {}
    return {owner.run: f"; it works on {owner.host}; to stop it there: kill {owner.pid}" for owner in owners}


def _of_queue(pool: str, queue: str | None) -> str:
    return "" if pool in CLUSTERS else f" --work-queue {queue or 'default'} --limit 1"


def ended(state: State[Any]) -> Ended:
    """How a run ended, by its last state."""
    if state.is_completed():
        return Ended("completed")
    return Ended("lost" if state.is_crashed() else "failed", (state.message or state.name or "")[-2000:])
