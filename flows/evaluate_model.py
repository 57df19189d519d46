"""One model, all its cells: serve it, run the shards it owes, stop it. What a cluster runs per GPU node."""

import sys
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

console.settle_prefect()

from prefect import State, flow, runtime, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.states import Crashed  # noqa: E402
from prefect.utilities.annotations import quote  # noqa: E402

from shown import show_cells  # noqa: E402
from thinkscale import evaluate, scoring  # noqa: E402
from thinkscale.endpoint import RequestFailed  # noqa: E402
from thinkscale.generate import Generator  # noqa: E402
from thinkscale.plan import RESULTS  # noqa: E402
from thinkscale.remote import StorageError, patient  # noqa: E402
from thinkscale.serving import Running  # noqa: E402
from thinkscale.shards import Shard, ShardDone, run_shard  # noqa: E402
from thinkscale.sources import Name  # noqa: E402
from thinkscale.store import Store  # noqa: E402

EARLY: dict[str, Running] = {}
"""Engines that `sweep.py` started while Prefect was being imported."""


def run_name() -> str:
    """Model and experiment, for the list of runs; a run that `sweep` submitted keeps the name that it was given (which replica, again)."""
    given, there = runtime.flow_run.parameters, str(runtime.flow_run.name or "")
    ending = f" of {console.experiment_name(given['experiment'])}"
    return there if there.endswith(ending) else f"{given['model']}{ending}"


async def _transient(task: object, task_run: object, state: State[ShardDone]) -> bool:
    """Try a shard again only where its requests failed; a dead engine is started again first, by `evaluate`."""
    return isinstance(await state.aresult(raise_on_failure=False), RequestFailed)


@task(
    task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=10, retry_condition_fn=_transient
)
async def generate_shard(label: str, shard: Shard, generator: Generator, store: Store) -> ShardDone:
    """Draw, answer and grade one shard."""
    return await run_shard(shard, generator, store)


# no validation by Prefect: an experiment is checked by the one loader that gives one clear error (`open_study`)
@flow(name="evaluate-model", flow_run_name=run_name, persist_result=False, validate_parameters=False)
async def evaluate_model(experiment: console.Given, model: Name, results: console.Folder = str(RESULTS)) -> int | State[Any]:
    """Do all that one model of an experiment owes; of its scorer: read the answers that are not scored.

    Args:
        experiment: name of a shipped experiment, path of a YAML file, or its content.
        model: one of its models, or its scorer.
        results: folder or URL where results folders are.
    Returns: how many shards were run here; that it crashed, where the store of results was away for too long: it is lost then, not failed.
    """
    study = console.opened(experiment, results, deployed=bool(runtime.deployment.id))
    console.check_model(study, model)

    async def in_task(shard: Shard, generator: Generator, store: Store) -> ShardDone:
        # quote: Prefect would otherwise walk through every key of the shard, looking for futures
        parts = cast(tuple[Shard, Generator, Store], tuple(map(quote, (shard, generator, store))))
        return await generate_shard(f"{model} {shard.label}", *parts)

    run_id = str(runtime.flow_run.id or "")
    try:
        with patient():
            if model == study.config.scorer:
                return await scoring.score(study, run_id)
            async with show_cells(study, model):
                return await evaluate.evaluate(study, model, in_task, EARLY.pop(model, None), run_id)
    except StorageError as e:
        if not e.passing:
            raise
        return Crashed(message=str(e))
