"""All models of an experiment: python flows/sweep.py EXPERIMENT [--plan | --status] [--pool POOL] [--replicas N] [--results DIR].

Without a pool the models run here, one after the other. With one, each is a run of the deployment `evaluate-model/POOL` (see
`deploy.py`), as many at a time as the pool has workers; this flow only waits, and needs no GPU.
"""

import asyncio
import logging
import math
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

# Before Prefect is imported: a plan answers in seconds, and the first engine starts while Prefect does
COMMAND = console.sweep_command(__doc__) if __name__ == "__main__" else None

console.settle_prefect()

import httpx  # noqa: E402
from prefect import flow, runtime  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.objects import FlowRun, State, StateType  # noqa: E402
from prefect.deployments import arun_deployment  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402
from prefect.states import Cancelling, Crashed  # noqa: E402

from evaluate_model import EARLY, evaluate_model  # noqa: E402
from shown import show_cells  # noqa: E402
from thinkscale import files  # noqa: E402
from thinkscale.config import Experiment  # noqa: E402
from thinkscale.fanout import Ended, Listener, Unfinished, fan_out, resources  # noqa: E402
from thinkscale.manifest import write_manifest  # noqa: E402
from thinkscale.plan import RESULTS, Study  # noqa: E402

log = logging.getLogger("thinkscale.sweep")

POLL_SECONDS = 2.0
BEGIN_SECONDS = 300.0
"""From being taken by a worker to running: Python starts and imports Prefect, on a busy machine."""
OUTAGE_SECONDS = 900.0
"""How long Prefect's API may be away while a run is to be submitted."""
QUEUES = ("slurm", "kubernetes")
"""Pools whose runs are taken by a worker and then wait for the cluster, for days perhaps."""


def run_name() -> str:
    """The experiment, for the list of runs."""
    return console.experiment_name(runtime.flow_run.parameters["experiment"])


# no validation by Prefect: an experiment is checked by the one loader that gives one clear error (`open_study`)
@flow(name="sweep", flow_run_name=run_name, persist_result=False, validate_parameters=False)
async def sweep(experiment: str | Experiment, results: str = str(RESULTS), pool: str | None = None, replicas: int = 1) -> None:
    """Run an experiment: for each model, generate and grade what is owed.

    Args:
        experiment: name of a shipped experiment, path of a YAML file, or its content.
        results: folder or URL where results folders are; workers must reach it under the same name.
        pool: work pool whose workers evaluate the models; empty: here, one after the other.
        replicas: runs for each model, which share its shards (with a pool).
    """
    results = files.absolute(results)  # workers work in their checkout, not where we do
    study = console.opened(experiment, results, deployed=bool(runtime.deployment.id))
    write_manifest(study)

    async def here(model: str, label: str) -> Ended:
        return _ended(await evaluate_model(console.as_given(experiment), model, results, return_state=True))

    async def there(model: str, label: str) -> Ended:
        assert pool is not None
        return await _in_pool(study, content, results, pool, model, label)

    content = console.travelling(study) if pool else {}
    command = console.sweep_again(experiment, results, pool, replicas)
    async with show_cells(study):
        if pool:
            await fan_out(study, there, command, at_once=10_000, replicas=replicas, resubmits=study.config.engine.max_resubmits)
        else:
            await fan_out(study, here, command, at_once=1, replicas=1, resubmits=0)


async def _in_pool(study: Study, content: dict[str, Any], results: str, pool: str, model: str, label: str) -> Ended:
    """Submit one run, wait for its end or its silence; if we are stopped before, cancel it."""
    try:
        run = await _submitted(
            f"evaluate-model/{pool}",
            parameters={"experiment": content, "model": model, "results": results},
            job_variables=resources(study.catalogue.models[model]),
            flow_run_name=f"{label} of {study.config.name}",
            tags=[study.config.name],
        )
    except ObjectNotFound:
        return Ended(
            "failed", f"there is no deployment evaluate-model/{pool}. `python flows/deploy.py POOL` sets up gpu, slurm or kubernetes"
        )
    except httpx.HTTPError as e:
        return Ended("failed", f"Prefect's API did not take the run ({type(e).__name__}: {e})")
    listener, seen, over = Listener(study.store, str(run.id)), StateType.SCHEDULED, False
    patience = {StateType.RUNNING: 2 * study.config.engine.claim_timeout, StateType.CANCELLING: 2 * study.config.engine.claim_timeout}
    if pool not in QUEUES:
        patience[StateType.PENDING] = BEGIN_SECONDS
    try:
        while True:
            state = await _state(run.id)
            if state is not None and state.is_final():
                over = True
                log.info("%s: %s", label, (state.name or state.type.value).lower())
                return _ended(state)
            if state is not None and state.type != seen:
                seen = state.type
                log.info("%s: %s", label, (state.name or seen.value).lower())
                listener.wait_again()
            if await asyncio.to_thread(listener.silence) > patience.get(seen, math.inf):
                return Ended("lost", f"{seen.name.lower()}, and nothing heard of it for {patience[seen]:g} s")
            await asyncio.sleep(POLL_SECONDS)
    finally:
        if not over:
            _end(run.id, silent=listener.silence() > patience.get(seen, math.inf))


async def _submitted(deployment: str, **run: Any) -> FlowRun:
    """Submit a run once, however often we have to ask. Raises ObjectNotFound, httpx.HTTPError."""
    key, until = str(uuid4()), time.monotonic() + OUTAGE_SECONDS
    while True:
        try:
            return await arun_deployment(deployment, **run, timeout=0, idempotency_key=key)
        except httpx.HTTPError as e:
            refused = isinstance(e, httpx.HTTPStatusError) and e.response.status_code < 500
            if refused or time.monotonic() > until:
                raise
            log.warning("Prefect's API does not answer (%s: %s); submitting %s again", type(e).__name__, e, run["flow_run_name"])
            await asyncio.sleep(5 * POLL_SECONDS)


async def _state(run: UUID) -> State | None:
    """State of a run; None while the API does not answer."""
    try:
        async with get_client() as client:
            return (await client.read_flow_run(run)).state
    except httpx.HTTPError:
        return None


def _end(run: UUID, *, silent: bool) -> None:
    """Have a run cancelled; one that fell silent has nobody who could, so it is only declared crashed.

    Not asynchronous: it must also happen while our own event loop is being torn down.
    """
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Crashed(message="fell silent") if silent else Cancelling(), force=silent)


def _ended(state: State[Any]) -> Ended:
    if state.is_completed():
        return Ended("completed")
    return Ended("lost" if state.is_crashed() else "failed", (state.message or state.name or "")[-2000:])


if COMMAND is not None:
    EARLY.update(COMMAND.engines)
    try:
        console.run(partial(sweep, COMMAND.experiment, COMMAND.results, COMMAND.pool, COMMAND.replicas), PREFECT_API_URL.value())
    except Unfinished as e:
        sys.exit(f"error: {e}")
    finally:
        for running in EARLY.values():
            running.stop()
