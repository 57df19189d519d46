"""Shares an experiment out over runs: one or more for each model, the dearest first; those that are lost are submitted again.

Why: schedulers report the death of a run late or never (a worker that is killed leaves its run "running" for ever), and one model that
fails must not cost the others. A run lives as long as its beat in the results folder moves (`listening`), by our own clock.
What it does not do: start anything itself (the flows pass in how), hold a slot or a lease while it waits.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from thinkscale import loss, scores
from thinkscale.claims import Claims
from thinkscale.config import ConfigError, Model
from thinkscale.launch import queue_of_gpus
from thinkscale.outlook import plan
from thinkscale.plan import Study, slice_ids
from thinkscale.remote import patient
from thinkscale.schema import TableName

log = logging.getLogger(__name__)

T = TypeVar("T")


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
    with patient():
        places, failures, done = asyncio.Semaphore(at_once), list[str](), await asyncio.to_thread(published, study)

        async def one(model: str, name: str) -> None:
            async with places:
                ended = await _until_done(study, launch, resubmits, model, name, done[model])
            if ended.how != "completed":
                log.warning("%s: %s: %s", name, ended.how, ended.said)
                failures.append(f"{name}: {ended.how}: {ended.said}")

        async def every(models: list[str]) -> None:
            async with asyncio.TaskGroup() as group:
                for model in models:
                    for replica in range(1, replicas + 1):
                        group.create_task(one(model, model if replicas == 1 else f"{model} {replica} of {replicas}"))

        await every(largest_first(study))
        if study.config.scorer is not None and await _asked(lambda: bool(scores.owed(study)), False):
            await every([study.config.scorer])
        try:
            what = ", ".join(words for _, words in await asyncio.to_thread(owed, study))
        except OSError as e:  # whoever reads this is to be told how to go on all the same
            what = f"not known ({e})"
    if what:
        raise Unfinished("\n".join([f"owed: {what}", *failures, f"To finish: {command}"]))


async def _until_done(study: Study, launch: Launch, resubmits: int, model: str, name: str, before: int) -> Ended:
    """Launch a run, and again where it is lost and owes something.

    Args: before: how many parts of its work were there.
    """
    in_vain, again = 0, 0
    while True:
        ended = await launch(model, f"{name}, again {again}" if again else name)
        if ended.how == "lost" and not await _asked(partial(_owes, study, model), True):
            await _asked(partial(_tidy, study, model), None)
            return Ended("completed")  # what is on disk decides
        if ended.how != "lost" or not resubmits:
            return ended
        now = await _asked(lambda: published(study)[model], before)
        in_vain, again, before = in_vain + (now == before), again + 1, now
        if in_vain > resubmits:
            return ended
        log.warning("%s is lost (%s); submitted again", name, ended.said)


async def _asked(question: Callable[[], T], otherwise: T) -> T:
    """What the results folder says; where it cannot be read, something else, since that must not end what runs."""
    try:
        return await asyncio.to_thread(question)
    except OSError as e:
        log.warning("it cannot be seen what is done: %s", e)
        return otherwise


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
