"""From graded answers to a first answer: python flows/analyze.py EXPERIMENT [--results DIR]."""

import asyncio
import sys
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

COMMAND = console.command(__doc__) if __name__ == "__main__" else None  # before Prefect is imported: a wrong name is told at once

console.settle_prefect()

from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.utilities.annotations import quote  # noqa: E402

from thinkscale import report  # noqa: E402
from thinkscale.plan import RESULTS, Study, open_study  # noqa: E402


@task(cache_policy=NO_CACHE, persist_result=False)
def analyze_tables(study: Study) -> report.Analysis:
    """Summary, comparison, claims and plots, written to the results folder."""
    return report.analyze(study)


@flow(name="analyze", flow_run_name="{experiment}", persist_result=False)
async def analyze(experiment: str, results: str = str(RESULTS)) -> report.Analysis:
    """Summarize, compare and plot an experiment's results.

    Args:
        experiment: name of a shipped experiment or path of a YAML file.
        results: where results folders are.
    """
    return analyze_tables(cast(Study, quote(open_study(experiment, results))))


if COMMAND is not None:
    report.show(asyncio.run(analyze(COMMAND.experiment, COMMAND.results)))
