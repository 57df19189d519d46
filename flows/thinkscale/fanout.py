"""Shares an experiment out over runs: one or more for each model, the dearest first; those that are lost are submitted again.

Why: schedulers report the death of a run late or never (a worker that is killed leaves its run "running" for ever), and one model that
fails must not cost the others. A run lives as long as its beat in the results folder moves (`claims`), by our own clock.
What it does not do: start anything itself (the flows pass in how), hold a slot or a lease while it waits.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

from thinkscale import loss, scores
from thinkscale.claims import Claims, at_work
from thinkscale.config import ConfigError, Model
from thinkscale.launch import queue_of_gpus
from thinkscale.outlook import plan
from thinkscale.plan import Study, slice_ids
from thinkscale.schema import TableName
from thinkscale.store import Store

log = logging.getLogger(__name__)


class Ended(NamedTuple):
    """How a run ended."""

    how: Literal["completed", "failed", "lost"]
    """`lost`: it crashed, was preempted or fell silent: what it owes can be done by another."""
    said: str = ""


class Unfinished(RuntimeError):
    """Runs failed, or were lost more often than allowed: says what is owed and the command that finishes it."""


CLUSTERS = ("slurm", "kubernetes")
"""Pools whose runs are taken by a worker and then wait for the cluster, for days perhaps; which gives each the GPUs it needs."""

Launch = Callable[[str, str], Awaitable[Ended]]
"""(model, label of the run) -> how it ended."""


def largest_first(study: Study) -> list[str]:
    """The models of an experiment, the one that owes most FLOPs first: the longest run decides when all is done."""
    flops = dict.fromkeys(study.config.models, 0.0)
    for row in plan(study):
        flops[row.model] += row.flops
    return sorted(study.config.models, key=lambda model: -flops[model])


def resources(model: Model) -> dict[str, Any]:
    """What one run of a model needs of a cluster, as job variables: GPUs, cores and memory of the machine, time limit (if the
    catalogue has one).
    """
    weights = 2 * model.params / 1e9  # bf16; read once through the machine's memory
    found = {"gpus": model.gpus, "cpus": 8 * model.gpus, "memory_gb": 16 + math.ceil(1.2 * weights)}
    return found if model.minutes is None else {**found, "minutes": model.minutes, "seconds": 60 * model.minutes}


def work_queue(pool: str, model: Model) -> str | None:
    """Queue of a pool for one run of a model; None: the default. A worker has the GPUs it was started with, so several have their own."""
    return queue_of_gpus(model.gpus) if pool not in CLUSTERS and model.gpus > 1 else None


async def fan_out(study: Study, launch: Launch, command: str, *, at_once: int, replicas: int, resubmits: int) -> None:
    """Run every model that owes something, then the scorer, if there is one; returns when nothing is owed.

    Args:
        launch: runs one; it may be called again with the same model and another label.
        command: what finishes the experiment, for the message.
        at_once: how many runs are launched at a time (a pool of workers limits them by itself).
        replicas: runs for each model, which share its shards.
        resubmits: how often a lost run that published nothing is launched again; 0: none is. Where something was published since it was
            launched (it was killed at a time limit, say) it is not counted: there is an end to that.
    Raises: Unfinished; ConfigError where there is to be no run.
    """
    if replicas < 1:
        raise ConfigError(f"replicas: {replicas}; at least one run for each model.")
    places, failures, done = asyncio.Semaphore(at_once), list[str](), await asyncio.to_thread(published, study)

    async def one(model: str, name: str) -> None:
        async with places:
            in_vain, again, before = 0, 0, done[model]
            while True:
                ended = await launch(model, f"{name}, again {again}" if again else name)
                if ended.how == "lost" and not await asyncio.to_thread(_owes, study, model):
                    await asyncio.to_thread(_tidy, study, model)
                    return  # what is on disk decides
                if ended.how != "lost" or not resubmits:
                    break
                now = (await asyncio.to_thread(published, study))[model]
                in_vain, again, before = in_vain + (now == before), again + 1, now
                if in_vain > resubmits:
                    break
                log.warning("%s is lost (%s); submitted again", name, ended.said)
            if ended.how != "completed":
                log.warning("%s: %s: %s", name, ended.how, ended.said)
                failures.append(f"{name}: {ended.how}: {ended.said}")

    async with asyncio.TaskGroup() as group:
        for model in largest_first(study):
            for replica in range(1, replicas + 1):
                group.create_task(one(model, model if replicas == 1 else f"{model} {replica} of {replicas}"))
    if study.config.scorer is not None and scores.owed(study):
        async with asyncio.TaskGroup() as group:
            for replica in range(1, replicas + 1):
                name = study.config.scorer
                group.create_task(one(name, name if replicas == 1 else f"{name} {replica} of {replicas}"))
    what = ", ".join(words for _, words in owed(study))
    if what:
        raise Unfinished("\n".join([f"owed: {what}", *failures, f"To finish: {command}"]))


def owed(study: Study) -> list[tuple[str, str]]:
    """Who owes what: (model or scorer, in words)."""
    answers, to_score = dict.fromkeys(study.config.models, 0), dict.fromkeys(study.config.models, 0)
    for row in plan(study):
        answers[row.model] += row.planned - row.on_disk
        to_score[row.model] += row.to_score
    found = [(model, f"{model} {count:,} answers") for model, count in answers.items() if count]
    found += [(model, f"{model} {count:,} gold answers to score") for model, count in to_score.items() if count and not answers[model]]
    found += [(model, f"{model} its loss") for model in answers if loss.is_owed(study, model)]
    scorer, unscored = study.config.scorer, scores.unscored(study)
    return [*found, *([(scorer, f"{scorer} {unscored:,} scores")] if scorer is not None and unscored else [])]


def _owes(study: Study, model: str) -> bool:
    return any(name == model for name, _ in owed(study))


def _tidy(study: Study, model: str) -> None:
    """Remove the claims that a run left whose work is done, as it would have done itself (the scorer's go with its next run)."""
    if model in study.config.models:
        with Claims(study.store, model, study.config.engine.claim_timeout) as claims:
            claims.forget(slice_ids(study, model))


def published(study: Study) -> dict[str, int]:
    """Model or scorer -> how many parts of its work are on disk."""
    tables: tuple[TableName, ...] = ("samples", "answers", "forced")
    of_set = Counter(path.name.partition("-")[0] for table in tables for path in study.store.parts(table))
    found = {model: sum(of_set[t.trace_set_id] for t in study.trace_sets(model)) for model in study.config.models}
    return found if study.config.scorer is None else {**found, study.config.scorer: len(study.store.parts("scores"))}


class Listener:
    """Hears whether a run lives, by its beat in the results folder and our own clock."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self._beat: object = None
        self._since = time.monotonic()
        self._there = False

    def silence(self) -> float:
        """Seconds since its last new beat (a run that is about to begin, or to end, has none)."""
        try:
            beats = [(seen.owner.token, seen.beat) for seen in at_work(self.store) if seen.owner.run == self.run]
            self._there = bool(beats)
            for beat in beats:
                if beat != self._beat:
                    self._beat, self._since = beat, time.monotonic()
        except OSError as e:  # the fault is the folder's, or ours: that says nothing about the run
            log.warning("%s: cannot listen for beats (%s); counted from now", self.store.root, e)
            self._there = True
            self.wait_again()
        return time.monotonic() - self._since

    def lives(self, timeout: float) -> bool:
        """Whether its process has not given back its beat, and that moved within so many seconds."""
        return self.silence() <= timeout and self._there

    def wait_again(self) -> None:
        """Count from now."""
        self._since = time.monotonic()
