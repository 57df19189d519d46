"""What the orchestrator costs: `make bench` runs this and prints its figures. Standard output: one JSON object.

Simulated workers: threads that evaluate one model from one results folder, with claims, store and HTTP client as they are, against a server
that answers every request after a set time. Prefect: a real server, one worker, a sweep through it with the fake engine.
"""

import asyncio
import gc
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import yaml
from aiohttp import web

from fakes import FAKE_VLLM, eventually
from prefect_site import Site
from thinkscale import evaluate, supervise
from thinkscale.config import FLOWS
from thinkscale.plan import open_study, owed_shards

LATENCY = 5.0  # seconds of a request: with one for traces and one for answers a shard takes 10
ROUNDS = 4  # shards that a worker does one after the other, two side by side; as many as five minutes for all allow
WORKERS = (1, 2, 4, 8)


class Engine:
    """An engine that is never busy: any number of requests, each answered after a set time."""

    def __init__(self, latency):
        self.latency = latency

    def app(self):
        app = web.Application(client_max_size=2**30)
        for path in ("/health", "/version", "/metrics"):
            app.router.add_get(path, self.get)
        for path in ("/tokenize", "/detokenize", "/v1/completions"):
            app.router.add_post(path, self.post)
        return app

    async def get(self, request):
        return web.Response(text="") if request.path == "/metrics" else web.json_response({"version": "simulated"})

    async def post(self, request):
        body = await request.json()
        if request.path == "/tokenize":
            tags = {"<think>": [4], "</think>": [5]}
            return web.json_response({"tokens": tags.get(body.get("prompt"), [7, 8, 9])})
        if request.path == "/detokenize":
            return web.json_response({"prompt": {4: "<think>", 5: "</think>"}.get(body["tokens"][0], "x")})
        if body["max_tokens"] > 1:
            await asyncio.sleep(self.latency)
        ids = [5 if 5 in body.get("stop_token_ids", ()) else 9]
        one = {"text": "1", "token_ids": ids, "finish_reason": "stop", "stop_reason": None}
        one["logprobs"] = {"tokens": ["1"], "token_logprobs": [-0.1]}
        choices = [{**one, "index": i} for i in range(len(body["prompt"]) * body.get("n", 1))]
        return web.json_response({"choices": choices, "usage": {"completion_tokens": len(choices)}})


@contextmanager
def engine(latency):
    """Its URL. In a process of its own, as engines are: what it computes is not the orchestrator's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(latency, listening), daemon=True)
        process.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            urlopen(f"{url}/health", timeout=60).close()  # it listens already: this waits until it answers
            yield url
        finally:
            process.kill()
            process.join()


def serve(latency, listening):
    """Answer until killed."""
    web.run_app(Engine(latency).app(), sock=listening, access_log=None, print=None)


def simulated(folder, workers, rounds=ROUNDS, latency=LATENCY):
    """Seconds that so many workers take for so many times the work, and how much memory more than before."""
    with engine(latency) as url:
        return worked(folder, workers, rounds, latency, url)


def worked(folder, workers, rounds, latency, url):
    """As `simulated`, on this engine."""
    problems = 10 * workers * evaluate.SHARDS_AT_ONCE * rounds
    fields = {
        "name": f"simulated{workers}-{rounds}",
        "asks": "?",
        "models": ["ladder-21k"],
        "thinking_budgets": [0, 8, 16],
        "num_samples": 8,
    }
    fields |= {"benchmarks": {"sums": {"problems": problems}}, "answer_tokens": 8, "shard_problems": 10}
    fields["engine"] = {"base_url": url, "concurrency": 100_000, "prompts_per_request": 100_000}
    path = folder / f"{fields['name']}.yaml"
    path.write_text(yaml.safe_dump(fields))
    opened = open_study(str(path), folder)
    opened.problems("sums")  # drawn once: on a cluster each worker's process does it for itself, not in the others' way
    os.environ["no_proxy"] = "127.0.0.1"
    before, begun = memory(), time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        ran = list(pool.map(lambda _: asyncio.run(evaluate.evaluate(opened, "ladder-21k")), range(workers)))
    seconds = time.monotonic() - begun
    assert sum(ran) == workers * evaluate.SHARDS_AT_ONCE * rounds, ran
    return {"workers": workers, "rounds": rounds, "latency": latency, "seconds": seconds, "more_mb": memory() - before}


def memory():
    """Resident now, in MB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def cpu_seconds(process):
    """CPU time of a process and all it started."""
    ticks = 0
    for pid in [process.pid, *supervise.members(process.pid)]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def through_prefect(folder):
    """Seconds of a model run beyond its shards, and what a shard costs the server."""
    shards = 60
    fields = yaml.safe_load((FLOWS / "experiments" / "smoke.yaml").read_text()) | {"name": "many", "models": ["ladder-21k"]}
    fields |= {"benchmarks": {"sums": {"problems": shards}}, "num_samples": 1, "shard_problems": 1}
    path = folder / "many.yaml"
    path.write_text(yaml.safe_dump(fields))
    opened = open_study(str(path), folder)
    with Site(folder / "site") as site:
        site.deploy()
        worker = site.worker("gpu", "bench", THINKSCALE_ENGINE_COMMAND=" ".join(FAKE_VLLM))
        assert eventually(lambda: "started" in site.said(worker), 60)
        database = folder / "site" / "home" / "prefect.db"

        def server_state():
            return cpu_seconds(site.server), sum(p.stat().st_size for p in database.parent.glob("prefect.db*")) / 1e6

        before = server_state()
        assert site.sweep(path, folder, name="first").wait(240) == 0
        assert not owed_shards(opened, "ladder-21k")
        time.sleep(10)  # the server records task runs after they happened
        after = server_state()
        begun = time.monotonic()
        assert site.sweep(path, folder, name="second").wait(240) == 0  # nothing is owed: all that it costs is the orchestration
        model_run = time.monotonic() - begun
    return {"shards": shards, "model_run_seconds": model_run, "server_cpu": after[0] - before[0], "server_mb": after[1] - before[1]}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="thinkscale-bench-") as name:
        place = Path(name)
        simulated(place, 1, rounds=1, latency=0.1)  # what is made once for a process
        found = {
            "long": simulated(place, 1, rounds=40, latency=0.25),
            "simulated": [simulated(place, workers) for workers in WORKERS],
            "prefect": through_prefect(place),
        }
    json.dump(found, sys.stdout)
