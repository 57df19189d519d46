"""One model, all it owes: start its engine once, run its shards, start again when the engine fails, stop it.

Why: starting an engine costs minutes, so a model starts once for all its cells; a dead or hung engine must cost no more than the shards
that were in flight. Several runs share the shards by claims; a run that is told to end (SIGTERM: the job is preempted) finishes what it
can in seconds. What it does not do: schedule models (the flows do), decide what is owed (`plan`).
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

from thinkscale import files, loss, serving
from thinkscale.calls import check_tool
from thinkscale.claims import ClaimLost, Claims, Guarded
from thinkscale.config import digest
from thinkscale.drain import Drain, drain_on_sigterm
from thinkscale.endpoint import Client, Endpoint, EngineFailure
from thinkscale.fanout import largest_first
from thinkscale.generate import Generator, Room
from thinkscale.grading import check_graders
from thinkscale.mend import mend, settle
from thinkscale.metering import FLUSH_SECONDS, Meter
from thinkscale.plan import FIRST, Study, owed_now, owed_shards, slice_ids
from thinkscale.prompting import boundary, check_alphabet, check_levels, wait_ids, written
from thinkscale.routes import native_flags, tool_flags
from thinkscale.shards import Shard, ShardDone, run_shard
from thinkscale.store import Store, StoreError

log = logging.getLogger(__name__)

SHARDS_AT_ONCE = 2
"""The next shard's traces fill the engine while the last answers of this one come in."""
REPORT_SECONDS = 5.0

FIRST_WAIT, WAIT_SECONDS = 0.1, 2.0
"""Between looks at claims of others, while they do all that is owed: first and at most. Who waits for a last shard looks soon, who waits
for hours does not keep the storage busy."""

RunShard = Callable[[Shard, Generator, Store], Awaitable[ShardDone]]


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

    async def report(self, meter: Meter) -> None:
        """Say it, and keep what the meter has, until cancelled."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            log.info("%s", self)
            await asyncio.to_thread(meter.flush, FLUSH_SECONDS)


def engine_seed(study: Study, model: str, shards: list[Shard], process: str = "") -> int:
    """Seed of one engine start. It depends on what is owed: an engine that starts again must not draw the same samples again.

    And on the process: engines that work side by side on one experiment must not draw with the same random numbers, or what they draw for
    different problems would be correlated.
    """
    owed = [(s.trace_set.trace_set_id, s.draw[:1], s.extend[:1], s.answers[:1], s.sequences) for s in shards]
    return int(digest([study.config.engine.seed, model, owed, process]), 16) % 2**31


def start_engine(study: Study, model: str, shards: list[Shard]) -> serving.Running:
    """Start the model's engine and return at once (the caller stops it)."""
    entry = study.catalogue.models[model]
    if study.config.thinking.route == "native":
        entry = entry.model_copy(update={"engine_args": (*entry.engine_args, *native_flags(entry))})
    if study.config.thinking.route == "tools":
        entry = entry.model_copy(update={"engine_args": (*entry.engine_args, *tool_flags(entry))})
    return serving.start(
        entry,
        study.config.engine,
        study.logs,
        seed=engine_seed(study, model, shards, f"{files.machine()} {os.getpid()}"),
        on_progress=lambda line: log.info("%s", line),
    )


def check_input(study: Study) -> None:
    """Raise ConfigError, before an engine starts, for problems, prompts or a text for the loss that are none."""
    study.check(fetch=True)
    if study.config.loss is not None:
        loss.documents(study.config.loss)


def start_first(study: Study) -> dict[str, serving.Running]:
    """Start the engine of the first model that owes something: it may come up while Prefect does. Raises ConfigError before."""
    check_input(study)
    for model in largest_first(study):
        shards = owed_shards(study, model)
        if shards:
            return {model: start_engine(study, model, shards)}
    return {}


async def evaluate(study: Study, model: str, do_shard: RunShard = run_shard, early: serving.Running | None = None, run_id: str = "") -> int:
    """Do all that a model owes, or see it done by others.

    Args:
        do_shard: runs one shard and publishes in the store that it is given (a flow passes its task).
        early: an engine of this model that was already started.
        run_id: of the flow run, which whoever started it knows us by (see `fanout`).
    Returns: how many shards were run here.
    Raises: EngineFailure after `max_restarts` restarts, Preempted, what a shard raises, or what a grader lacks here.
    """
    await asyncio.to_thread(check_input, study)
    await asyncio.to_thread(files.check, study.store.root)
    timeout = study.config.engine.claim_timeout
    with drain_on_sigterm(model) as drain, Claims(study.store, model, timeout, str(study.logs), run_id) as claims:
        run = Run(study, model, claims, drain, do_shard)
        try:
            await asyncio.to_thread(check_graders, {study.known[benchmark].grader for benchmark in study.config.benchmarks})
            ran, restarts = 0, 0
            while (owed := await claims.in_turn(run.look)).shards or owed.loss:
                try:
                    ran += await run.some(owed, early)
                except EngineFailure as e:
                    restarts += 1
                    if restarts > study.config.engine.max_restarts:
                        raise
                    again = f"Starting the engine again ({restarts} of at most {study.config.engine.max_restarts}); finished shards stay."
                    log.warning("%s\n%s", e, again)
                early = None
        finally:
            if early is not None:
                await asyncio.to_thread(early.stop)
        log.info("%s: nothing owed", model)
        await claims.in_turn(claims.forget, run.slices)
        return ran


class Owed(NamedTuple):
    """What a model owes."""

    shards: list[Shard]
    free: list[Shard]
    """Of them those that nobody is at work on: an engine may be started for them."""
    loss: bool
    """Whether its loss is owed, too."""


@dataclass
class Run:
    """One model's evaluation by this process."""

    study: Study
    model: str
    claims: Claims
    drain: Drain
    do_shard: RunShard
    done: set[int] = field(default_factory=set)
    """Work that was done here (`Shard.work`)."""
    damage: int = -1
    """How many files were in quarantine when all parts were looked at; -1: never."""

    @cached_property
    def slices(self) -> set[str]:
        """All that the model's work is claimed by."""
        return slice_ids(self.study, self.model)

    def look(self) -> Owed:
        """What is owed now. Raises as `owed`.

        Free is what nobody had claimed before the disk was read (else it may be done since, and an engine started for nothing) nor after.
        """
        before, shards = self.claims.free(self.slices), self.owed()
        free = before & self.claims.free([shard.slice_id for shard in shards])
        return Owed(shards, [shard for shard in shards if shard.slice_id in free], loss.is_owed(self.study, self.model))

    def owed(self) -> list[Shard]:
        """What is owed now. Raises StoreError where a shard that was done here is owed as before: nothing would ever end it."""
        if self.damage != self._damage():
            mend(self.study, [self.model])
            self.damage = self._damage()
        else:  # all was read when we began, and nothing was found broken since
            settle(self.study)
        shards = owed_shards(self.study, self.model)
        for shard in shards:
            if shard.work in self.done:
                raise StoreError(
                    f"{self.model}: {shard.label} was done and still owes {shard.sequences:,} completions: what was written is gone, or "
                    f"another part has its name. Look into {self.study.store.root}, then run again."
                )
        return shards

    def _damage(self) -> int:
        return len(self.study.store.quarantined())

    async def some(self, owed: Owed, early: serving.Running | None) -> int:
        """Run the shards that nobody else has claimed; if others have them all, wait until one is free. Returns how many were run.

        No shards: only the loss is owed.
        """
        shards, free = owed.shards, owed.free
        if free or not shards:
            meter = Meter(self.study.store, self.model, self.claims.owner.host, self.study.catalogue.models[self.model].gpus)
            async with _serving(self.study, self.model, free, early, meter) as endpoint:
                return await self._all(free, endpoint, meter)
        log.info("%s: other runs are at work on all %d shards that are owed; waiting", self.model, len(shards))
        if early is not None:
            await asyncio.to_thread(early.stop)
        await until_free(self.claims, [shard.slice_id for shard in shards], self.drain)
        return 0

    async def _all(self, shards: list[Shard], endpoint: Endpoint, meter: Meter) -> int:
        entry, engine = self.study.catalogue.models[self.model], self.study.config.engine
        rounds = self.study.config.stop is not None  # what is owed is the next round's; at most it is every sample, and an answer to each
        progress = Progress(self.model, sum(2 * len(s.problems) * s.trace_set.num_samples if rounds else s.sequences for s in shards))
        async with Client(endpoint, request_timeout=engine.request_timeout) as client:
            await self._loss(client)
            tags, room, cap = await boundary(client, entry), Room(engine.concurrency), self.study.config.answer_tokens
            waits = {s.trace_set.route.wait for s in shards}
            wait = {text: await wait_ids(client, entry, text) for text in waits}
            for tool in {tool for s in shards if (tool := s.trace_set.route.tool) is not None}:
                await check_tool(client, entry.name, tool)
            if self.study.config.thinking.route == "effort":
                await check_levels(client, {str(t.route): t.model for t in self.study.trace_sets(self.model)})
            await self._readable(client, shards)
            places = asyncio.Semaphore(SHARDS_AT_ONCE)

            def drawn(trace_set_id: str, sequences: int, tokens: int) -> None:
                progress.drawn(sequences, tokens)
                meter.drawn(trace_set_id, tokens)

            async def one(shard: Shard) -> bool:
                t, set_id = shard.trace_set, shard.trace_set.trace_set_id
                count = partial(drawn, set_id)
                generator = Generator(client, t.model, tags, t.sampling, engine, cap, room, count, t.route, wait[t.route.wait])
                async with places:
                    if self.drain.asked:
                        return False
                    with meter.at_work(set_id):
                        return await self._one(shard, generator)

            reporter = asyncio.create_task(progress.report(meter))
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(shard)) for shard in shards]
            except BaseExceptionGroup as failures:
                raise _worst(failures) from failures
            finally:
                reporter.cancel()
        log.info("%s", progress)
        self.drain.check()
        return sum(task.result() for task in tasks)

    async def _readable(self, client: Client, shards: Sequence[Shard]) -> None:
        """Raise ValueError, before anything is drawn, where the model's tokenizer cannot write what it is to be asked or scored on."""
        for name in dict.fromkeys(s.benchmark.name for s in shards):
            problems = self.study.problems(name)[:FIRST]
            await check_alphabet(client, self.model, f"the questions of {name}", ["\n".join(p.question for p in problems)])
            if self.study.config.gold_logprob:
                for text in dict.fromkeys(t for p in problems for t in (p.answer, *p.letters)):
                    await written(client, text, self.model)

    async def _loss(self, client: Client) -> None:
        """Measure the loss that the experiment asks for. Not claimed: of two that measure it the first stays."""
        text, entry = self.study.config.loss, self.study.catalogue.models[self.model]
        if text is not None and await asyncio.to_thread(loss.is_owed, self.study, self.model):
            bits = await loss.measure(self.study.store, text, entry, self.study.config.engine, client)
            log.info("%s: %s: %.4f bits per byte", self.model, text.text, bits)

    async def _one(self, shard: Shard, generator: Generator) -> bool:
        """Run one shard if it is ours to run; False where others have it, or had it."""
        try:
            async with self.claims.hold(shard.slice_id, shard.label) as ours:
                if not ours:
                    return False
                shard = await asyncio.to_thread(owed_now, self.study, shard)
                if not shard.sequences:
                    return False
                guarded = Guarded(self.study.store, partial(self.claims.check, shard.slice_id))
                done = await self._rounds(shard, generator, guarded)
        except ClaimLost as e:
            log.warning("%s: %s: %s Its work here is forgotten.", self.model, shard.label, e)
            return False
        log.info("%s: %s done, %s of %s answers correct", self.model, shard.label, f"{done.correct:,}", f"{done.answers:,}")
        return True

    async def _rounds(self, shard: Shard, generator: Generator, store: Store) -> ShardDone:
        """Run a shard, and again while its votes ask for more samples: once where drawing does not stop early."""
        total = ShardDone(0, 0, 0)
        while shard.sequences and not (total.answers and self.drain.asked):
            total = ShardDone(*map(sum, zip(total, await self.do_shard(shard, generator, store), strict=True)))
            self.done.add(shard.work)
            if self.study.config.stop is None:
                break
            shard = await asyncio.to_thread(owed_now, self.study, shard)
            if shard.work in self.done:
                break  # said by `owed`
        return total


async def until_free(claims: Claims, slice_ids: Sequence[str], drain: Drain) -> None:
    """Wait until one of these slices is nobody's. Raises Preempted where we are told to end."""
    wait = FIRST_WAIT
    while not drain.asked and not await claims.in_turn(claims.free, slice_ids):
        await asyncio.sleep(wait)
        wait = min(1.5 * wait, WAIT_SECONDS)
    drain.check()


@asynccontextmanager
async def _serving(study: Study, model: str, shards: list[Shard], early: serving.Running | None, meter: Meter) -> AsyncIterator[Endpoint]:
    running = early or start_engine(study, model, shards)
    running.on_metrics = meter.heard
    try:
        yield await asyncio.to_thread(running.wait_ready)
    finally:
        await asyncio.to_thread(running.stop)
        await asyncio.to_thread(meter.flush)


def _worst(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of the failures of several shards the one that decides what happens next: a lost engine explains the rest."""
    lost, rest = failures.split(EngineFailure)
    return (lost or rest or failures).exceptions[0]
