"""Set up a site: python flows/deploy.py [POOL ...]: work pools, the automation that ends dead runs, deployments.

Run it again after changes: what a site set itself (defaults of a pool's variables, a schedule switched on) stays. POOL: gpu (workers on
machines with GPUs; the default), slurm, kubernetes. The pool cpu, for sweep, analyze and regrade, is always made.
No concurrency limits are made: what limits the runs is how many workers there are (`--limit 1` each), or the cluster's own scheduler.
A slot that Prefect's server hands out is a lease, and a run of hours would depend on its being renewed.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from thinkscale import console
from thinkscale.config import FLOWS

console.settle_prefect()

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate  # noqa: E402
from prefect.client.schemas.objects import DeploymentSchedule, StateType, WorkPool  # noqa: E402
from prefect.events.actions import ChangeFlowRunState  # noqa: E402
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture  # noqa: E402
from prefect.events.schemas.events import ResourceSpecification  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.workers.process import ProcessWorker  # noqa: E402

HOME = FLOWS.parent
TYPES = {"cpu": "process", "gpu": "process", "slurm": "process", "kubernetes": "kubernetes"}
DEPLOYMENTS = ("sweep/cpu", "sweep/nightly-smoke", "analyze/cpu", "regrade/cpu")
FLOW_NAMES = ("sweep", "evaluate-model", "analyze", "regrade")  # a server may have other people's flows
COMPUTED = ("python", "working_dir")  # of a pool that asks for them: this checkout, as compute nodes see it
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


def keep(ours: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Take over into our template the defaults that a site gave its pool's variables; returns whose differ from ours."""
    variables, kept = ours["variables"]["properties"], []
    for name, said in there.get("variables", {}).get("properties", {}).items():
        computed = name in COMPUTED and "python" in variables
        if name in variables and "default" in said and said["default"] != variables[name].get("default") and not computed:
            variables[name]["default"] = said["default"]
            kept.append(name)
    return kept


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
    """Pools and automation; what is there is brought up to date, and a site's own settings stay."""
    async with get_client() as client:
        there: dict[str, WorkPool] = {}
        for pool in pools:
            with suppress(ObjectNotFound):
                there[pool] = await client.read_work_pool(pool)
        for pool, found in there.items():
            if found.type != TYPES[pool]:
                sys.exit(
                    f"error: pool {pool}: the server has one of type '{found.type}', ours is of type '{TYPES[pool]}'; nothing was changed. "
                    f"If nobody needs it: prefect work-pool delete {pool}"
                )
        for pool in pools:
            ours = template(pool)
            if pool in there:
                kept = keep(ours, there[pool].base_job_template)
                await client.update_work_pool(pool, WorkPoolUpdate(base_job_template=ours))
                print(
                    f"pool {pool}: brought up to date" + (f"; defaults kept as they are on the server: {', '.join(kept)}" if kept else "")
                )
            else:
                await client.create_work_pool(WorkPoolCreate(name=pool, type=TYPES[pool], base_job_template=ours))
                print(f"pool {pool}: made ({TYPES[pool]})")
        automation = zombies()
        said = f"(our runs without a heartbeat for {SILENCE.seconds} s are declared crashed)"
        if known := await client.read_automations_by_name(automation.name):
            await client.update_automation(known[0].id, automation)
            print(f"automation: brought up to date {said}")
        else:
            await client.create_automation(automation)
            print(f"automation: made {said}")


async def schedules(names: list[str]) -> dict[tuple[str, str], DeploymentSchedule]:
    """(deployment, slug) -> its schedule on the server."""
    found = {}
    async with get_client() as client:
        for name in names:
            with suppress(ObjectNotFound):
                for schedule in (await client.read_deployment_by_name(name)).schedules:
                    if schedule.slug:
                        found[name, schedule.slug] = schedule
    return found


async def switch_back(before: dict[tuple[str, str], DeploymentSchedule]) -> None:
    """Give schedules the state that they had: prefect.yaml can only say one for all sites."""
    now = await schedules(list({name for name, _ in before}))
    async with get_client() as client:
        for (name, slug), schedule in now.items():
            was = before.get((name, slug), schedule).active
            if was != schedule.active and schedule.deployment_id is not None:
                await client.update_deployment_schedule(schedule.deployment_id, schedule.id, active=was)
                print(f"schedule {slug} of {name}: left {'on' if was else 'off'}, as it is on the server")


async def refuse_unknown(names: list[str]) -> None:
    """Have the server refuse runs with parameters that a flow does not have: `prefect deploy` cannot say so, and they failed later."""
    async with get_client() as client:
        for name in names:
            there = await client.read_deployment_by_name(name)
            schema = {**(there.parameter_openapi_schema or {}), "additionalProperties": False}
            await client.update_deployment(there.id, DeploymentUpdate(parameter_openapi_schema=schema))


def deploy(pools: list[str]) -> None:
    """The deployments of prefect.yaml that belong to these pools."""
    names = [*DEPLOYMENTS, *(f"evaluate-model/{pool}" for pool in pools if pool != "cpu")]
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(HOME / "prefect.yaml")]
    command += [word for name in names for word in ("--name", name)]
    before = asyncio.run(schedules(names))
    try:
        done = subprocess.run(
            command, cwd=HOME, env={**os.environ, "THINKSCALE_HOME": str(HOME)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    finally:
        asyncio.run(switch_back(before))
    if done.returncode:
        sys.exit(f"{done.stdout}\nerror: prefect deploy failed, see above. Is PREFECT_API_URL set to a server that runs?")
    asyncio.run(refuse_unknown(names))
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
    print("Workers: prefect worker start --pool cpu")
    if "gpu" in pools:
        print("for each GPU: CUDA_VISIBLE_DEVICES=0 prefect worker start --pool gpu --work-queue default --limit 1")
        print("for models with gpus: 2: CUDA_VISIBLE_DEVICES=0,1 prefect worker start --pool gpu --work-queue gpus-2 --limit 1")


if __name__ == "__main__":
    with console.one_line():
        main()
