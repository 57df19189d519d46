"""All models of an experiment: python flows/sweep.py EXPERIMENT [--plan | --status] [--pool POOL] [--replicas N] [--results DIR].

Without a pool the models run here, one after the other. With one, each is a run of the deployment `evaluate-model/POOL` (see
`deploy.py`), as many at a time as the pool has workers; this flow only waits, and needs no GPU.
"""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

# Before Prefect is imported: a plan answers in seconds, and the first engine starts while Prefect does
COMMAND = console.sweep_command(__doc__) if __name__ == "__main__" else None

console.settle_prefect()

from prefect import flow, runtime  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402
from pydantic import Field  # noqa: E402

from evaluate_model import EARLY, evaluate_model  # noqa: E402
from pooled import Runs, ended, in_pool  # noqa: E402
from shown import show_cells  # noqa: E402
from thinkscale import files  # noqa: E402
from thinkscale.fanout import Ended, Unfinished, fan_out  # noqa: E402
from thinkscale.fresh import fresh_folder  # noqa: E402
from thinkscale.manifest import write_manifest  # noqa: E402
from thinkscale.plan import RESULTS, Study  # noqa: E402

STOP_SECONDS = 120.0
"""For cancelling runs when we are stopped."""
STOP_SECONDS_DEPLOYED = 25.0
"""The same where Prefect kills us 30 s after it asked us to end (and then cancels what a cancelled parent left, in its own time)."""


def run_name() -> str:
    """The experiment, for the list of runs."""
    return console.experiment_name(runtime.flow_run.parameters["experiment"])


# no validation by Prefect: an experiment is checked by the one loader that gives one clear error (`open_study`)
@flow(name="sweep", flow_run_name=run_name, persist_result=False, validate_parameters=False)
async def sweep(
    experiment: console.Given,
    results: console.Folder = str(RESULTS),
    pool: Annotated[str, Field(pattern="^[^/%&<>]*$")] | None = None,
    replicas: Annotated[int, Field(ge=1)] = 1,
    fresh: bool = False,
) -> None:
    """Run an experiment: for each model, generate and grade what is owed.

    Args:
        experiment: name of a shipped experiment, path of a YAML file, or its content.
        results: folder or URL where results folders are; workers must reach it under the same name.
        pool: work pool whose workers evaluate the models; empty: here, one after the other.
        replicas: runs for each model, which share its shards (with a pool).
        fresh: draw everything again, in a folder of its own within `results` that is removed if all goes well: does everything still work?
    """
    results = files.absolute(results)  # workers work in their checkout, not where we do
    with fresh_folder(results) if fresh else nullcontext(results) as results:
        deployed = bool(runtime.deployment.id)
        study = console.opened(experiment, results, deployed=deployed)
        write_manifest(study)
        await _fan_out(study, experiment, results, pool, replicas, STOP_SECONDS_DEPLOYED if deployed else STOP_SECONDS)


async def _fan_out(study: Study, experiment: console.Given, results: str, pool: str | None, replicas: int, stop_seconds: float) -> None:
    async def here(model: str, label: str) -> Ended:
        return ended(await evaluate_model(console.as_given(experiment), model, results, return_state=True))

    async def there(model: str, label: str) -> Ended:
        assert pool is not None
        return await in_pool(study, content, results, runs, pool, model, label)

    content = console.travelling(study) if pool else {}
    runs = Runs()
    command = console.sweep_again(experiment, results, pool, replicas)
    with runs.cancelled_at_the_end(study.store, command, stop_seconds):
        async with show_cells(study):
            if pool:
                await fan_out(study, there, command, at_once=10_000, replicas=replicas, resubmits=study.config.engine.max_resubmits)
            else:
                await fan_out(study, here, command, at_once=1, replicas=1, resubmits=0)


if COMMAND is not None:
    if COMMAND.pool and PREFECT_API_URL.value() is None:
        sys.exit(
            f"error: --pool {COMMAND.pool}: PREFECT_API_URL is not set, so no worker would hear of the runs. "
            "Say where Prefect's server is, see README, 'On a cluster'."
        )
    EARLY.update(COMMAND.engines)
    try:
        console.run(partial(sweep, COMMAND.experiment, COMMAND.results, COMMAND.pool, COMMAND.replicas), PREFECT_API_URL.value())
    except Unfinished as e:
        sys.exit(f"error: {e}")
    finally:
        for running in EARLY.values():
            running.stop()
