"""The speed claims of the README, measured on this machine: python flows/bench.py [grid] [throughput] [start] [summaries] [orchestrator].

Ratios within one run, each the median of a few repetitions, with the range: what the range shows is the machine's noise.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # the library stands beside the flow files, installed or not

from rich.console import Console
from rich.table import Table

from thinkscale import bench, serving
from thinkscale.config import FLOWS, Catalogue, Engine, Model
from thinkscale.loading import load_catalogue

PARTS = ("grid", "throughput", "start", "summaries", "orchestrator")
MODEL = "ladder-100k"
TESTS = FLOWS.parent / "tests"
SWEEP = (100, 100)
"""Models × shards of the sweep that the orchestrator's cost is computed for."""


class Row(NamedTuple):
    """One line of the table."""

    what: str
    measured: str
    spread: str
    wanted: str


def say(what: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", flush=True)


def ratio_row(what: str, ratio: bench.Ratio, wanted: str = "") -> Row:
    """A ratio with the range over its repetitions."""
    return Row(what, f"{ratio.value:.2f} ×", f"{ratio.low:.2f} to {ratio.high:.2f}", wanted)


def grid_rows(found: dict[str, list[bench.Timed]]) -> list[Row]:
    """Each way of filling the grid, over one pass."""
    ours = found["one pass"]
    wanted = {"run per budget, an answer a request": "2.3 × and 5 × in the prototype", "run per (budget, k)": "at least 3 × the tokens"}
    seconds = [t.seconds for t in ours]
    rows = [Row("grid in one pass", f"{ours[0].tokens:,} tokens, {min(seconds):.1f} s", f"to {max(seconds):.1f} s: the noise", "")]
    for way, measured in found.items():
        if way != "one pass":
            tokens = bench.ratio([t.tokens for t in measured], [t.tokens for t in ours])
            took = bench.ratio([t.seconds for t in measured], seconds)
            shown = f"{tokens.value:.2f} × tokens, {took.value:.2f} × time"
            rows.append(Row(way, shown, f"time {took.low:.2f} to {took.high:.2f}", wanted.get(way, "")))
    return rows


def throughput_rows(found: dict[str, list[bench.Timed]]) -> list[Row]:
    """Ours over vLLM's benchmark."""
    theirs = [t.speed for t in found["vLLM's benchmark"]]
    shape = f"{bench.REQUESTS} requests of {bench.LENGTH} tokens, {bench.AT_ONCE} at once"
    rows = [Row(f"vLLM's benchmark, {shape}", f"{max(theirs):,.0f} tokens/s", f"from {min(theirs):,.0f}: the noise", "")]
    for way, wanted in (("ours", "at least 0.95"), ("ours, 16 to a request", "")):
        rows.append(ratio_row(f"{way}: tokens/s over vLLM's", bench.ratio([t.speed for t in found[way]], theirs), wanted))
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
        ),
        Row("Prefect's first-time database, on top", f"{found.flow_first - statistics.median(found.flow):.1f} s", "once", ""),
    ]


def script(name: str) -> dict[str, Any]:
    """What a script beside the tests measured, in a process of its own."""
    paths = os.pathsep.join([str(FLOWS), str(TESTS)])
    done = subprocess.run(
        [sys.executable, str(TESTS / name)], env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def summaries_rows() -> list[Row]:
    """A million graded answers, in a process of their own for the sake of its memory."""
    found = script("bench_estimators.py")
    return [
        Row(f"summary of {found['answers']:,} answers", f"{found['seconds']:.1f} s", "", "under 60 s"),
        Row("its memory", f"{found['peak_rss_gb']:.1f} GB", "", "under 4 GB"),
        Row("a loop over problems and k, time over ours", f"{found['ratio']:.0f} ×", "", ""),
    ]


def orchestrator_rows() -> list[Row]:
    """What claims, store and Prefect cost beside the engines, and whether many workers get in each other's way."""
    found = script("bench_orchestrator.py")
    long, one = found["long"], found["simulated"][0]
    per_shard = long["seconds"] / long["rounds"] - 2 * long["latency"]
    shards_at = f"mean of {long['rounds']} rounds of two"
    rows = [
        Row("orchestrator: beyond a shard of 10 s", f"{per_shard:.2f} s, {per_shard / 10:.1%}", shards_at, "at most 5 %"),
        Row("orchestrator: memory after them", f"{long['more_mb']:+.0f} MB", "", "flat"),
    ]
    for many in found["simulated"][1:]:
        efficiency, more = one["seconds"] / many["seconds"], f"{many['more_mb']:+.0f} MB"
        rows.append(Row(f"{many['workers']} workers, as many times the shards", f"efficiency {efficiency:.2f}", more, "at least 0.9"))
    through = found["prefect"]
    run, cpu, size = through["model_run_seconds"], through["server_cpu"] / through["shards"], through["server_mb"] / through["shards"]
    models, shards = SWEEP
    rows.append(
        Row("a model run through Prefect that owes nothing", f"{run:.1f} s, {run / 600:.1%} of 10 min", "parent included", "at most 5 %")
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
        if "summaries" in parts:
            say("summary of a million answers")
            rows += summaries_rows()
        if "orchestrator" in parts:
            say("simulated workers, and a sweep through a Prefect server")
            rows += orchestrator_rows()
    table = Table("what", "measured", "range", "wanted", title=f"{MODEL} on {os.cpu_count()} cores, load {load:.1f} at the beginning")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    say(f"took {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
