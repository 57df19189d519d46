"""The flow files' own code, without a server: what they hand on, refuse, and do with the answers of Prefect's API."""

import json
import os
import subprocess
import sys

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
