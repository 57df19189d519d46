"""Small studies on models that do not exist, run without a server or with the fake engine.

Why: what is owed, shared, killed and resumed must be testable in seconds, without weights.
What it does not do: quality; tokens are hashes.
"""

import asyncio
import dataclasses
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml

from thinkscale import evaluate, scoring
from thinkscale.config import FLOWS, Catalogue, Engine, Model, Sampling, Shape, Thinking
from thinkscale.endpoint import Endpoint, Vitals, check_choices
from thinkscale.generate import Generator, Room
from thinkscale.grades import publish_problems
from thinkscale.loading import load_experiment
from thinkscale.plan import Study, owed_shards
from thinkscale.problems import benchmarks
from thinkscale.prompting import boundary
from thinkscale.schema import TABLES
from thinkscale.shards import run_shard
from thinkscale.store import Store

FAKE_VLLM = (sys.executable, str(Path(__file__).resolve().parent / "fake_vllm.py"))
END, USER, ASSISTANT, OPEN, CLOSE = 1, 2, 3, 4, 5
WAIT = (9, 10, 11)


def model(name="fake-100k", **changes):
    heads, params = (1, 21_000) if "21k" in name else (2, 100_000)
    sizes = {"hidden_size": 32 * heads, "num_layers": 2, "num_heads": heads, "num_kv_heads": heads, "head_dim": 32}
    shape = Shape(**sizes, intermediate_size=80, vocab_size=64)
    fields = {"name": name, "family": "fake", "source": f"org/{name}", "shape": shape, "context": 256}
    fields |= {"tool_parser": None if "21k" in name else "hermes"}
    fields |= {"params": params, "params_active": params, "params_non_embedding": params - 2000 * heads}
    return Model(**{**fields, "thinking": Thinking(open="<think>", close="</think>"), **changes})


def study(folder, **changes):
    """A study of fake models, its YAML and results in `folder`; `changes` are keys of the YAML."""
    fields = {"name": "fake", "asks": "Is anything lost?", "models": ["fake-100k"], "benchmarks": {"mapping": {"problems": 12}}}
    fields |= {"thinking_budgets": [0, 6, 16], "num_samples": 4, "answer_tokens": 6, "shard_problems": 4}
    (Path(folder) / "fake.yaml").write_text(yaml.safe_dump({**fields, "engine": {"command": list(FAKE_VLLM)}, **changes}))
    return reopen(folder)


def reopen(folder):
    """A study as its YAML was written."""
    scorer = model("fake-scorer", family="scorer", runner="pooling")
    catalogue = Catalogue(models={m.name: m for m in (model("fake-21k"), model("fake-100k"), scorer)}, benchmarks={}, gpus={})
    known = benchmarks(catalogue)
    config = load_experiment(str(Path(folder) / "fake.yaml"), catalogue, {n: b.extent for n, b in known.items()})
    return Study(config, catalogue, known, Store(Path(folder) / "out"))


class Toy:
    """A client without a server: every token is a function of all ids before it (and of the draw, for the first), as in a language model.

    So a trace that is cut and continued must come out as the one that ran on. Keeps what it was asked, and how much at once.
    """

    def __init__(self, *, seeds=False, engine_seed=0, fail_after=None, error=None):
        self.endpoint = Endpoint("http://nowhere", "", "toy", "toy 0 float32 cpu", None, seeds, Vitals(owned=False))
        self.engine_seed, self.fail_after, self.error = engine_seed, fail_after, error
        self.requests, self.drawn, self.in_flight, self.most_in_flight = [], 0, 0, 0

    async def tokenize(self, text, **_):
        if not isinstance(text, str):
            return [USER, *(6 + ord(c) % 58 for c in text[0]["content"]), ASSISTANT]
        return {"<think>": [OPEN], "</think>": [CLOSE], "</think>\n": [CLOSE, 63]}[text]

    async def detokenize(self, ids):
        return "".join({OPEN: "<think>", CLOSE: "</think>"}.get(i, "?") for i in ids)

    async def complete(self, prompts, n, max_tokens, sampling, stop_token_ids=(), seed=None, **more):
        request = {"prompts": [tuple(p) for p in prompts], "n": n, "max_tokens": max_tokens, "stop": tuple(stop_token_ids), "seed": seed}
        self.in_flight += len(prompts) * n
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0.001)
            if self.fail_after is not None and len(self.requests) >= self.fail_after:
                raise self.error
        finally:
            self.in_flight -= len(prompts) * n
        self.requests.append(request)
        draws = [(p, self.engine_seed if seed is None else seed + i, i) for p in prompts for i in range(n)]
        found = [self._draw(tuple(p), draw, max_tokens, {END, *stop_token_ids}) for p, *draw in draws]
        choices = [
            {"index": i, "token_ids": ids, "text": "".join(map(chr, (64 + t for t in ids if t > 5))), "finish_reason": reason}
            for i, (ids, reason) in enumerate(found)
        ]
        for choice in choices if "logprobs" in more else ():
            ids = choice["token_ids"]
            choice["logprobs"] = {"tokens": [chr(64 + t) for t in ids], "token_logprobs": [-t / 64 for t in ids]}
        self.drawn += sum(len(ids) for ids, _ in found)
        answer = {"choices": choices, "usage": {"completion_tokens": sum(len(ids) for ids, _ in found)}}
        return check_choices(answer, prompts, n, max_tokens, logprobs="logprobs" in more)

    def _draw(self, prompt, draw, max_tokens, stops):
        ids = []
        while len(ids) < max_tokens:
            first = not ids and prompt[-1] == OPEN
            u = _hash((*prompt, *ids), draw if first else None)
            thinking = CLOSE not in prompt
            ended = 0.02 if thinking else 0.4
            ids.append(END if u < ended else CLOSE if u < ended + 0.08 and thinking else 6 + int(u * 1e6) % 58)
            if ids[-1] in stops:
                return ids, "stop"
        return ids, "length"


def _hash(*key):
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big") / 2**48


async def generator(client, *, entry=None, concurrency=64, prompts_per_request=64, answer_tokens=6, **how):
    """A generator on a toy client."""
    entry = entry or model()
    engine = Engine(concurrency=concurrency, prompts_per_request=prompts_per_request)
    return Generator(client, entry, await boundary(client, entry), Sampling(), engine, answer_tokens, Room(concurrency), **how)


def run_toy(opened, **toy):
    """Do all that a study owes on a toy client, shard by shard; returns the client."""

    async def go(name):
        shards = owed_shards(opened, name)
        client = Toy(**{"engine_seed": evaluate.engine_seed(opened, name, shards), **toy})
        for shard in shards:
            publish_problems(opened.store, shard.benchmark, opened.problems(shard.benchmark.name))
            how = {"route": shard.trace_set.route, "wait": WAIT if shard.trace_set.route.wait else ()}
            g = await generator(client, entry=opened.catalogue.models[name], answer_tokens=opened.config.answer_tokens, **how)
            await run_shard(shard, g, opened.store)
        return client

    return [asyncio.run(go(name)) for name in opened.config.models][-1]


class Dying(Store):
    """A store whose process is killed before its `count`-th part of a table is published."""

    def __init__(self, root, table, count):
        super().__init__(root)
        self.table, self.left, self.one_at_a_time = table, count, threading.Lock()

    def publish(self, table, name, rows, **options):
        with self.one_at_a_time:  # two shards are under way: the parts before the fatal one are whole
            self.left -= table == self.table
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().publish(table, name, rows, **options)


def run_fake(opened, **options):
    """Do all that a study owes on the fake engine; returns how many shards that took."""
    return sum(asyncio.run(evaluate.evaluate(opened, name, **options)) for name in opened.config.models)


def score_fake(opened):
    """Have the fake scorer read what is owed it; returns how many parts."""
    return asyncio.run(scoring.score(opened))


def start_child(opened, die_before=None):
    """`run_fake` in a process of its own; with (table, count) it dies before that part is published."""
    folder = str(opened.store.root.parent)
    code = f"import fakes; fakes.run_child({folder!r}, {die_before!r})"
    path = os.pathsep.join((str(FLOWS), str(Path(__file__).parent)))
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)


def run_child(folder, die_before):
    opened = reopen(folder)
    ran = run_fake(dataclasses.replace(opened, store=Dying(opened.store.root, *die_before)) if die_before else opened)
    print(f"ran {ran}", file=sys.stderr)


def engines(opened):
    """Port of every engine that was started, in order of the start."""
    logs = sorted(opened.store.root.glob("logs/*.log"), key=lambda p: p.stat().st_mtime_ns)
    return [int(re.search(r"--port (\d+)", p.read_text())[1]) for p in logs]


def processes(opened):
    """Command lines of engines of this study, and of their supervisors, that still run."""
    ports, found = {str(p).encode() for p in engines(opened)}, []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--port" in words and words[words.index(b"--port") + 1] in ports:
            found.append(b" ".join(words).decode())
    return found


def eventually(condition, seconds=60.0):
    """Wait until it holds; False where it does not in time: so many seconds of a machine that has time for us."""
    end = time.monotonic() + seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def rows(opened, table, *, without=()):
    """A table as a list of rows, sorted by key."""
    found = opened.store.read(table).to_pylist()
    found.sort(key=lambda row: tuple(row[c] for c in TABLES[table].key))
    return [{c: v for c, v in row.items() if c not in without} for row in found]


def files(opened, *tables):
    """Every published part: name -> bytes."""
    return {f"{t}/{p.name}": p.read_bytes() for t in tables or ("problems", "samples", "answers", "grades") for p in opened.store.parts(t)}
