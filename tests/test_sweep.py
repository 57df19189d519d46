"""The flow files' own code, without a server: what they hand on, refuse, and do with the answers of Prefect's API."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from test_deploy import written
from thinkscale.config import FLOWS


def told(code, folder):
    """What a snippet says as JSON in its last line; in a process of its own, since to import Prefect changes a process."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    mine |= {"PREFECT_HOME": str(folder / "home"), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false", "PYTHONPATH": str(FLOWS)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=mine, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SUBMITTED = """
import asyncio, contextlib, json, sweep
from thinkscale.fanout import Ended

where = []

async def in_pool(study, content, results, *rest):
    where.append((results, str(study.store.root)))
    return Ended("failed", "no workers here")

@contextlib.asynccontextmanager
async def quietly(study):
    yield

sweep._in_pool, sweep.show_cells = in_pool, quietly
for results in ("mine", "memory://mine"):
    try:
        asyncio.run(sweep.sweep.fn("smoke", results, "gpu"))
    except sweep.Unfinished as e:
        where.append(str(e).splitlines()[-1])
print(json.dumps(where))
"""


def test_a_relative_folder_is_the_same_one_for_workers_and_for_who_waits(tmp_path):
    found = told(SUBMITTED, tmp_path)
    here = str(tmp_path / "mine")
    assert found[:2] == [[here, f"{here}/smoke"]] * 2 and f"--results {here} --pool gpu" in found[2], found
    assert found[3:5] == [["memory://mine", "memory://mine/smoke"]] * 2 and "--results memory://mine --pool" in found[5]


REFUSED = """
import asyncio, json, evaluate_model
from thinkscale.config import ConfigError

said = []
for model in ("ladder-21k", "qwen3-32b", "nobody"):
    try:
        asyncio.run(evaluate_model.evaluate_model.fn({experiment!r}, model, "out"))
    except ConfigError as e:
        said.append(str(e))
print(json.dumps(said))
"""


def test_a_model_of_another_experiment_is_refused_before_its_engine_starts(tmp_path):
    experiment = str(written(tmp_path, "two", ["ladder-100k", "ladder-46k"], scorer="ladder-verifier"))
    there = "Give one of its models: ladder-100k, ladder-46k; scorer: ladder-verifier."
    assert told(REFUSED.format(experiment=experiment), tmp_path) == [
        f"model: '{m}' is none of experiment 'two'. {there}" for m in ("ladder-21k", "qwen3-32b", "nobody")
    ]
    assert not (tmp_path / "out").exists()


POOL = """
import asyncio, contextlib, json, logging, sys, time, types, uuid
sys.path.insert(0, {tests!r})
import sweep
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Completed, Crashed, Pending, Running, Scheduled
from fakes import model
from thinkscale.claims import Claims
from thinkscale.console import travelling
from thinkscale.plan import open_study

sweep.POLL_SECONDS, sweep.HINT_SECONDS = 0.05, 0.3
study, said, found = open_study({experiment!r}, {results!r}), [], {{}}
timeout = study.config.engine.claim_timeout
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("thinkscale").addHandler(handler)
logging.getLogger("thinkscale").setLevel(logging.INFO)
ended = []
sweep._end = lambda run, **how: ended.append(how)

def in_pool(runs, label="label", pool="gpu", name="ladder-21k"):
    return sweep._in_pool(study, {{}}, {results!r}, runs, pool, name, label)

class Api:
    '''Runs that it was asked for, with the states that it is told to say.'''

    def __init__(self, *states, pause=lambda: 0.0):
        self.states, self.pause, self.asked, self.at_once, self.looks = list(states), pause, [], 0, []
        sweep.arun_deployment, sweep._states = self.submit, self.now

    async def submit(self, deployment, *, flow_run_name, **how):
        assert not self.at_once, "one after the other"
        self.at_once += 1
        await asyncio.sleep(self.pause())
        self.at_once -= 1
        self.asked.append((flow_run_name, how))
        return types.SimpleNamespace(id=uuid.uuid5(uuid.NAMESPACE_URL, flow_run_name))

    async def now(self, runs):
        self.looks.append(len(self.asked))
        return dict.fromkeys(runs, self.states.pop(0) if len(self.states) > 1 else self.states[0])

    @property
    def run(self):
        return str(uuid.uuid5(uuid.NAMESPACE_URL, "label of two"))

{scenario}

print(json.dumps(found))
"""


def scenario(folder, code):
    experiment = str(written(folder, "two"))
    here = str(Path(__file__).parent)
    return told(POOL.format(tests=here, experiment=experiment, results=str(folder / "out"), scenario=textwrap.dedent(code)), folder)


def test_runs_are_submitted_in_their_order_one_at_a_time_and_each_is_waited_for_at_once(tmp_path):
    found = scenario(
        tmp_path,
        """
        async def all_of_them():
            runs, waits = sweep.Runs(), iter((0.2, 0.0, 0.1, 0.0, 0.2))
            api = Api(Scheduled(), Completed(), pause=lambda: next(waits))
            async with asyncio.TaskGroup() as group:
                for number in range(5):
                    group.create_task(in_pool(runs, f"run {number}"))
            return [name for name, _ in api.asked], api.looks[0]

        found["order"], found["first look after"] = asyncio.run(all_of_them())
        """,
    )
    assert found["order"] == [f"run {number} of two" for number in range(5)]
    assert found["first look after"] < 5, "it does not wait until the last is submitted"


def test_a_run_that_prefect_calls_crashed_is_listened_to_while_its_beat_moves(tmp_path):
    found = scenario(
        tmp_path,
        """
        async def while_it_beats(seconds):
            api, begun = Api(Running(), Crashed(message="no heartbeat")), time.monotonic()
            waiting = asyncio.create_task(in_pool(sweep.Runs()))
            with Claims(study.store, "ladder-21k", timeout, "", api.run):
                await asyncio.sleep(seconds)
                still = not waiting.done()
            now = time.monotonic()
            how = await waiting
            return still, how.how, how.said, time.monotonic() - now

        async def dead():
            api = Api(Running(), Running(), Crashed(message="no heartbeat"))
            waiting = asyncio.create_task(in_pool(sweep.Runs()))
            Claims(study.store, "ladder-21k", timeout, "", api.run)._beat(1)  # and never again: killed on another machine
            begun = time.monotonic()
            how = await waiting
            return how.how, time.monotonic() - begun

        async def never_there():
            Api(Crashed(message="OOM"))
            begun = time.monotonic()
            return (await in_pool(sweep.Runs(), "other")).how, time.monotonic() - begun

        async def stopped():
            api = Api(Crashed(message="no heartbeat"))
            with Claims(study.store, "ladder-21k", timeout, "", api.run):
                waiting = asyncio.create_task(in_pool(sweep.Runs()))
                await asyncio.sleep(0.5)
                waiting.cancel()
                await asyncio.wait([waiting])

        found["beats"] = asyncio.run(while_it_beats(2.5 * timeout))
        found["left alone"] = list(ended)
        asyncio.run(stopped())
        found["stopped"] = list(ended)
        found["never there"] = asyncio.run(never_there())
        found["dead"] = asyncio.run(dead())
        found["said"] = said
        """,
    )
    still, how, why, after = found["beats"]
    assert still, "it lived for longer than any patience"
    assert (how, why) == ("lost", "no heartbeat") and after < 1, "it was done: what is owed decides"
    assert found["left alone"] == [] and found["stopped"] == [{"silent": False, "overruled": True}]
    assert found["never there"][0] == "lost" and found["never there"][1] < 1
    assert found["dead"][0] == "lost" and 2 < found["dead"][1] < 6 + 1, "within twice the claim timeout of 3 s"
    assert "label: crashed, says Prefect, but its beat moves" in found["said"]


def test_a_run_that_was_being_submitted_when_we_were_stopped_is_cancelled(tmp_path):
    found = scenario(
        tmp_path,
        """
        done, answers = [], [[], [types.SimpleNamespace(id="the run")]]

        class Client:
            def read_flow_runs(self, flow_run_filter):
                done.append(("looked for", flow_run_filter.idempotency_key.any_))
                return answers.pop(0)

            def set_flow_run_state(self, run, state):
                done.append((run, state.type.value))

        @contextlib.contextmanager
        def get_client(sync_client):
            yield Client()

        async def stopped():
            keys = []

            async def submit(deployment, *, idempotency_key, **how):
                keys.append(idempotency_key)
                await asyncio.sleep(60)

            sweep.arun_deployment, sweep.get_client, runs = submit, get_client, sweep.Runs()
            waiting = [asyncio.create_task(in_pool(runs, f"run {number}")) for number in range(2)]
            await asyncio.sleep(0.1)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            return keys

        found["keys"], found["done"] = asyncio.run(stopped()), done
        """,
    )
    (key,) = found["keys"]
    assert found["done"] == [["looked for", [key]]] * 2 + [["the run", "CANCELLING"]], "and nothing of the one whose turn had not come"


def test_a_run_that_no_worker_takes_says_what_it_waits_for_once(tmp_path):
    found = scenario(
        tmp_path,
        """
        study.catalogue.models["ladder-100k"] = study.catalogue.models["ladder-100k"].model_copy(update={"gpus": 2})
        for pool, name in (("gpu", "ladder-21k"), ("gpu", "ladder-100k"), ("slurm", "ladder-100k")):
            api = Api(*[Scheduled()] * 20, Completed())
            asyncio.run(in_pool(sweep.Runs(), f"{pool} {name}", pool, name))
            found[f"{pool} {name}"] = api.asked[0][1]["work_queue_name"]
        found["said"] = [line for line in said if "waits for" in line]
        """,
    )
    assert found["said"] == [
        "gpu ladder-21k waits for a worker of pool gpu: prefect worker start --pool gpu --work-queue default --limit 1",
        "gpu ladder-100k waits for a worker of pool gpu: prefect worker start --pool gpu --work-queue gpus-2 --limit 1",
        "slurm ladder-100k waits for a worker of pool slurm: prefect worker start --pool slurm",
    ]
    assert [found[run] for run in ("gpu ladder-21k", "gpu ladder-100k", "slurm ladder-100k")] == [None, "gpus-2", None]


def test_a_pool_without_a_server_is_refused_in_one_line(tmp_path):
    mine = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")} | {"PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, str(FLOWS / "sweep.py"), "smoke", "--results", str(tmp_path / "out"), "--pool", "gpu"]
    done = subprocess.run(command, env=mine, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not done.stdout and not (tmp_path / "out").exists()
    assert done.stderr.startswith("error: --pool gpu: PREFECT_API_URL is not set") and done.stderr.count("\n") == 1
