"""One model, all it owes: start its engine once, run its shards, start again when the engine fails, stop it.

Why: starting an engine costs minutes, so a model starts once for all its cells; a dead or hung engine must cost no more than the shards
that were in flight. What it does not do: schedule models (the flows do), decide what is owed (`plan`).
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from thinkscale import serving
from thinkscale.config import digest
from thinkscale.endpoint import Client, Endpoint, EngineFailure
from thinkscale.generate import Generator, Room, boundary
from thinkscale.plan import Study, owed_shards
from thinkscale.shards import Shard, ShardDone, grade_part, publish_problems, read_problems, run_shard

log = logging.getLogger(__name__)

SHARDS_AT_ONCE = 2
"""The next shard's traces fill the engine while the last answers of this one come in."""
REPORT_SECONDS = 5.0

RunShard = Callable[[Shard, Generator], Awaitable[ShardDone]]


@dataclass
class Progress:
    """Counts what came in and says so every few seconds."""

    model: str
    planned: int
    done: int = 0
    tokens: int = 0
    since: float = field(default_factory=time.monotonic)

    def drawn(self, sequences: int, tokens: int) -> None:
        """Take note of completions that came back."""
        self.done += sequences
        self.tokens += tokens

    def __str__(self) -> str:
        seconds = max(1e-9, time.monotonic() - self.since)
        left = (self.planned - self.done) * seconds / self.done if self.done else float("nan")
        time_left = f"{int(left) // 60}:{int(left) % 60:02d} left" if left == left else "time left unknown"
        return f"{self.model}: {self.done:,} of at most {self.planned:,} completions, {self.tokens / seconds:,.0f} tokens/s, {time_left}"

    async def report(self) -> None:
        """Say it until cancelled."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            log.info("%s", self)


def engine_seed(study: Study, model: str, shards: list[Shard]) -> int:
    """Seed of one engine start. It depends on what is owed: an engine that starts again must not draw the same samples again."""
    owed = [(s.trace_set.trace_set_id, s.draw[:1], s.extend[:1], s.answers[:1], s.sequences) for s in shards]
    return int(digest([study.config.engine.seed, model, owed]), 16) % 2**31


def start_engine(study: Study, model: str, shards: list[Shard]) -> serving.Running:
    """Start the model's engine and return at once (the caller stops it)."""
    return serving.start(
        study.catalogue.models[model],
        study.config.engine,
        study.store.root / "logs",
        seed=engine_seed(study, model, shards),
        on_progress=lambda line: log.info("%s", line),
    )


def start_first(study: Study) -> dict[str, serving.Running]:
    """Start the engine of the first model that owes something: it may come up while Prefect does."""
    for model in study.config.models:
        shards = owed_shards(study, model)
        if shards:
            return {model: start_engine(study, model, shards)}
    return {}


async def evaluate(study: Study, model: str, do_shard: RunShard | None = None, early: serving.Running | None = None) -> int:
    """Do all that a model owes.

    Args:
        do_shard: runs one shard (a flow passes its task); None: straight.
        early: an engine of this model that was already started.
    Returns: how many shards were run. Raises: EngineFailure after `max_restarts` restarts, or what a shard raises.
    """
    run = do_shard or (lambda shard, generator: run_shard(shard, generator, study.store))
    ran, restarts = 0, 0
    while True:
        grade_ungraded(study)
        shards = owed_shards(study, model)
        if not shards:
            log.info("%s: nothing owed", model)
            if early is not None:
                await asyncio.to_thread(early.stop)
            return ran
        for trace_set in study.trace_sets(model):
            publish_problems(study.store, study.known[trace_set.benchmark], study.problems(trace_set.benchmark))
        try:
            async with _serving(study, model, shards, early) as endpoint:
                ran += await _run_all(study, model, shards, run, endpoint)
        except EngineFailure as e:
            restarts += 1
            if restarts > study.config.engine.max_restarts:
                raise
            log.warning(
                "%s\nStarting the engine again (%d of at most %d); finished shards stay.", e, restarts, study.config.engine.max_restarts
            )
        early = None


def grade_ungraded(study: Study) -> int:
    """Grade the parts of answers that a killed run left without grades. Returns how many parts."""
    graded = {p.name for p in study.store.parts("grades")}
    left = [p.stem for p in study.store.parts("answers") if p.name not in graded]
    problems = read_problems(study.store) if left else {}
    for name in left:
        grade_part(study.store, name, study.known, problems)
    return len(left)


@asynccontextmanager
async def _serving(study: Study, model: str, shards: list[Shard], early: serving.Running | None) -> AsyncIterator[Endpoint]:
    running = early or start_engine(study, model, shards)
    try:
        yield await asyncio.to_thread(running.wait_ready)
    finally:
        await asyncio.to_thread(running.stop)


async def _run_all(study: Study, model: str, shards: list[Shard], run: RunShard, endpoint: Endpoint) -> int:
    entry, engine = study.catalogue.models[model], study.config.engine
    progress = Progress(model, sum(s.sequences for s in shards))
    async with Client(endpoint, request_timeout=engine.request_timeout) as client:
        tags = await boundary(client, entry)
        room = Room(engine.concurrency)
        generators = {
            s.trace_set.trace_set_id: Generator(
                client, entry, tags, s.trace_set.sampling, engine, study.config.answer_tokens, room, progress.drawn
            )
            for s in shards
        }
        places = asyncio.Semaphore(SHARDS_AT_ONCE)

        async def one(shard: Shard) -> None:
            async with places:
                done = await run(shard, generators[shard.trace_set.trace_set_id])
                log.info("%s: %s done, %s of %s answers correct", model, shard.label, f"{done.correct:,}", f"{done.answers:,}")

        reporter = asyncio.create_task(progress.report())
        try:
            async with asyncio.TaskGroup() as group:
                for shard in shards:
                    group.create_task(one(shard))
        except BaseExceptionGroup as failures:
            raise _worst(failures) from failures
        finally:
            reporter.cancel()
        log.info("%s", progress)
    return len(shards)


def _worst(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of the failures of several shards the one that decides what happens next: a lost engine explains the rest."""
    lost, rest = failures.split(EngineFailure)
    return (lost or rest or failures).exceptions[0]
