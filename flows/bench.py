"""The speed claims of the README, measured on this machine: python flows/bench.py [PART ...].

Ratios within one run, each the median of a few repetitions, with the range: what the range shows is the machine's noise. A line for each
claim; ends with status 1 where one is missed.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from rich.console import Console
from rich.table import Table

from thinkscale import bench, serving
from thinkscale.config import FLOWS, Catalogue, Engine, Model
from thinkscale.loading import load_catalogue

PARTS = ("grid", "throughput", "start", "grading", "analysis", "orchestrator")
MODEL = "ladder-100k"
TESTS = FLOWS.parent / "tests"
SWEEP = (100, 100)
"""Models × shards of the sweep that the orchestrator's cost is computed for."""
PROBLEMS = (10, 100, 1000)
"""Of the tables that are analysed, each with 10 models × 10 budgets × 100 samples a problem."""


class Row(NamedTuple):
    """One line of the table."""

    what: str
    measured: str
    spread: str
    wanted: str
    met: bool | None = None
    """None: nothing is claimed."""


def say(what: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", flush=True)


def ratio_row(what: str, ratio: bench.Ratio, least: float | None = None) -> Row:
    """A ratio with the range over its repetitions, and the claim that it is at least so much."""
    claim = ("", None) if least is None else (f"at least {least:g}", ratio.value >= least)
    return Row(what, f"{ratio.value:.2f} ×", f"{ratio.low:.2f} to {ratio.high:.2f}", *claim)


def grid_rows(found: dict[str, list[bench.Timed]]) -> list[Row]:
    """Each way of filling the grid, over one pass."""
    ours = found["one pass"]
    prototype = {"run per budget, an answer a request": "2.3 × and 5 × in the prototype"}
    seconds = [t.seconds for t in ours]
    rows = [Row("grid in one pass", f"{ours[0].tokens:,} tokens, {min(seconds):.1f} s", f"to {max(seconds):.1f} s: the noise", "")]
    for way, measured in found.items():
        if way != "one pass":
            tokens = bench.ratio([t.tokens for t in measured], [t.tokens for t in ours])
            took = bench.ratio([t.seconds for t in measured], seconds)
            shown = f"{tokens.value:.2f} × tokens, {took.value:.2f} × time"
            if way == bench.GOLD:
                shown += f": {took.value - 1:.0%} more"
            claim = ("at least 3 × the tokens", tokens.value >= 3) if way == "run per (budget, k)" else (prototype.get(way, ""), None)
            rows.append(Row(way, shown, f"time {took.low:.2f} to {took.high:.2f}", *claim))
    return rows


def throughput_rows(found: dict[str, list[bench.Timed]]) -> list[Row]:
    """Ours over vLLM's benchmark."""
    theirs = [t.speed for t in found["vLLM's benchmark"]]
    shape = f"{bench.REQUESTS} requests of {bench.LENGTH} tokens, {bench.AT_ONCE} at once"
    rows = [Row(f"vLLM's benchmark, {shape}", f"{max(theirs):,.0f} tokens/s", f"from {min(theirs):,.0f}: the noise", "")]
    for way, least in (("ours", 0.95), ("ours, 16 to a request", None)):
        rows.append(ratio_row(f"{way}: tokens/s over vLLM's", bench.ratio([t.speed for t in found[way]], theirs), least))
    return rows


def start_rows(found: bench.Starts) -> list[Row]:
    """The flow's start beyond the engine's."""
    beyond = [flow - engine for flow, engine in zip(found.flow, found.engine, strict=True)]
    engine = statistics.median(found.engine)
    return [
        Row("engine by itself until ready", f"{engine:.1f} s", f"{min(found.engine):.1f} to {max(found.engine):.1f}", ""),
        Row(
            "first request of the flow, beyond the engine",
            f"{statistics.median(beyond):.1f} s",
            f"{min(beyond):.1f} to {max(beyond):.1f}",
            "at most 12 s",
            statistics.median(beyond) <= 12,
        ),
        Row("Prefect's first-time database, on top", f"{found.flow_first - statistics.median(found.flow):.1f} s", "once", ""),
    ]


def grading_rows(catalogue: Catalogue) -> list[Row]:
    """Each common grader on many answers."""
    rows = []
    for name in bench.GRADED_SKILLS:
        seconds = bench.bench_grading(catalogue, name)
        rows.append(Row(f"grading {bench.GRADED:,} answers to {name}", f"{seconds:.1f} s", "", "under 60 s", seconds < 60))
    return rows


def script(name: str, *arguments: object) -> dict[str, Any]:
    """What a script beside the tests measured, in a process of its own."""
    paths = os.pathsep.join([str(FLOWS), str(TESTS)])
    command = [sys.executable, str(TESTS / name), *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def analysis_rows() -> list[Row]:
    """Tables of three sizes, each in a process of its own for the sake of its memory; pass@k and maj@k beside loops."""
    found = []
    for problems in PROBLEMS:
        say(f"points and comparisons of {problems * 10_000:,} answers")
        found.append(script("bench_analysis.py", problems))
    most = found[-1]
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in most["took"].items())
    what = f"{most['answers']:,} answers: {most['points']:,} points and {most['pairs']:,} pairs, 1,000 draws"
    rows = [
        Row(what, f"{most['seconds']:.0f} s", parts, "under 10 min", most["seconds"] < 600),
        Row("its memory, answers included", f"{most['peak_rss_gb']:.1f} GB", "", "under 8 GB", most["peak_rss_gb"] < 8),
    ]
    for less, more in pairwise(found):
        power = math.log(more["cpu_seconds"] / less["cpu_seconds"]) / math.log(more["answers"] / less["answers"])
        seconds = f"{less['cpu_seconds']:.1f} to {more['cpu_seconds']:.1f} s of the processor"
        growth = f"growth from {less['answers']:,} to {more['answers']:,} answers"
        rows.append(Row(growth, f"rows^{power:.2f}", seconds, "linear or better", power <= 1.05))
    say("pass@k and maj@k beside loops")
    for metric, one in script("bench_estimators.py").items():
        what = f"{metric} at all k, {one['problems']:,} problems × 100 samples: a loop's time over ours"
        seconds = f"{one['loop_seconds']:,.1f} s (computed) over {one['seconds']:.3f} s"
        rows.append(Row(what, f"{one['ratio']:,.0f} ×", seconds, "at least 50 ×", one["ratio"] >= 50))
    return rows


def orchestrator_rows() -> list[Row]:
    """What claims, store and Prefect cost beside the engines, and whether many workers get in each other's way."""
    found = script("bench_orchestrator.py")
    long, one = found["long"], found["simulated"][0]
    per_shard = long["seconds"] / long["rounds"] - 2 * long["latency"]
    shards_at = f"mean of {long['rounds']} rounds of two"
    rows = [
        Row("orchestrator: beyond a shard of 10 s", f"{per_shard:.2f} s, {per_shard / 10:.1%}", shards_at, "at most 5 %", per_shard <= 0.5),
        Row("orchestrator: memory after them", f"{long['more_mb']:+.0f} MB", "", "flat"),
    ]
    for many in found["simulated"][1:]:
        efficiency, more = one["seconds"] / many["seconds"], f"{many['more_mb']:+.0f} MB"
        what = f"{many['workers']} workers, as many times the shards"
        rows.append(Row(what, f"efficiency {efficiency:.2f}", more, "at least 0.9", efficiency >= 0.9))
    through = found["prefect"]
    run, cpu, size = through["model_run_seconds"], through["server_cpu"] / through["shards"], through["server_mb"] / through["shards"]
    models, shards = SWEEP
    rows.append(
        Row(
            "a model run through Prefect that owes nothing",
            f"{run:.1f} s, {run / 600:.1%} of 10 min",
            "parent included",
            "at most 5 %",
            run <= 30,
        )
    )
    cost = f"{models * shards * cpu / 60:.0f} min CPU, {models * shards * size:.0f} MB"
    rows.append(Row(f"Prefect's server, {models} models × {shards} shards (computed)", cost, f"{1e3 * cpu:.0f} ms a shard", ""))
    return rows


def served_rows(parts: list[str], catalogue: Catalogue, model: Model, folder: Path) -> list[Row]:
    """What is measured on one engine."""
    rows: list[Row] = []
    with serving.serve(model, Engine(), folder / "logs", seed=0, on_progress=say) as endpoint:
        if "grid" in parts:
            say("the grid, in one pass and run by run")
            rows += grid_rows(asyncio.run(bench.bench_grid(endpoint, catalogue, model)))
        if "throughput" in parts:
            say("throughput, ours and vLLM's benchmark in turns")
            rows += throughput_rows(asyncio.run(bench.bench_throughput(endpoint, catalogue, model, folder)))
    return rows


def shown(rows: list[Row], title: str) -> Table:
    """A line for each row; a claim is met or MISSED."""
    table = Table("what", "measured", "range", "wanted", "", title=title)
    for row in rows:
        table.add_row(*row[:-1], "" if row.met is None else "met" if row.met else "[bold]MISSED")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        choices=[*PARTS, []],
        default=[],
        help=f"{', '.join(PARTS)} (default: all)",  # []: none given
    )
    parts = parser.parse_args().parts or list(PARTS)
    catalogue, begun = load_catalogue(), time.monotonic()
    model, load = catalogue.models[MODEL], os.getloadavg()[0]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="thinkscale-bench-") as name:
        folder = Path(name)
        if "grid" in parts or "throughput" in parts:
            rows += served_rows(parts, catalogue, model, folder)
        if "start" in parts:
            say("starts of the flow and of the bare engine in turns")
            rows += start_rows(bench.bench_start(model, folder))
        if "grading" in parts:
            say("grading")
            rows += grading_rows(catalogue)
        if "analysis" in parts:
            rows += analysis_rows()
        if "orchestrator" in parts:
            say("simulated workers, and a sweep through a Prefect server")
            rows += orchestrator_rows()
    Console(width=170).print(shown(rows, f"{MODEL} on {os.cpu_count()} cores, load {load:.1f} at the beginning"))
    say(f"took {time.monotonic() - begun:.0f} s")
    missed = [row.what for row in rows if row.met is False]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
