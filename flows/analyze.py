"""From graded answers to conclusions: python flows/analyze.py EXPERIMENT [--results DIR] [--mixed]."""

import sys
from functools import partial
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

COMMAND = console.analyze_command(__doc__) if __name__ == "__main__" else None  # before Prefect is imported: a wrong name is told at once

console.settle_prefect()

from prefect import flow, runtime, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402
from prefect.utilities.annotations import quote  # noqa: E402

from shown import show_plots  # noqa: E402
from thinkscale import printed, report  # noqa: E402
from thinkscale.plan import RESULTS, Study  # noqa: E402


@task(cache_policy=NO_CACHE, persist_result=False)
def analyze_tables(study: Study, mixed: bool) -> report.Analysis:
    """Tables, plots and findings, written to the results folder."""
    return report.analyze(study, mixed=mixed)


def run_name() -> str:
    """The experiment, for the list of runs."""
    return console.experiment_name(runtime.flow_run.parameters["experiment"])


@flow(name="analyze", flow_run_name=run_name, persist_result=False, validate_parameters=False)
async def analyze(experiment: console.Given, results: console.Folder = str(RESULTS), mixed: bool = False) -> report.Analysis:
    """Summarize, compare and plot an experiment's results.

    Args:
        experiment: name of a shipped experiment, path of a YAML file, or its content.
        results: folder or URL where results folders are.
        mixed: take answers of several engines or graders together.
    """
    study = console.opened(experiment, results, deployed=bool(runtime.deployment.id), engines=False)
    analysis = analyze_tables(cast(Study, quote(study)), mixed)
    await show_plots(study)
    return analysis


if COMMAND is not None:
    printed.show(console.run(partial(analyze, COMMAND.experiment, COMMAND.results, COMMAND.mixed), PREFECT_API_URL.value()))
