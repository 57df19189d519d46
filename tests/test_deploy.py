"""A sweep over a pool of workers through a real Prefect server: shared out, and finished when a node dies."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from fakes import FAKE_VLLM, engines, eventually, files, processes, rows
from prefect_site import Site, kill
from thinkscale import evaluate, supervise
from thinkscale.claims import at_work
from thinkscale.config import FLOWS
from thinkscale.fanout import resources
from thinkscale.graded import read_graded
from thinkscale.loading import load_catalogue
from thinkscale.plan import open_study, owed_shards

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
TABLES = ("problems", "samples", "answers", "grades")


def written(folder, name, models=("ladder-21k", "ladder-100k"), **changes):
    """The smoke experiment under another name, with claims that expire soon."""
    fields = yaml.safe_load((FLOWS / "experiments" / "smoke.yaml").read_text())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**fields, "name": name, "models": list(models), "engine": {"claim_timeout": 3.0}, **changes}))
    return path


def engine(*fault):
    return shlex.join([*FAKE_VLLM, *(("--fault", json.dumps(fault[0])) if fault else ())])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site")) as site:
        first = site.deploy()
        assert "pool gpu: made (process)" in first and "automation: made" in first
        site.first = first
        yield site


@pytest.fixture(scope="module")
def locally(tmp_path_factory):
    """The same experiments without Prefect: {name: study}."""
    folder = tmp_path_factory.mktemp("locally")
    os.environ["THINKSCALE_ENGINE_COMMAND"] = engine()
    try:
        found = {}
        for name, models in (("two", ("ladder-21k", "ladder-100k")), ("one", ("ladder-21k",))):
            opened = open_study(str(written(folder, name, models)), folder / "results")
            for model in opened.config.models:
                asyncio.run(evaluate.evaluate(opened, model))
            found[name] = opened
        return found
    finally:
        del os.environ["THINKSCALE_ENGINE_COMMAND"]


def check_equal(opened, other):
    assert not any(owed_shards(opened, m) for m in opened.config.models)
    for table in TABLES:
        assert rows(opened, table) == rows(other, table), table
    assert {n: d for n, d in files(opened).items()} == files(other)
    read_graded(opened.store.root)
    assert eventually(lambda: not processes(opened), 20) and os.listdir(opened.store.root / "claims") == []


def test_setting_up_again_changes_nothing(site):
    again = site.deploy()
    assert (
        "pool gpu: brought up to date" in again
        and "automation: brought up to date" in again
        and len(site.post("automations/filter", {})) == 1
        and "evaluate-model/gpu" in again
    )
    found = {f"{d['name']}" for d in site.post("deployments/filter", {})}
    assert found == {"cpu", "gpu", "nightly-smoke"} and len(site.post("deployments/filter", {})) == 5


def test_setting_up_again_keeps_what_the_site_set_itself(site):
    site.deploy("slurm")
    templates = {pool: site.get(f"work_pools/{pool}")["base_job_template"] for pool in ("gpu", "slurm")}
    mine = {"slurm": {"partition": "a100", "srun": "srun --account=us", "python": "/gone/python"}, "gpu": {"env": {"HF_HOME": "/models"}}}
    for pool, defaults in mine.items():
        for name, default in defaults.items():
            templates[pool]["variables"]["properties"][name]["default"] = default
        site.patch(f"work_pools/{pool}", {"base_job_template": templates[pool]})
    nightly = site.get("deployments/name/sweep/nightly-smoke")
    (schedule,) = nightly["schedules"]
    assert not schedule["active"]
    site.patch(f"deployments/{nightly['id']}/schedules/{schedule['id']}", {"active": True})
    again = site.deploy("gpu", "slurm")
    found = {pool: site.get(f"work_pools/{pool}")["base_job_template"]["variables"]["properties"] for pool in mine}
    assert found["slurm"]["partition"]["default"] == "a100" and found["slurm"]["srun"]["default"] == "srun --account=us"
    assert found["slurm"]["python"]["default"] == sys.executable and found["gpu"]["env"]["default"] == {"HF_HOME": "/models"}
    assert [s["active"] for s in site.get("deployments/name/sweep/nightly-smoke")["schedules"]] == [True]
    assert "pool slurm: brought up to date; defaults kept as they are on the server: srun, partition\n" in again, again
    assert "kept as they are on the server: env\n" in again and "schedule nightly of sweep/nightly-smoke: left on" in again, again
    site.patch(f"deployments/{nightly['id']}/schedules/{schedule['id']}", {"active": False})


def test_a_pool_of_our_name_and_another_type_is_left_alone(site):
    site.post("work_pools/", {"name": "kubernetes", "type": "docker", "base_job_template": {}})
    before = {pool: site.get(f"work_pools/{pool}") for pool in ("cpu", "kubernetes")}
    said = site.refused("kubernetes")
    assert said.startswith(
        "error: pool kubernetes: the server has one of type 'docker', ours is of type 'kubernetes'; nothing was changed."
    )
    assert before == {pool: site.get(f"work_pools/{pool}") for pool in before}


def test_the_form_of_a_deployment_shows_nested_fields_with_their_help(site):
    (found,) = [d for d in site.post("deployments/filter", {}) if d["entrypoint"].endswith("sweep.py:sweep") and d["name"] == "cpu"]
    schema = found["parameter_openapi_schema"]
    assert schema["properties"]["results"]["description"].startswith("folder or URL")
    assert schema["definitions"]["Experiment"]["properties"]["thinking_budgets"]["description"].startswith("Caps on thinking tokens")
    assert "description" in schema["definitions"]["Engine"]["properties"]["claim_timeout"]


@pytest.mark.parametrize(
    ("deployment", "wrong", "said"),
    [
        ("sweep/cpu", {"replicas": 0}, "'replicas'. Failure reason: 0 is less than the minimum of 1"),
        ("sweep/cpu", {"repplicas": 2}, "('repplicas' was unexpected)"),
        ("sweep/cpu", {"pool": "gpu/default"}, "'pool'"),
        ("sweep/nightly-smoke", {"results": ""}, "'results'"),
        ("evaluate-model/gpu", {"model": "../them"}, "'model'"),
        ("analyze/cpu", {"mixt": True}, "('mixt' was unexpected)"),
        ("regrade/cpu", {"experiment": ""}, "'experiment'"),
    ],
)
def test_a_run_with_a_wrong_or_misspelt_parameter_is_refused_when_it_is_submitted(site, deployment, wrong, said):
    found = site.get(f"deployments/name/{deployment}")
    body = {"parameters": {**found["parameters"], **wrong}, "state": {"type": "SCHEDULED"}}
    answer = httpx.post(f"{site.api}/deployments/{found['id']}/create_flow_run", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 409 and said in answer.json()["detail"], answer.text


def test_the_sweep_of_every_night_draws_everything_again(site):
    assert site.get("deployments/name/sweep/nightly-smoke")["parameters"] == {"experiment": "smoke", "pool": "gpu", "fresh": True}


def test_two_models_run_on_two_workers_at_the_same_time(site, locally, tmp_path):
    experiment, results, meeting = written(tmp_path, "two"), tmp_path / "results", tmp_path / "meeting"
    meeting.mkdir()
    opened = open_study(str(experiment), results)
    command = shlex.join([sys.executable, str(HERE / "rendezvous.py"), str(meeting), "2", *FAKE_VLLM])
    workers = [site.worker("gpu", f"meet{i}", THINKSCALE_ENGINE_COMMAND=command) for i in range(2)]
    parent = site.worker("cpu", "orchestrator")
    parameters = {"experiment": yaml.safe_load(experiment.read_text()), "results": str(results), "pool": "gpu"}
    (deployment,) = [d for d in site.post("deployments/filter", {}) if d["entrypoint"].endswith("sweep.py:sweep") and d["name"] == "cpu"]
    run = site.post(f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters, "state": {"type": "SCHEDULED"}})
    try:

        def state():
            return site.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[0]["state"]["type"]

        assert eventually(lambda: state() in ("COMPLETED", "FAILED", "CRASHED"), 150), site.said(parent) + "".join(map(site.said, workers))
        assert state() == "COMPLETED", site.said(parent) + "".join(map(site.said, workers))
    finally:
        for process in (*workers, parent):
            kill(process)
    assert len(os.listdir(meeting)) == 2, "each model by one engine, and both were there at once"
    check_equal(opened, locally["two"])
    names = {r["name"] for r in site.post("flow_runs/filter", {})}
    assert {"two", "ladder-21k of two", "ladder-100k of two"} <= names
    artifacts = {a["key"]: a for a in site.post("artifacts/filter", {})}
    table = json.loads(artifacts["two-all-cells"]["data"])
    assert len(table) == 6 and all(row["owed"] == 0 and row["done"] == 80 for row in table)
    assert {"two-ladder-21k-progress", "two-ladder-100k-cells"} <= set(artifacts)
    assert [float(artifacts[f"two-{whose}-progress"]["data"]) for whose in ("all", "ladder-21k", "ladder-100k")] == [100.0] * 3
    lines = "\n".join(line["message"] for line in site.post("logs/filter", {"limit": 200, "sort": "TIMESTAMP_DESC"}))
    assert "ladder-21k: engine ready after" in lines and "ladder-100k: nothing owed" in lines and "answers correct" in lines
    assert all("engine ready after" in (site.folder / f"{worker.name}.log").read_text() for worker in workers)


def test_a_node_dies_and_another_worker_finishes_its_model(site, locally, tmp_path):
    experiment, results = written(tmp_path, "one", ["ladder-21k"]), tmp_path / "results"
    opened = open_study(str(experiment), results)
    slow = engine({"kind": "slow", "seconds": 0.5, "once": str(tmp_path / "been")})
    doomed = site.worker("gpu", "doomed", THINKSCALE_ENGINE_COMMAND=slow)
    parent = site.sweep(experiment, results, name="parent")
    assert eventually(lambda: opened.store.parts("samples"), 120), site.said(parent) + site.said(doomed)
    kill(doomed)  # with its flow, supervisor and engine
    assert owed_shards(opened, "ladder-21k")
    before = files(opened)
    other = site.worker("gpu", "other", THINKSCALE_ENGINE_COMMAND=engine())
    try:
        assert eventually(lambda: parent.poll() is not None, 120), site.said(parent) + site.said(other)
    finally:
        kill(other)
    assert parent.returncode == 0, site.said(parent)
    assert "ladder-21k is lost (running, and nothing heard of it for 6 s); submitted again" in site.said(parent)
    after = files(opened)
    assert before and {name: after[name] for name in before} == before
    check_equal(opened, locally["one"])
    states = {r["name"]: r["state"]["type"] for r in site.post("flow_runs/filter", {})}
    assert states["ladder-21k, again 1 of one"] == "COMPLETED"


def test_a_worker_is_killed_alone_and_its_flow_goes_on(site, locally, tmp_path):
    experiment, results = written(tmp_path, "one", ["ladder-21k"]), tmp_path / "results"
    opened = open_study(str(experiment), results)
    worker = site.worker("gpu", "alone", THINKSCALE_ENGINE_COMMAND=engine({"kind": "slow", "seconds": 0.3}))
    parent = site.sweep(experiment, results, name="parent-of-the-orphan")
    assert eventually(lambda: opened.store.parts("samples"), 120), site.said(parent) + site.said(worker)
    (seen,) = at_work(opened.store)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    try:
        assert eventually(lambda: parent.poll() is not None, 120), site.said(parent)
    finally:
        supervise.send([seen.owner.pid], signal.SIGKILL) if seen.owner.gone is False and owed_shards(opened, "ladder-21k") else None
    assert parent.returncode == 0, site.said(parent)
    assert len(engines(opened)) == 1, "nothing is done twice"
    check_equal(opened, locally["one"])


def test_the_worker_of_a_deployed_sweep_is_killed_and_the_sweep_goes_on(site, locally, tmp_path):
    """Its next line would have ended it, and cancelled the run of its model."""
    experiment, results = written(tmp_path, "one", ["ladder-21k"]), tmp_path / "results"
    opened = open_study(str(experiment), results)
    worker = site.worker("gpu", "stays", THINKSCALE_ENGINE_COMMAND=engine({"kind": "slow", "seconds": 0.3}))
    parent = site.worker("cpu", "leaves")
    deployment = site.get("deployments/name/sweep/cpu")
    asked = {"parameters": {"experiment": yaml.safe_load(experiment.read_text()), "results": str(results), "pool": "gpu"}}
    run = site.post(f"deployments/{deployment['id']}/create_flow_run", {**asked, "state": {"type": "SCHEDULED"}})

    def state():
        return site.get(f"flow_runs/{run['id']}")["state"]

    try:
        assert eventually(lambda: opened.store.parts("samples"), 150), site.said(parent) + site.said(worker)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert eventually(lambda: state()["type"] not in ("RUNNING", "PENDING"), 120), site.said(worker)
    finally:
        kill(worker)
        kill(parent)
    assert state()["type"] == "COMPLETED", state()
    assert len(engines(opened)) == 1, "nothing is done twice"
    check_equal(opened, locally["one"])


def test_a_stopped_parent_cancels_its_children(site, tmp_path):
    experiment, results = written(tmp_path, "stopped", ["ladder-21k"]), tmp_path / "results"
    opened = open_study(str(experiment), results)
    worker = site.worker("gpu", "steady", THINKSCALE_ENGINE_COMMAND=engine({"kind": "slow", "seconds": 1.0}))
    parent = site.sweep(experiment, results, name="stopped-parent")
    try:
        assert eventually(lambda: at_work(opened.store) and engines(opened), 120), site.said(parent) + site.said(worker)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) != 0
        assert eventually(lambda: not processes(opened) and not at_work(opened.store), 60), site.said(worker)
    finally:
        kill(worker)
    states = {r["name"]: r["state"]["type"] for r in site.post("flow_runs/filter", {})}
    assert states["ladder-21k of stopped"] in ("CANCELLED", "CANCELLING")
    assert f"stopped; 1 of 1 runs cancelled. To go on: python flows/sweep.py {experiment}" in site.said(parent)


def child(site, name):
    """The run of a sweep's model, by its name; None as long as there is none."""
    return next((r for r in site.post("flow_runs/filter", {}) if r["name"] == name), None)


def call_crashed(site, run):
    """What the automation does where Prefect's server was away for long."""
    site.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CRASHED", "message": "no heartbeat"}, "force": True})


def test_a_run_that_is_called_crashed_while_it_works_is_not_submitted_again(site, locally, tmp_path):
    experiment, results = written(tmp_path, "one", ["ladder-21k"], engine={"claim_timeout": 10.0}), tmp_path / "results"
    opened = open_study(str(experiment), results)
    before = {r["id"] for r in site.post("flow_runs/filter", {})}
    worker = site.worker("gpu", "unheard", THINKSCALE_ENGINE_COMMAND=engine({"kind": "slow", "seconds": 2.0}))
    parent = site.sweep(experiment, results, name="unheard-parent")
    try:
        assert eventually(lambda: opened.store.parts("samples"), 120), site.said(parent) + site.said(worker)
        (run,) = [r for r in site.post("flow_runs/filter", {}) if r["name"] == "ladder-21k of one" and r["id"] not in before]
        call_crashed(site, run)
        assert eventually(lambda: parent.poll() is not None, 120), site.said(parent)
    finally:
        kill(worker)
    assert parent.returncode == 0, site.said(parent)
    assert "ladder-21k: crashed, says Prefect, but its beat moves" in site.said(parent) and "again" not in site.said(parent)
    assert len(engines(opened)) == 1, "nothing is done twice"
    check_equal(opened, locally["one"])


def test_a_stopped_parent_cancels_a_run_that_is_called_crashed_and_works(site, tmp_path):
    experiment, results = written(tmp_path, "called", ["ladder-21k"], engine={"claim_timeout": 10.0}), tmp_path / "results"
    opened = open_study(str(experiment), results)
    worker = site.worker("gpu", "called", THINKSCALE_ENGINE_COMMAND=engine({"kind": "slow", "seconds": 1.0}))
    parent = site.sweep(experiment, results, name="called-parent")
    try:
        assert eventually(lambda: at_work(opened.store) and engines(opened), 120), site.said(parent) + site.said(worker)
        call_crashed(site, child(site, "ladder-21k of called"))
        assert eventually(lambda: "its beat moves" in site.said(parent), 30), site.said(parent)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) != 0
        assert eventually(lambda: not processes(opened) and not at_work(opened.store), 60), site.said(worker)
    finally:
        kill(worker)


SUBMIT = """
import asyncio, json, sys, sweep, pooled
from thinkscale.store import Store

content, results, how = json.loads(sys.argv[1])
given = {"experiment": content, "model": "ladder-21k", "results": results}

async def stopped(runs):
    really = pooled.arun_deployment

    async def and_then_nothing(*args, **options):
        await really(*args, **options)
        await asyncio.sleep(600)  # the answer is under way

    pooled.arun_deployment = and_then_nothing
    with runs.cancelled_at_the_end(Store(results), "", 120.0):
        waiting = asyncio.create_task(runs.submit("evaluate-model/gpu", parameters=given, flow_run_name="in flight"))
        await asyncio.sleep(8)
        waiting.cancel()
        await asyncio.wait([waiting])

async def two(runs):
    for name, queue in (("two GPUs of two", "gpus-2"), ("one GPU of two", None)):
        await runs.submit("evaluate-model/gpu", parameters=given, flow_run_name=name, work_queue_name=queue)

asyncio.run({"stopped": stopped, "two": two}[how](pooled.Runs()))
"""


def submit(site, folder, how):
    content = yaml.safe_load(written(folder, how, ["ladder-21k"]).read_text())
    command = [sys.executable, "-c", SUBMIT, json.dumps([content, str(folder / "results"), how])]
    subprocess.run(command, check=True, cwd=FLOWS, env=site.environment, timeout=120)


def test_a_run_whose_answer_was_under_way_when_we_were_stopped_is_cancelled(site, tmp_path):
    submit(site, tmp_path, "stopped")
    assert child(site, "in flight")["state"]["type"] == "CANCELLED"


def test_a_run_that_needs_two_gpus_is_taken_by_a_worker_that_has_two(site, tmp_path):
    submit(site, tmp_path, "two")

    def state(name):
        return child(site, name)["state"]["type"]

    one = site.worker("gpu", "has-one", "default", THINKSCALE_ENGINE_COMMAND=engine())
    try:
        assert eventually(lambda: state("one GPU of two") == "COMPLETED", 120), site.said(one)
        assert state("two GPUs of two") == "SCHEDULED" and child(site, "two GPUs of two")["work_queue_name"] == "gpus-2"
        other = site.worker("gpu", "has-two", "gpus-2", THINKSCALE_ENGINE_COMMAND=engine())
        try:
            assert eventually(lambda: state("two GPUs of two") == "COMPLETED", 120), site.said(other)
        finally:
            kill(other)
    finally:
        kill(one)
    ids = {name: child(site, name)["id"] for name in ("one GPU of two", "two GPUs of two")}
    assert (
        ids["two GPUs of two"] not in (site.folder / "has-one.log").read_text()
        and ids["two GPUs of two"] in (site.folder / "has-two.log").read_text()
    )


@pytest.mark.slow
def test_prefect_itself_declares_a_run_crashed_whose_node_died(tmp_path):
    """Nobody waits for this run: the automation is all there is. Its limit is shortened from 540 s to 60."""
    shorter = (
        "import asyncio, datetime, deploy; deploy.SILENCE = datetime.timedelta(seconds=60); asyncio.run(deploy.set_up(['cpu', 'gpu']))"
    )
    with Site(tmp_path / "site") as site:
        site.deploy()
        subprocess.run([sys.executable, "-c", shorter], check=True, cwd=FLOWS, env=site.environment, timeout=120)
        results = tmp_path / "results"
        opened = open_study(str(written(tmp_path, "silent", ["ladder-21k"])), results)
        slow = engine({"kind": "slow", "seconds": 60.0})
        worker = site.worker("gpu", "doomed", THINKSCALE_ENGINE_COMMAND=slow, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30")
        (found,) = [d for d in site.post("deployments/filter", {}) if d["entrypoint"].endswith("evaluate_model.py:evaluate_model")]
        content = yaml.safe_load((tmp_path / "silent.yaml").read_text())
        asked = {"parameters": {"experiment": content, "model": "ladder-21k", "results": str(results)}, "state": {"type": "SCHEDULED"}}
        run = site.post(f"deployments/{found['id']}/create_flow_run", asked)

        def state():
            return site.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[0]["state"]

        assert eventually(lambda: at_work(opened.store), 120), site.said(worker)
        assert not eventually(lambda: state()["type"] != "RUNNING", 75), "it lives, and says so"
        kill(worker)
        assert eventually(lambda: state()["type"] == "CRASHED", 180), state()
        assert state()["message"] == "no heartbeat"


@pytest.mark.slow
@pytest.mark.engine
def test_with_real_engines_a_node_dies_and_another_worker_finishes_its_model(site, tmp_path):
    experiment, results = written(tmp_path, "real", engine={"claim_timeout": 10.0}), tmp_path / "results"
    opened = open_study(str(experiment), results)
    workers = [site.worker("gpu", f"real{i}") for i in range(2)]
    parent = site.sweep(experiment, results, name="real-parent")
    try:
        assert eventually(lambda: opened.store.parts("samples"), 300), site.said(parent) + "".join(map(site.said, workers))
        assert len({seen.owner.pid for seen in at_work(opened.store)}) == 2, "two models at the same time"
        before = files(opened)
        kill(workers[0])
        assert eventually(lambda: parent.poll() is not None, 400), site.said(parent) + site.said(workers[1])
    finally:
        for worker in workers:
            kill(worker)
    assert parent.returncode == 0, site.said(parent)
    after = files(opened)
    assert {name: after[name] for name in before} == before
    graded = read_graded(opened.store.root)
    assert len(graded) == 2 * 20 * 4 * 3 and not any(owed_shards(opened, m) for m in opened.config.models)
    assert eventually(lambda: not processes(opened), 60) and os.listdir(opened.store.root / "claims") == []


# --- templates


def rendered(pool, **values):
    """A pool's job as Prefect's own code makes it from the template."""
    code = f"""
import asyncio, json, sys
sys.path.insert(0, {str(FLOWS)!r})
import deploy
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration
template = deploy.template({pool!r})
defaults = BaseJobConfiguration._get_base_config_defaults(template["variables"]["properties"])
print(json.dumps(apply_values(template["job_configuration"], {{**defaults, **json.loads(sys.argv[1])}}, remove_notset=True)))
"""
    done = subprocess.run([sys.executable, "-c", code, json.dumps(values)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def big():
    return resources(load_catalogue().models["qwen3-32b"].model_copy(update={"gpus": 4, "minutes": 720}))


def test_the_kubernetes_job_of_a_32b_model_on_four_gpus_is_the_golden_one():
    job = rendered("kubernetes", **big(), name="qwen3-32b", env=[{"name": "A", "value": "1"}], command=["python", "-m", "prefect.engine"])
    text = json.dumps(job["job_manifest"], indent=2, sort_keys=True) + "\n"
    assert text == (GOLDEN / "kubernetes-qwen3-32b.json").read_text()


def test_a_kubernetes_job_on_eight_gpus_has_image_and_volume_as_they_are_named():
    model = load_catalogue().models["qwen3-32b"].model_copy(update={"gpus": 8})
    image, path = 'reg.example:5000/a b/"x"@sha256:0f', "/shared data/{{ user }}/ü"
    job = rendered("kubernetes", **resources(model), image=image, volume_claim="claim-1.x", volume_path=path)
    pod = job["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == image and container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert container["volumeMounts"][0] == {"name": "shared", "mountPath": path}
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "claim-1.x"}


def test_a_kubernetes_job_goes_to_the_nodes_and_has_the_secret_that_its_site_names():
    said = {"node_selector": {"gpu": "h100"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}], "secret": "ours"}
    pod = rendered("kubernetes", **big(), **said)["job_manifest"]["spec"]["template"]["spec"]
    assert (pod["nodeSelector"], pod["tolerations"]) == (said["node_selector"], said["tolerations"])
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "ours", "optional": True}}]


def test_the_srun_line_of_a_32b_model_on_four_gpus_is_the_golden_one_and_runs(tmp_path):
    python = tmp_path / "a checkout" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    job = rendered("slurm", **big(), partition="a100", python=str(python), working_dir=str(python.parent))
    assert job["working_dir"] == str(python.parent)
    line = job["command"].replace(str(python), "PYTHON")
    odd = rendered("slurm", **big(), partition="a100,h100 x")  # as a site's own default, which nobody checks
    assert shlex.split(odd["command"])[1] == "--partition=a100,h100 x"
    assert line + "\n" == (GOLDEN / "srun-qwen3-32b.txt").read_text()
    srun = tmp_path / "srun"  # stands in for Slurm: notes what it was asked, runs the command
    srun.write_text(
        '#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"\nwhile case "$1" in --*) true;; *) false;; esac; do shift; done\nexec "$@"\n'
    )
    srun.chmod(0o755)
    command = shlex.split(job["command"].replace("-m prefect.engine", "-c 'print(6*7)'"))
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    assert done.stdout == "42\n" and "--gres=gpu:4" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("pool", ["slurm", "kubernetes"])
def test_what_is_said_of_a_job_is_checked_and_all_of_it_is_used(pool):
    template = json.loads((FLOWS / "pools" / f"{pool}.json").read_text())
    code = f"""
import json, sys
from prefect.server.schemas.core import WorkPool
from prefect.utilities.schema_tools.validation import is_valid_schema, validate
t = json.loads(open({str(FLOWS / "pools" / f"{pool}.json")!r}).read())
WorkPool(name="x", type="x", base_job_template=t, default_queue_id="00000000-0000-0000-0000-000000000000")
is_valid_schema(t["variables"])
errors = validate({{"gpus": "many"}}, t["variables"])
print(len(errors), len(validate({{"gpus": 4, "memory_gb": 93}}, t["variables"])))
bad = [{{"partition": "a100,h100 x"}}, {{"partition": 'a"100'}}] if "partition" in t["variables"]["properties"] else []
assert all(validate(said, t["variables"]) for said in bad) and not validate({{"partition": "a100,h100"}}, t["variables"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == ["1", "0"], done.stdout + done.stderr
    used = json.dumps(template["job_configuration"])
    assert all(f"{{{{ {name} }}}}" in used for name in template["variables"]["properties"]), (
        "a variable that no job uses is ignored in silence"
    )
