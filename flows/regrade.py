"""Grade stored answers again, without an engine: python flows/regrade.py EXPERIMENT [--results DIR]; then run analyze.py."""

import sys
from functools import partial
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console

COMMAND = console.command(__doc__) if __name__ == "__main__" else None  # before Prefect is imported: a wrong name is told at once

console.settle_prefect()

from prefect import flow, runtime, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402
from prefect.utilities.annotations import quote  # noqa: E402

from thinkscale.grades import grade_all  # noqa: E402
from thinkscale.plan import RESULTS, Study  # noqa: E402


@task(cache_policy=NO_CACHE, persist_result=False)
def grade_stored_answers(study: Study) -> int:
    """Replace the grades of every part of answers."""
    return grade_all(study.store, study.known)


def run_name() -> str:
    """The experiment, for the list of runs."""
    return console.experiment_name(runtime.flow_run.parameters["experiment"])


@flow(name="regrade", flow_run_name=run_name, persist_result=False, validate_parameters=False)
async def regrade(experiment: console.Given, results: console.Folder = str(RESULTS)) -> int:
    """Rewrite all grades of an experiment from its stored answers.

    Args:
        experiment: name of a shipped experiment, path of a YAML file, or its content.
        results: folder or URL where results folders are.
    """
    study = console.opened(experiment, results, deployed=bool(runtime.deployment.id), engines=False)
    return grade_stored_answers(cast(Study, quote(study)))


if COMMAND is not None:
    answers = console.run(partial(regrade, COMMAND.experiment, COMMAND.results), PREFECT_API_URL.value())
    print(f"graded {answers:,} answers")
