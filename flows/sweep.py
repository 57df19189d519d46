"""All models of an experiment, one after the other: python flows/sweep.py EXPERIMENT [--plan | --status] [--results DIR]."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

# Before Prefect is imported: a plan answers in seconds, and the first engine starts while Prefect does
COMMAND = console.sweep_command(__doc__) if __name__ == "__main__" else None

console.settle_prefect()

from prefect import flow  # noqa: E402

from evaluate_model import EARLY, evaluate_model  # noqa: E402
from thinkscale.manifest import write_manifest  # noqa: E402
from thinkscale.plan import RESULTS, open_study  # noqa: E402


@flow(name="sweep", flow_run_name="{experiment}", persist_result=False)
async def sweep(experiment: str, results: str = str(RESULTS)) -> None:
    """Run an experiment: for each model, generate and grade what is owed.

    Args:
        experiment: name of a shipped experiment or path of a YAML file.
        results: where results folders are.
    """
    study = open_study(experiment, results)
    write_manifest(study)
    for model in study.config.models:
        await evaluate_model(experiment, model, results)


if COMMAND is not None:
    EARLY.update(COMMAND.engines)
    try:
        asyncio.run(sweep(COMMAND.experiment, COMMAND.results))
    finally:
        for running in EARLY.values():
            running.stop()
