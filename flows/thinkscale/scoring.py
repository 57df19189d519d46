"""The scorer's run: start its engine once, have it read every part of answers that is owed its scores, stop it.

Why: a scorer reads the answers of all models, so it is served once, after them; like a model's run it shares parts with other runs by
claims, starts its engine again when that fails, and ends within seconds when it is told to.
What it does not do: decide what is owed or what is read (see `scores`), serve anything in another way than `serving` does.
"""

import asyncio
import logging
from functools import partial

from thinkscale import files, serving
from thinkscale.claims import ClaimLost, Claims, Guarded
from thinkscale.drain import Drain, drain_on_sigterm
from thinkscale.endpoint import Client, Endpoint, EngineFailure
from thinkscale.evaluate import SHARDS_AT_ONCE, until_free
from thinkscale.generate import Room
from thinkscale.mend import mend
from thinkscale.metering import Meter
from thinkscale.plan import Study
from thinkscale.scores import OwedPart, owed, score_part, scored
from thinkscale.store import StoreError

log = logging.getLogger(__name__)


async def score(study: Study, run_id: str = "") -> int:
    """Score all answers on disk that are owed it. Returns how many parts were scored here.

    Args: run_id: as of `evaluate.evaluate`.
    Raises: EngineFailure after `max_restarts` restarts, Preempted, what `score_part` raises.
    """
    name = study.config.scorer or ""
    await asyncio.to_thread(files.check, study.store.root)
    with drain_on_sigterm(name) as drain, Claims(study.store, name, study.config.engine.claim_timeout, str(study.logs), run_id) as claims:
        await asyncio.to_thread(mend, study, study.config.models)
        done, restarts, slices = set[str](), 0, set[str]()
        while parts := await asyncio.to_thread(owed, study):
            again = next((part for part in parts if part.name in done), None)
            if again is not None:
                raise StoreError(
                    f"{name}: {again.label} were scored and are owed still: what was written is gone. Look into {study.store.root}."
                )
            slices |= {part.slice_id for part in parts}
            unclaimed = await claims.in_turn(claims.free, [part.slice_id for part in parts])
            done_since = await asyncio.to_thread(scored, study)  # after that look: no engine is started for what others have just done
            free = [part for part in parts if part.slice_id in unclaimed and part.part_name not in done_since]
            drain.check()
            if not free:
                log.info("%s: other runs are at work on all %d parts that are owed; waiting", name, len(parts))
                await until_free(claims, [part.slice_id for part in parts], drain)
                continue
            try:
                await _serve_and_score(study, free, claims, drain, done)
            except EngineFailure as e:
                restarts += 1
                if restarts > study.config.engine.max_restarts:
                    raise
                log.warning("%s\nStarting the engine again (%d of at most %d).", e, restarts, study.config.engine.max_restarts)
        log.info("%s: nothing owed", name)
        await claims.in_turn(claims.forget, slices)
        return len(done)


async def _serve_and_score(study: Study, parts: list[OwedPart], claims: Claims, drain: Drain, done: set[str]) -> None:
    entry, engine = study.catalogue.models[claims.owner.model], study.config.engine
    meter = Meter(study.store, entry.name, claims.owner.host, entry.gpus)
    running = serving.start(entry, engine, study.logs, seed=engine.seed, on_progress=lambda line: log.info("%s", line))
    running.on_metrics = meter.heard
    try:
        endpoint = await asyncio.to_thread(running.wait_ready)
        await _all(study, parts, claims, drain, (endpoint, done))
    finally:
        await asyncio.to_thread(running.stop)
        await asyncio.to_thread(meter.flush)
    drain.check()


async def _all(study: Study, parts: list[OwedPart], claims: Claims, drain: Drain, to: tuple[Endpoint, set[str]]) -> None:
    (endpoint, done), places = to, asyncio.Semaphore(SHARDS_AT_ONCE)
    room = Room(study.config.engine.concurrency)

    async def one(part: OwedPart, client: Client) -> None:
        async with places:
            if drain.asked:
                return
            try:
                async with claims.hold(part.slice_id, part.label) as ours:
                    if not ours or await asyncio.to_thread(study.store.has, "scores", part.part_name):
                        return
                    guarded = Guarded(study.store, partial(claims.check, part.slice_id))
                    count = await score_part(study, part, guarded, client, room)
            except ClaimLost as e:
                log.warning("%s: %s Its work here is forgotten.", part.label, e)
                return
            done.add(part.name)
            log.info("%s: %s %s", endpoint.model, f"{count:,}", part.label)

    async with Client(endpoint, request_timeout=study.config.engine.request_timeout) as client:
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(one(part, client))
        except BaseExceptionGroup as failures:
            lost, rest = failures.split(EngineFailure)
            raise (lost or rest or failures).exceptions[0] from failures
