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

sweep.in_pool, sweep.show_cells = in_pool, quietly
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
import asyncio, contextlib, json, logging, os, socket, sys, threading, time, types, uuid
sys.path.insert(0, {tests!r})
import sweep, pooled  # the first settles how Prefect is used
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Pending, Running, Scheduled
from fakes import model
from thinkscale.claims import Claims
from thinkscale.console import travelling
from thinkscale.plan import open_study

pooled.POLL_SECONDS, pooled.HINT_SECONDS = 0.05, 0.3
study, said, found = open_study({experiment!r}, {results!r}), [], {{}}
timeout = study.config.engine.claim_timeout
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("thinkscale").addHandler(handler)
logging.getLogger("thinkscale").setLevel(logging.INFO)
def in_pool(runs, label="label", pool="gpu", name="ladder-21k"):
    return pooled.in_pool(study, {{}}, {results!r}, runs, pool, name, label)

class Api:
    '''Runs that it was asked for, with the states that it is told to say.'''

    def __init__(self, *states, pause=lambda: 0.0):
        self.states, self.pause, self.asked, self.at_once, self.looks = list(states), pause, [], 0, []
        pooled.arun_deployment, pooled._states = self.submit, self.now

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

class Client:
    '''What of Prefect's client is used to end runs; notes what it is asked.'''

    def __init__(self, gone=(), takes=0.0, there=()):
        self.gone, self.takes, self.there, self.done, self.made = gone, takes, list(there), [], 0
        self.at_once, self.most, self.lock = 0, 0, threading.Lock()
        pooled.get_client = self.get

    @contextlib.contextmanager
    def get(self, sync_client):
        self.made += 1
        yield self

    def set_flow_run_state(self, run, state, force=False):
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.done.append((str(run), state.type.value, force))
        time.sleep(self.takes)
        with self.lock:
            self.at_once -= 1
        if str(run) in self.gone:
            raise ObjectNotFound(http_exc=Exception())

    def read_flow_runs(self, flow_run_filter):
        self.done.append(("looked for", *flow_run_filter.idempotency_key.any_))
        return self.there.pop(0)

async def stopped(waiting, seconds):
    '''A sweep of these runs is stopped after so long: returns them, and how long it took.'''
    runs = pooled.Runs()

    async def all_of_them():
        with runs.cancelled_at_the_end(study.store, "THE COMMAND", 120.0):
            async with asyncio.TaskGroup() as group:
                for label in waiting:
                    group.create_task(in_pool(runs, label))

    going = asyncio.create_task(all_of_them())
    await asyncio.sleep(seconds)
    begun = time.monotonic()
    going.cancel()
    await asyncio.wait([going])
    assert going.cancelled()
    return time.monotonic() - begun

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
            runs, waits = pooled.Runs(), iter((0.2, 0.0, 0.1, 0.0, 0.2))
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
            waiting = asyncio.create_task(in_pool(pooled.Runs()))
            with Claims(study.store, "ladder-21k", timeout, "", api.run):
                await asyncio.sleep(seconds)
                still = not waiting.done()
            now = time.monotonic()
            how = await waiting
            return still, how.how, how.said, time.monotonic() - now

        async def dead():
            api = Api(Running(), Running(), Crashed(message="no heartbeat"))
            waiting = asyncio.create_task(in_pool(pooled.Runs()))
            Claims(study.store, "ladder-21k", timeout, "", api.run)._beat(1)  # and never again: killed on another machine
            begun = time.monotonic()
            how = await waiting
            return how.how, time.monotonic() - begun

        async def never_there():
            Api(Crashed(message="OOM"))
            begun = time.monotonic()
            return (await in_pool(pooled.Runs(), "other")).how, time.monotonic() - begun

        async def and_we_are_stopped():
            api = Api(Crashed(message="no heartbeat"))
            with Claims(study.store, "ladder-21k", timeout, "", api.run):
                await stopped(["label"], 0.5)

        client = Client()
        found["beats"] = asyncio.run(while_it_beats(2.5 * timeout))
        found["left alone"] = list(client.done)
        asyncio.run(and_we_are_stopped())
        found["stopped"] = [how for _, *how in client.done]
        found["never there"] = asyncio.run(never_there())
        found["dead"] = asyncio.run(dead())
        found["said"] = said
        """,
    )
    still, how, why, after = found["beats"]
    assert still, "it lived for longer than any patience"
    assert (how, why) == ("lost", "no heartbeat") and after < 1, "it was done: what is owed decides"
    assert found["left alone"] == [] and found["stopped"] == [["CANCELLING", True]]
    assert found["never there"][0] == "lost" and found["never there"][1] < 1
    assert found["dead"][0] == "lost" and 2 < found["dead"][1] < 6 + 1, "within twice the claim timeout of 3 s"
    assert "label: crashed, says Prefect, but its beat moves" in found["said"]


def test_a_run_that_was_being_submitted_when_we_were_stopped_is_cancelled(tmp_path):
    found = scenario(
        tmp_path,
        """
        client, keys = Client(there=[[], [types.SimpleNamespace(id="the run")]]), []

        async def submit(deployment, *, idempotency_key, **how):
            keys.append(idempotency_key)
            await asyncio.sleep(60)

        pooled.arun_deployment = submit
        asyncio.run(stopped(["run 0", "run 1"], 0.1))
        found["keys"], found["done"] = keys, client.done
        """,
    )
    (key,) = found["keys"]
    assert found["done"] == [["looked for", key]] * 2 + [["the run", "CANCELLING", False]], "and nothing of the one whose turn had not come"


def test_a_stopped_sweep_cancels_many_runs_within_seconds_and_those_that_work_before_those_that_wait(tmp_path):
    """Prefect kills a flow 30 s after it asked it to end."""
    found = scenario(
        tmp_path,
        """
        api, client, labels = Api(Scheduled()), Client(takes=0.02), [f"run {number}" for number in range(100)]
        works = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"run {number} of two")) for number in range(90, 100)]

        async def now(runs):
            return {run: Running() if str(run) in works else Scheduled() for run in runs}

        class Listener(pooled.Listener):
            def silence(self):
                found["listened"] = client.made > 0 or found.get("listened", False)
                return super().silence()

        pooled._states, pooled.Listener = now, Listener
        found["took"] = asyncio.run(stopped(labels, 3.0))
        found["cancelled"], found["first"] = len({run for run, *_ in client.done}), {run for run, *_ in client.done[:10]} == set(works)
        found["made"], found["most"], found["last"] = client.made, client.most, said[-1]
        """,
    )
    assert found["cancelled"] == 100 and found["first"] and (found["made"], found["most"]) == (1, 4)
    assert found["took"] < 10 and not found.get("listened"), "none asks the results folder whether it lives"
    assert found["last"] == "stopped; 100 of 100 runs cancelled. To go on: THE COMMAND"


def test_who_could_not_be_cancelled_is_said_with_where_it_works(tmp_path):
    found = scenario(
        tmp_path,
        """
        api = Api(Running())
        Client(gone=(api.run,))
        with Claims(study.store, "ladder-21k", timeout, "", api.run):
            asyncio.run(stopped(["label", "other"], 0.3))

        def away(sync_client):
            raise RuntimeError("Failed to reach API at http://there")

        pooled.get_client = away
        asyncio.run(stopped(["label"], 0.3))
        found["said"] = [line for line in said if "cancelled" in line]
        found["pid"], found["host"] = os.getpid(), socket.gethostname()
        """,
    )
    assert found["said"] == [
        "label of two could not be cancelled (Prefect's server has this run no more); "
        f"it works on {found['host']}; to stop it there: kill {found['pid']}",
        "stopped; 1 of 2 runs cancelled. To go on: THE COMMAND",
        "label of two could not be cancelled (Failed to reach API at http://there); nobody there is heard of who works on it",
        "stopped; 0 of 1 runs cancelled. To go on: THE COMMAND",
    ]


def test_a_run_that_no_worker_takes_says_what_it_waits_for_once(tmp_path):
    found = scenario(
        tmp_path,
        """
        study.catalogue.models["ladder-100k"] = study.catalogue.models["ladder-100k"].model_copy(update={"gpus": 2})
        for pool, name in (("gpu", "ladder-21k"), ("gpu", "ladder-100k"), ("slurm", "ladder-100k")):
            api = Api(*[Scheduled()] * 20, Completed())
            asyncio.run(in_pool(pooled.Runs(), f"{pool} {name}", pool, name))
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


NIGHTS = """
import asyncio, contextlib, json, os, shutil, sys
sys.path.insert(0, {tests!r})
import sweep
from fakes import FAKE_VLLM
from thinkscale import evaluate
from thinkscale.fanout import Ended

async def in_pool(study, content, results, runs, pool, model, label):
    try:
        await evaluate.evaluate(study, model)
        return Ended("completed")
    except Exception as e:
        return Ended("failed", type(e).__name__)

@contextlib.asynccontextmanager
async def quietly(study):
    yield

def night(command, fresh=True):
    os.environ["THINKSCALE_ENGINE_COMMAND"] = command
    try:
        asyncio.run(sweep.sweep.fn({experiment!r}, "mine", "gpu", 1, fresh))
        how = "completed"
    except sweep.Unfinished as e:
        how = str(e).splitlines()[-1]
    return how, sorted(os.listdir("mine"))

sweep.in_pool, sweep.show_cells = in_pool, quietly
working = " ".join(FAKE_VLLM)
print(json.dumps([night(working, False), night(working), night(working), night("false"), night("false"), night("false", False)]))
"""


def test_a_sweep_of_every_night_starts_engines_every_night_and_leaves_nothing_but_what_failed(tmp_path):
    experiment = str(written(tmp_path, "one", ["ladder-21k"], engine={"max_restarts": 0}))
    mine, first, second, broken, again, owes_nothing = told(
        NIGHTS.format(tests=str(Path(__file__).parent), experiment=experiment), tmp_path
    )
    assert mine == first == second == ["completed", ["one"]], "a folder that was there is left alone"
    (failed,) = set(broken[1]) - {"one"}
    assert failed.startswith("fresh-20") and broken[0].endswith(f"--results {tmp_path / 'mine' / failed} --pool gpu")
    assert (tmp_path / "mine" / failed / "one" / "logs").is_dir(), "to be looked at"
    assert len(again[1]) == 3 and again[0] != broken[0], "each night has its own"
    assert owes_nothing[0] == "completed"
