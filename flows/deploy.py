"""Set up a site: python flows/deploy.py [POOL ...]: work pools, the automation that ends dead runs, deployments.

Run it again after changes. POOL: gpu (workers on machines with GPUs; the default), slurm, kubernetes. The pool cpu, for sweep, analyze and
regrade, is always made.
No concurrency limits are made: what limits the runs is how many workers there are (`--limit 1` each), or the cluster's own scheduler.
A slot that Prefect's server hands out is a lease, and a run of hours would depend on its being renewed.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console
from thinkscale.config import FLOWS

console.settle_prefect()

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate  # noqa: E402
from prefect.client.schemas.objects import StateType  # noqa: E402
from prefect.events.actions import ChangeFlowRunState  # noqa: E402
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture  # noqa: E402
from prefect.events.schemas.events import ResourceSpecification  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.workers.process import ProcessWorker  # noqa: E402

HOME = FLOWS.parent
TYPES = {"cpu": "process", "gpu": "process", "slurm": "process", "kubernetes": "kubernetes"}
DEPLOYMENTS = ("sweep/cpu", "sweep/nightly-smoke", "analyze/cpu", "regrade/cpu")
FLOW_NAMES = ("sweep", "evaluate-model", "analyze", "regrade")  # a server may have other people's flows
SILENCE = timedelta(seconds=540)  # three of Prefect's heartbeats of flow runs, which come every three minutes


def template(pool: str) -> dict[str, Any]:
    """What a pool's jobs look like, and what may be said of each: a file in `pools/`, or Prefect's own for plain processes."""
    path = FLOWS / "pools" / f"{pool}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else ProcessWorker.get_default_base_job_template()
    variables = found["variables"]["properties"]
    if "python" in variables:  # compute nodes see this checkout and its environment under the same paths
        variables["python"]["default"] = sys.executable
        variables["working_dir"]["default"] = str(HOME)
    return found


def zombies() -> AutomationCore:
    """Declares runs crashed that nothing is heard of: a worker that is killed leaves its run "running" for ever."""
    return AutomationCore(
        name="thinkscale: end runs that fell silent",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.role": ["flow"], "prefect.resource.name": list(FLOW_NAMES)}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message="no heartbeat", force=False)],
    )


async def set_up(pools: list[str]) -> None:
    """Pools and automation; what is there is brought up to date."""
    async with get_client() as client:
        for pool in pools:
            try:
                await client.read_work_pool(pool)
                await client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template(pool)))
                print(f"pool {pool}: brought up to date")
            except ObjectNotFound:
                await client.create_work_pool(WorkPoolCreate(name=pool, type=TYPES[pool], base_job_template=template(pool)))
                print(f"pool {pool}: made ({TYPES[pool]})")
        automation = zombies()
        said = f"(our runs without a heartbeat for {SILENCE.seconds} s are declared crashed)"
        if there := await client.read_automations_by_name(automation.name):
            await client.update_automation(there[0].id, automation)
            print(f"automation: brought up to date {said}")
        else:
            await client.create_automation(automation)
            print(f"automation: made {said}")


def deploy(pools: list[str]) -> None:
    """The deployments of prefect.yaml that belong to these pools."""
    names = [*DEPLOYMENTS, *(f"evaluate-model/{pool}" for pool in pools if pool != "cpu")]
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(HOME / "prefect.yaml")]
    command += [word for name in names for word in ("--name", name)]
    done = subprocess.run(
        command, cwd=HOME, env={**os.environ, "THINKSCALE_HOME": str(HOME)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nerror: prefect deploy failed, see above. Is PREFECT_API_URL set to a server that runs?")
    print("deployments: " + ", ".join(names))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", metavar="POOL", help="gpu, slurm, kubernetes (default: gpu)")
    asked = parser.parse_args().pools or ["gpu"]
    unknown = [pool for pool in asked if pool not in TYPES]
    if unknown:
        sys.exit(f"error: no pool '{unknown[0]}'; there are {', '.join(TYPES)}.")
    if not os.environ.get("PREFECT_API_URL"):
        sys.exit(
            "error: PREFECT_API_URL is not set. Start a server (prefect server start) and say where it is, see README, 'On a cluster'."
        )
    pools = list(dict.fromkeys(["cpu", *asked]))
    asyncio.run(set_up(pools))
    deploy(pools)
    print("Workers: prefect worker start --pool cpu    and, for each GPU: CUDA_VISIBLE_DEVICES=0 prefect worker start --pool gpu --limit 1")


if __name__ == "__main__":
    with console.one_line():
        main()
