"""The speed claims, measured: ratios within one run, on the real engine and the ladder that ships.

Why: a claim of speed that nobody can repeat is worth nothing, and seconds of one machine say little about another; so both sides of
every ratio run here, in turns, on the same server with the same problems. What it does not do: print (see `flows/bench.py`), judge.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from thinkscale import serving
from thinkscale.config import FLOWS, Catalogue, Engine, Model, Sampling
from thinkscale.endpoint import Client, Endpoint
from thinkscale.forced import teacher_forced
from thinkscale.generate import AnswerKey, Generator, Room, SampleKey
from thinkscale.grading import grade_many
from thinkscale.launch import inherited_environment
from thinkscale.loading import prompt_text
from thinkscale.problems import Problem, benchmarks
from thinkscale.prompting import boundary
from thinkscale.weights import source_path

BUDGETS = (0, 6, 12, 18, 24, 32)
SAMPLES = 16
ANSWER_TOKENS = 8
REQUESTS, LENGTH, AT_ONCE = 512, 64, 64
GOLD = "one pass, gold answers scored"
API_SERVER = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")


class Timed(NamedTuple):
    """What one way of doing something took."""

    tokens: int
    """Generated, by the engine's own count."""
    seconds: float

    @property
    def speed(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds


class Ratio(NamedTuple):
    """One measured against another, over repetitions."""

    value: float
    """Median."""
    low: float
    high: float


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """First over second, of each repetition."""
    found = [a / b for a, b in zip(over, under, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


# --- the grid in one pass against run by run


@dataclass(frozen=True)
class Grid:
    """Problems × samples × budgets on one engine."""

    generator: Generator
    prompts: dict[str, list[int]]
    problems: list[Problem]

    async def one_pass(self, gold: bool = False) -> None:
        """As the flows do it: traces at the largest budget, then forced answers at every budget, then gold answers in their place."""
        keys = self._keys(SAMPLES)
        traces = await self.generator.traces(self.prompts, keys, max(BUDGETS))
        owed = [AnswerKey(*key, budget) for key in keys for budget in BUDGETS]
        await self.generator.answers(self.prompts, traces, owed, {})
        if gold:
            seen = self.generator.seen(self.prompts, traces, owed)
            await teacher_forced(self.generator, self.prompts, self.problems, {key: cut for key, (cut, _) in seen.items()})

    async def run_per_budget(self) -> None:
        """Baseline: every budget sampled on its own under a hard cap, with all samples."""
        for budget in BUDGETS:
            await self._run(budget, SAMPLES)

    async def run_per_budget_and_k(self) -> None:
        """Baseline: every (budget, k) sampled on its own, k = 1, 2, 4, ... samples."""
        for budget in BUDGETS:
            k = 1
            while k <= SAMPLES:
                await self._run(budget, k)
                k *= 2

    async def _run(self, budget: int, n: int) -> None:
        keys = self._keys(n)
        # our traces take one token past their cap, which a plain capped run does not: one less keeps the baseline's tokens honest
        cap = max(0, budget - 1)
        traces = await self.generator.traces(self.prompts, keys, cap) if cap else {}
        await self.generator.answers(self.prompts, traces, [AnswerKey(*key, cap) for key in keys], {})

    def _keys(self, n: int) -> list[SampleKey]:
        return [SampleKey(problem, i) for problem in self.prompts for i in range(n)]


async def open_grid(client: Client, catalogue: Catalogue, model: Model, engine: Engine, problems: int) -> Grid:
    """The grid over the first problems of the ladder's three skills."""
    room, tags = Room(engine.concurrency), await boundary(client, model)
    generator = Generator(client, model, tags, model.sampling, engine, ANSWER_TOKENS, room)
    known = benchmarks(catalogue)
    found = [p for name in ("sums", "swaps", "mapping") for p in known[name].load(problems // 3, 0)]
    return Grid(generator, await generator.prompts(found, prompt_text("question")), found)


async def timed(client: Client, work: Callable[[], Awaitable[Any]]) -> Timed:
    """Do it, with the engine's count of tokens."""
    before, start = (await client.metrics())["generation_tokens"], time.perf_counter()
    await work()
    seconds = time.perf_counter() - start
    return Timed(int((await client.metrics())["generation_tokens"] - before), seconds)


async def bench_grid(
    endpoint: Endpoint, catalogue: Catalogue, model: Model, problems: int = 48, repeats: int = 3
) -> dict[str, list[Timed]]:
    """Each way of filling the grid, in turns: name -> one measurement per repetition."""
    async with Client(endpoint) as client:
        grid = await open_grid(client, catalogue, model, Engine(), problems)
        single = replace(grid, generator=replace(grid.generator, engine=Engine(prompts_per_request=1)))
        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            "one pass": grid.one_pass,
            GOLD: partial(grid.one_pass, gold=True),
            "one pass, an answer a request": single.one_pass,
            "run per budget": grid.run_per_budget,
            "run per budget, an answer a request": single.run_per_budget,
            "run per (budget, k)": grid.run_per_budget_and_k,
        }
        await grid._run(6, 1)  # warm
        found: dict[str, list[Timed]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, work in ways.items():
                found[way].append(await timed(client, work))
    return found


# --- grading

GRADED = 100_000
WORDED = ("{}", "The answer is {}.", "So we get:\n**{}**", "I think it must be {}, or nearly so.", "no idea")
GRADED_SKILLS = ("sums", "reversal", "whereabouts")
"""Of the graders `number`, `exact` and `choice`."""


def bench_grading(catalogue: Catalogue, name: str, answers: int = GRADED, problems: int = 500) -> float:
    """Seconds to grade so many answers to a skill's problems: right and wrong ones in the words of chat models."""
    benchmark = benchmarks(catalogue)[name]
    found = benchmark.load(problems, 0)
    given = [found[0].answer, *(p.answer for p in found)]  # the problem's own answer, or the one's before it
    texts = [WORDED[i % len(WORDED)].format(given[i % problems + i % 2]) for i in range(answers)]
    asked = [(text, found[i % problems], False) for i, text in enumerate(texts)]
    start = time.perf_counter()
    grades = grade_many(benchmark.grader, asked)
    seconds = time.perf_counter() - start
    right = sum(grade.correct for grade in grades) / answers
    if not 0.2 < right < 0.8:
        raise RuntimeError(f"{name}: {right:.0%} of answers of which about half are right were found to be")
    return seconds


# --- throughput against vLLM's own serving benchmark

THEIRS = """
import json, os, sys
results = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # it prints much
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
for line in sys.stdin:
    found = main(parser.parse_args(sys.argv[1:]))
    print(json.dumps([found["completed"], found["total_output_tokens"], found["duration"]]), file=results, flush=True)
"""


class EndlessClient(Client):
    """Every completion runs to its cap, so that both sides generate the same number of tokens."""

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await super()._post(path, {**body, "ignore_eos": True} if path == "/v1/completions" else body)


@contextmanager
def vllm_benchmark(endpoint: Endpoint, model: Model, prompts: Sequence[str], folder: Path) -> Iterator[Callable[[], Timed]]:
    """Their serving benchmark in a process that lives on between runs (importing it takes longer than a run)."""
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    command = [sys.executable, "-c", THEIRS, "--backend", "openai", "--base-url", endpoint.base_url, "--endpoint", "/v1/completions"]
    command += ["--model", source_path(model), "--served-model-name", endpoint.model, "--tokenizer", source_path(model)]
    command += ["--dataset-name", "custom", "--dataset-path", str(data), "--skip-chat-template", "--disable-shuffle"]
    command += ["--num-prompts", str(len(prompts)), "--output-len", str(LENGTH), "--ignore-eos", "--temperature", "1"]
    command += ["--max-concurrency", str(AT_ONCE), "--disable-tqdm"]
    environment = {**inherited_environment(sys.executable), "OPENAI_API_KEY": endpoint.api_key, "HF_HUB_OFFLINE": "1"}
    log = folder / "vllm-benchmark.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def run() -> Timed:
            stdin.write("again\n")
            stdin.flush()
            line = stdout.readline()
            if not line:
                raise RuntimeError(f"vLLM's benchmark ended: {log.read_text(errors='replace')[-2000:]}")
            completed, tokens, seconds = json.loads(line)
            if (completed, tokens) != (len(prompts), len(prompts) * LENGTH):
                raise RuntimeError(f"vLLM's benchmark completed {completed} of {len(prompts)} requests with {tokens} tokens")
            return Timed(tokens, seconds)

        try:
            yield run
        finally:
            stdin.close()


async def bench_throughput(
    endpoint: Endpoint, catalogue: Catalogue, model: Model, folder: Path, repeats: int = 5
) -> dict[str, list[Timed]]:
    """The same prompts through vLLM's benchmark and through our client, in turns; and as our pipeline sends them, 16 to a request."""
    questions = [p.question for p in benchmarks(catalogue)["sums"].load(REQUESTS, 1)]
    found: dict[str, list[Timed]] = {"vLLM's benchmark": [], "ours": [], "ours, 16 to a request": []}
    async with EndlessClient(endpoint) as client:
        prompts = [await client.tokenize(q, add_special_tokens=True) for q in questions]
        with vllm_benchmark(endpoint, model, questions, folder) as theirs:
            for repeat in range(-1, repeats):
                now = {
                    "vLLM's benchmark": await asyncio.to_thread(theirs),
                    "ours": await timed(client, lambda: _complete_all(client, prompts, 1)),
                    "ours, 16 to a request": await timed(client, lambda: _complete_all(client, prompts, 16)),
                }
                if repeat >= 0:  # the first is for warming up
                    for way, measured in now.items():
                        found[way].append(measured)
    return found


async def _complete_all(client: Client, prompts: Sequence[Sequence[int]], per_request: int) -> None:
    room = Room(AT_ONCE)

    async def one(group: Sequence[Sequence[int]]) -> None:
        async with room.take(len(group)):
            await client.complete(group, 1, LENGTH, Sampling())

    await asyncio.gather(*(one(prompts[i : i + per_request]) for i in range(0, len(prompts), per_request)))


# --- seconds from starting the flow to its first request

PROBE = """
import time
class Note:
    def __init__(self, app):
        self.app = app
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/v1/completions":
            with open("completions.txt", "a") as f:
                print(time.time(), file=f)
        await self.app(scope, receive, send)
"""


class Starts(NamedTuple):
    """Seconds to the first generation request."""

    engine: list[float]
    """The engine by itself, until its first completion came back."""
    flow_first: float
    """`python flows/sweep.py` where Prefect has no database yet."""
    flow: list[float]
    """The same where it has."""


def bench_start(model: Model, folder: Path, repeats: int = 2) -> Starts:
    """The flow and the bare engine in turns; the engine itself notes when completions are asked of it."""
    (folder / "probe.py").write_text(PROBE)
    command = (*API_SERVER, "--middleware", "probe.Note")
    first = _flow_start(model, folder, command)
    engine, flow = [], []
    for _ in range(repeats):
        engine.append(engine_start(model, folder))
        flow.append(_flow_start(model, folder, command))
    return Starts(engine, first, flow)


def engine_start(model: Model, folder: Path) -> float:
    """Seconds that the engine needs by itself."""
    start = time.time()
    with serving.serve(model, Engine(), folder / "logs", seed=0):
        return time.time() - start


def _flow_start(model: Model, folder: Path, command: Sequence[str]) -> float:
    """Seconds from starting the flow to the second completion that is asked of its engine: the first only asks whether it is ready."""
    experiment = {
        "name": f"start-{time.time_ns()}",
        "asks": "How long does it take to begin?",
        "models": [model.name],
        "benchmarks": {"sums": {"problems": 4}},
        "thinking_budgets": [0, 8],
        "num_samples": 2,
        "answer_tokens": ANSWER_TOKENS,
        "engine": {"command": list(command)},
    }
    path, noted = folder / "start.yaml", folder / "completions.txt"
    path.write_text(json.dumps(experiment))
    noted.unlink(missing_ok=True)
    start = time.time()
    done = subprocess.run(
        [sys.executable, str(FLOWS / "sweep.py"), str(path), "--results", str(folder / "results")],
        cwd=folder,  # where the engine finds the probe
        env={**os.environ, "PREFECT_HOME": str(folder / "prefect")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the flow ended with status {done.returncode}: {done.stderr[-2000:]}")
    return float(noted.read_text().splitlines()[1]) - start
