"""Faults at every phase, then the same command again: nothing lost, nothing twice, nothing left. `make chaos`, or

    python tests/chaos.py [--seed N] [--only TEXT] [--kinds fake real prefect] [--list]

A case breaks a small study at a moment that the seed draws within a phase (engine start, thinking, answers, writing, between write and
publish, grading, stopping), runs it again, and compares with an undisturbed run: the same tables byte for byte with the fake engine; with
real engines, whose draws cannot be repeated, exactly the planned keys and no finished part changed. It prints faults × outcomes.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "flows")]

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table

import chaos_moments
from fakes import FAKE_VLLM, engines, eventually, files, processes, reopen, rows, run_fake, start_child, study
from prefect_site import Site, kill
from thinkscale import launch, supervise
from thinkscale.config import FLOWS
from thinkscale.graded import read_graded
from thinkscale.plan import open_study, owed_shards
from thinkscale.report import analyze
from thinkscale.store import PARTS

MODEL = "fake-100k"
LIMIT = 120.0  # seconds for one case on the fake engine; a hang is a failure with a name
REAL_LIMIT = 400.0
TERM, KILL, STOP, CONT = signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


@dataclass(frozen=True)
class Case:
    """One fault at one phase."""

    kind: str
    phase: str
    fault: str
    number: int
    do: Callable[["Place"], None]

    @property
    def name(self):
        return f"{self.kind}: {self.phase}: {self.fault} #{self.number}"


class Place:
    """A folder for one case: the study in it, and the means to break it."""

    def __init__(self, folder, moment):
        self.folder, self.moment = Path(folder), moment
        self.folder.mkdir(exist_ok=True)
        self.marker = self.folder / "been"
        self.mounted = None
        self.supervisor_died = False

    def open(self, fault=None, **engine):
        """The study, whose engine has this fault until the marker is there."""
        command = [*FAKE_VLLM, "--children", *(("--fault", json.dumps({"once": str(self.marker), **fault})) if fault else ())]
        options = {"command": command, "concurrency": 4, "claim_timeout": 1.5, "stall_timeout": 2.0, **engine}
        claim = {"name": "c", "benchmark": "sums", "better": {"model": MODEL, "thinking_budget": 16}}
        claim["worse"] = {"model": MODEL, "thinking_budget": 0}
        return study(self.folder, benchmarks={"sums": {"problems": 16}}, claims=[claim], gold_logprob=True, engine=options)

    def hang(self, phase, most):
        """A fault that holds a request of a phase, some requests in."""
        return {"kind": "hang", "phase": phase, "after": self.moment.randrange(most), "times": 1}

    def at(self, opened, phase):
        """Start the study and wait until it is in a phase, at a moment of it."""
        child = start_child(opened)
        if phase == "engine start":
            assert eventually(lambda: engines_begun(opened), 60), "no engine began"
        elif phase == "stopping":
            assert eventually(lambda: len(opened.store.parts("forced")) == 4, 60), "it does not come to its end"
        else:
            assert eventually(self.marker.exists, 60), f"it does not come to {phase}"
        time.sleep(self.moment.uniform(0, 0.3))
        return child

    def ended(self, child, *codes):
        """Wait for a run to end as it should."""
        said = communicated(child, LIMIT)
        assert child.returncode in codes, f"ended with {child.returncode}: {said[-2000:]}"
        return said

    def engine_pids(self, opened):
        """Processes of the study's engines without supervisors."""
        ports = {str(p) for p in engines(opened)}
        return [
            pid
            for pid, words in command_lines()
            if "--port" in words and words[words.index("--port") + 1] in ports and "supervise.py" not in " ".join(words)
        ]

    def supervisor(self, opened):
        ports = {str(p) for p in engines(opened)}
        return [pid for pid, words in command_lines() if "supervise.py" in " ".join(words) and words[words.index("--port") + 1] in ports]


def communicated(child, seconds):
    """What a run said until its end; one that does not end is killed, and that is a failure."""
    try:
        return child.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        child.kill()
        raise AssertionError(f"it did not end within {seconds:.0f} s: {child.communicate()[1][-1500:]}") from None


def command_lines():
    for p in supervise.process_table():
        with suppress(OSError):
            words = Path(f"/proc/{p.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if "--port" in words:
                yield p.pid, words


def engines_begun(opened):
    return any("--port" in p.read_text() for p in opened.store.root.glob("logs/*.log"))


# --- the faults


def flow_killed(phase, number):
    """A signal to the process that evaluates, which then ends; run again."""

    def do(place):
        fault = (
            {"kind": "late", "seconds": 1.0}
            if phase == "engine start"
            else None
            if phase == "stopping"
            else place.hang(phase, 12 if phase == "thinking" else 3)
        )
        opened = place.open(fault)
        child = place.at(opened, phase)
        os.kill(child.pid, number)
        begun = time.monotonic()
        place.ended(child, -number, *((0,) if phase == "stopping" else ()))
        assert time.monotonic() - begun < 30, "a preempted job is given 30 s"
        assert eventually(lambda: not processes(opened), 30), "an engine outlives its run"

    return do


def flow_frozen(phase):
    """The evaluating process is stopped until another has done its work; then it goes on."""

    def do(place):
        opened = place.open(place.hang(phase, 8 if phase == "thinking" else 2))
        child = place.at(opened, phase)
        os.kill(child.pid, STOP)
        run_fake(reopen(place.folder))
        before = files(opened)
        os.kill(child.pid, CONT)
        place.ended(child, 0)
        assert files(opened) == before, "a frozen owner changed something when it woke"

    return do


def engine_hit(phase, number, whom="engine"):
    """A signal to the engine or its supervisor: the run starts it again by itself."""

    def do(place):
        fault = {"kind": "late", "seconds": 1.0} if phase == "engine start" else place.hang(phase, 12 if phase == "thinking" else 3)
        opened = place.open(fault, start_timeout=20.0)
        child = place.at(opened, phase)
        find = place.supervisor if whom == "supervisor" else place.engine_pids
        place.supervisor_died = whom == "supervisor"
        assert eventually(lambda: find(opened), 20), "no engine to hit"  # the supervisor logs its command before it starts it
        supervise.send(find(opened)[:1], number)
        place.ended(child, 0)

    return do


def dies_before(table):
    """Killed before a part of a table: traces without answers, answers without grades."""

    def do(place):
        opened = place.open()
        place.ended(start_child(opened, (table, place.moment.randrange(1, 4))), -KILL)

    return do


def answers_badly(phase, kind, **options):
    """The engine answers a few requests with a fault that is tried again."""

    def do(place):
        times = place.moment.randrange(1, 4)
        opened = place.open(
            {"kind": kind, "phase": phase, "after": place.moment.randrange(12 if phase == "thinking" else 3), "times": times, **options}
        )
        place.ended(start_child(opened), 0)
        assert place.marker.exists(), "the fault never set in"

    return do


def lies(phase, kind):
    """The engine breaks its word once: the run ends with a clear error, nothing of the answer is kept."""

    def do(place):
        opened = place.open({"kind": kind, "phase": phase, "after": place.moment.randrange(3)})
        said = place.ended(start_child(opened), 1)
        assert "ResponseInvalid" in said, said[-1500:]

    return do


def spoiled(table, how):
    """A part of a half-done study rots, or somebody else's file lies where parts are."""

    def do(place):
        opened = place.open()
        place.ended(start_child(opened, ("forced", 3)), -KILL)
        path = place.moment.choice(opened.store.parts(table))
        data = path.read_bytes()
        if how == "torn":
            path.write_bytes(data[: place.moment.randrange(1, len(data))])
        elif how == "corrupt":
            at = place.moment.randrange(8, len(data) // 2)
            path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        else:
            pd.DataFrame({"a": [1]}).to_parquet(path.with_name("foreign.parquet"))

    return do


def fake_cases():
    cases = []

    def add(phase, fault, do, times=1):
        cases.extend(Case("fake", phase, fault, i + 1, do) for i in range(times))

    for phase in ("engine start", "thinking", "answers", "stopping"):
        add(phase, "flow SIGKILL", flow_killed(phase, KILL), 3)
        add(phase, "flow SIGTERM", flow_killed(phase, TERM), 1)
    for phase in ("thinking", "answers"):
        add(phase, "flow SIGSTOP, then SIGCONT", flow_frozen(phase), 2)
    for phase in ("engine start", "thinking", "answers"):
        for number in (KILL, TERM, STOP):
            add(phase, f"engine {number.name}", engine_hit(phase, number))
        add(phase, "supervisor SIGKILL", engine_hit(phase, KILL, "supervisor"))
    for phase, fault, do in chaos_moments.moment_cases():
        add(phase, fault, do)
    for table, phase in (("samples", "writing"), ("answers", "answers"), ("grades", "grading"), ("forced", "writing")):
        add(phase, f"SIGKILL before {table}", dies_before(table), 2)
    for phase in ("thinking", "answers"):
        for kind, options in (("500", {}), ("503", {}), ("429", {"retry_after": 0}), ("reset", {}), ("cut_body", {}), ("not_json", {})):
            add(phase, f"responses: {kind}", answers_badly(phase, kind, **options))
        add(phase, "responses: slow", answers_badly(phase, "slow", seconds=1.0))
        # samples of one prompt may be swapped: they are drawn alike; answers to several prompts may not
        for kind in ("wrong_n", "empty", "wrong_usage", "ignore_cap", *(("swap",) if phase == "answers" else ())):
            add(phase, f"responses: {kind}", lies(phase, kind))
    for how in ("torn", "corrupt", "foreign"):
        for table in PARTS:
            add("on disk", f"{how} part of {table}", spoiled(table, how))
    return cases


# --- with the real engine


class RealPlace(Place):
    """A study on ladder-21k, smoke-sized, served by the real vLLM."""

    def open(self, **engine):
        fields = {"name": "real", "asks": "?", "models": ["ladder-21k"], "benchmarks": {"sums": {"problems": 24}}}
        fields |= {"thinking_budgets": [0, 12, 40], "num_samples": 8, "answer_tokens": 8, "shard_problems": 4}
        path = self.folder / "real.yaml"
        path.write_text(yaml.safe_dump({**fields, "engine": {"concurrency": 32, "claim_timeout": 3.0, "stall_timeout": 8.0, **engine}}))
        return open_study(str(path), self.folder)

    def start(self, opened, code=""):
        run = "import asyncio, sys; from thinkscale import evaluate; from thinkscale.plan import open_study\n"
        run += f"opened = open_study({str(self.folder / 'real.yaml')!r}, {str(self.folder)!r})\n{code}\n"
        run += "print('ran', asyncio.run(evaluate.evaluate(opened, 'ladder-21k')), file=sys.stderr)"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(FLOWS), str(HERE)))}
        return subprocess.Popen([sys.executable, "-c", run], env=environment, stderr=subprocess.PIPE, text=True)

    def ended(self, child, *codes):
        said = communicated(child, REAL_LIMIT)
        assert child.returncode in codes, f"ended with {child.returncode}: {said[-2000:]}"
        return said


def real_flow(phase, number):
    def do(place):
        opened = place.open()
        code = "import dataclasses, fakes; opened = dataclasses.replace(opened, store=fakes.Dying(opened.store.root, 'grades', 2))"
        child = place.start(opened, code if phase == "grading" else "")
        table = {"thinking": "samples", "answers": "samples", "grading": "grades", "engine start": ""}[phase]
        if phase == "engine start":
            assert eventually(lambda: engines_begun(opened), 60)
            time.sleep(place.moment.uniform(1, 15))
        elif phase != "grading":
            wanted = place.moment.randrange(1, 4)
            assert eventually(lambda: len(opened.store.parts(table)) >= wanted, REAL_LIMIT)
            time.sleep(place.moment.uniform(0, 0.3))
        if phase != "grading":
            os.kill(child.pid, number)
        begun = time.monotonic()
        place.ended(child, -number)
        assert phase == "grading" or time.monotonic() - begun < 30, "a preempted job is given 30 s"

    return do


def real_engine_hit(which, number):
    """One of vLLM's own processes: the server, its EngineCore, or the supervisor."""

    def do(place):
        opened = place.open()
        child = place.start(opened)
        wanted = place.moment.randrange(1, 4)
        assert eventually(lambda: len(opened.store.parts("samples")) >= wanted, REAL_LIMIT)
        (head,) = place.supervisor(opened)
        if which == "supervisor":
            pids = [head]
        else:
            names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in supervise.members(head)}
            pids = [pid for pid, name in names.items() if which in name]
        assert pids, f"no process {which}"
        supervise.send(pids[:1], number)
        place.ended(child, 0)
        assert len(engines(opened)) == 2, "it was not started again"

    return do


def real_cases():
    found = [("engine start", "flow SIGKILL", real_flow("engine start", KILL)), ("thinking", "flow SIGKILL", real_flow("thinking", KILL))]
    found += [("answers", "flow SIGTERM", real_flow("answers", TERM)), ("grading", "flow SIGKILL", real_flow("grading", KILL))]
    found += [("thinking", "EngineCore SIGKILL", real_engine_hit("EngineCore", KILL))]
    found += [("thinking", "EngineCore SIGSTOP", real_engine_hit("EngineCore", STOP))]
    found += [("thinking", "supervisor SIGKILL", real_engine_hit("supervisor", KILL))]
    return [Case("real", phase, fault, 1, do) for phase, fault, do in found]


# --- through a standing Prefect server


def prefect_hit(what):
    def do(place):
        site = place.site
        path = place.folder / "prefect.yaml"
        fields = yaml.safe_load((FLOWS / "experiments" / "smoke.yaml").read_text())
        fields |= {"name": "prefect", "models": ["ladder-21k"], "engine": {"claim_timeout": 2.0}}
        path.write_text(yaml.safe_dump(fields))
        opened = open_study(str(path), place.folder)
        slow = " ".join(FAKE_VLLM) + """ --fault '{"kind": "slow", "seconds": 0.4}'"""
        workers = [site.worker("gpu", f"w{place.moment.randrange(10**9)}", THINKSCALE_ENGINE_COMMAND=slow)]
        parent = site.sweep(path, place.folder, name=f"parent{place.moment.randrange(10**9)}")
        try:
            assert eventually(lambda: opened.store.parts("samples"), 120), site.said(parent) + site.said(workers[0])
            if what == "API down for 10 s":
                kill(site.server)
                time.sleep(10)
                site.start_server()
            elif what == "worker SIGTERM":
                workers[0].terminate()
                with suppress(
                    subprocess.TimeoutExpired
                ):  # rarely a worker hangs at its end: whoever stopped it kills it then, as systemd does
                    workers[0].wait(30)
                kill(workers[0])
                workers.append(site.worker("gpu", f"w{place.moment.randrange(10**9)}", THINKSCALE_ENGINE_COMMAND=" ".join(FAKE_VLLM)))
            else:
                flow = next(s for s in evaluate_processes(opened))
                os.kill(flow, KILL if what == "flow SIGKILL" else TERM)
            assert eventually(lambda: parent.poll() is not None, 150), site.said(parent) + "".join(map(site.said, workers))
            again = site.sweep(path, place.folder, name=f"again{place.moment.randrange(10**9)}") if parent.returncode else parent
            assert again.wait(150) == 0, site.said(again)
        finally:
            for worker in workers:
                kill(worker)

    return do


def evaluate_processes(opened):
    from thinkscale.claims import at_work

    return [seen.owner.pid for seen in at_work(opened.store)]


def prefect_cases():
    faults = ("flow SIGKILL", "flow SIGTERM", "worker SIGTERM", "API down for 10 s")
    return [Case("prefect", "answers", fault, 1, prefect_hit(fault)) for fault in faults]


# --- the campaign


class Expected:
    """The undisturbed run."""

    def __init__(self, folder):
        place = Place(folder, random.Random(0))
        opened = place.open()
        run_fake(opened)
        self.tables, self.derived = tables(opened), derived(opened)


def tables(opened):
    return {t: rows(opened, t) for t in PARTS}


def derived(opened):
    analyze(opened)
    return {name: (opened.store.root / f"{name}.parquet").read_bytes() for name in ("summary", "comparison", "claims")}


def check(place, opened, expected, before):
    """Everything is as if nothing had happened. Raises AssertionError."""
    model = opened.config.models[0]
    assert owed_shards(opened, model) == [], "something is still owed"
    if expected is not None:
        found = tables(opened)
        assert [t for t in PARTS if found[t] != expected.tables[t]] == [], "tables differ"
        assert derived(opened) == expected.derived, "summary, comparison or claims differ"
    graded = read_graded(opened.store.root)  # keys, traces, grades
    use = next(iter(opened.config.benchmarks.values()))
    assert len(graded) == use.problems * opened.config.num_samples * len(opened.config.thinking_budgets), "not exactly the planned keys"
    after = files(opened)
    changed = [name for name, data in before.items() if after.get(name) != data and not name.startswith("grades/")]
    assert not changed or opened.store.quarantined(), f"finished parts changed: {changed}"
    assert eventually(lambda: not processes(opened), 20), "a process is left"
    assert all(launch.is_free(("127.0.0.1", port)) for port in engines(opened)), "a port is left"
    left = [p for p in opened.store.root.rglob(".*") if p.is_file()] + list(opened.store.root.glob("claims/*"))
    assert not left, f"files are left: {left}"
    logs = "\n".join(p.read_text(errors="replace") for p in opened.store.root.glob("logs/*.log"))
    children = [line.split()[4:] for line in re.findall(r"^fake: children .*$", logs, re.MULTILINE)]
    temporary = [file for *_, file in children if Path(file).exists()]
    assert not temporary, f"temporary files are left: {temporary}"
    kept = {name for *names, _ in children for name in names} & set(supervise.shared_memory())
    for name in kept:
        (supervise.SHM / name).unlink(missing_ok=True)
    assert place.supervisor_died or not kept, f"shared memory is left: {kept}"  # who knew whose it was is dead then


def run_case(case, folder, seed, expected, site):
    """Break, run again, check. Returns (outcome, seconds)."""
    place = (RealPlace if case.kind == "real" else Place)(folder, random.Random(f"{seed} {case.name}"))
    place.site = site
    begun = time.monotonic()
    try:
        case.do(place)
        if case.kind == "fake":
            opened = reopen(folder)
            before = files(opened)
            place.ended(start_child(opened), 0)
        elif case.kind == "real":
            opened = place.open()
            before = files(opened)
            place.ended(place.start(opened), 0)
        else:
            opened, before = open_study(str(place.folder / "prefect.yaml"), place.folder), {}
        check(place, opened, expected if case.kind == "fake" else None, before)
    except (AssertionError, subprocess.SubprocessError, OSError, RuntimeError, LookupError, ValueError) as e:
        return "".join(traceback.format_exception_only(e)).strip(), time.monotonic() - begun
    finally:
        if place.mounted:
            subprocess.run(["umount", "-l", str(place.mounted)], check=True)
    return "whole", time.monotonic() - begun


def campaign(cases, seed, say=print):
    """Run cases; returns those that deviated as (case, what)."""
    table = Table("engine", "phase", "fault", "times", "whole again", "seconds", title=f"seed {seed}")
    bad, counts = [], {}
    with tempfile.TemporaryDirectory(prefix="thinkscale-chaos-") as name:
        expected = Expected(Path(name, "undisturbed")) if any(c.kind == "fake" for c in cases) else None
        site = None
        try:
            for i, case in enumerate(cases):
                if case.kind == "prefect" and site is None:
                    site = Site(Path(name, "site")).__enter__()
                    site.deploy()
                folder = Path(name, str(i))
                folder.mkdir()
                outcome, seconds = run_case(case, folder, seed, expected, site)
                say(f"{time.strftime('%H:%M:%S')}  {i + 1}/{len(cases)}  {seconds:5.1f} s  {case.name}: {outcome}")
                row = counts.setdefault((case.kind, case.phase, case.fault), [0, 0, 0.0])
                row[0], row[1], row[2] = row[0] + 1, row[1] + (outcome == "whole"), row[2] + seconds
                if outcome != "whole":
                    bad.append((case, outcome))
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            if site is not None:
                site.__exit__()
    for (kind, phase, fault), (times, whole, seconds) in counts.items():
        table.add_row(kind, phase, fault, str(times), str(whole) if whole == times else f"[bold red]{whole}[/bold red]", f"{seconds:.0f}")
    return bad, table


def all_cases():
    return [*fake_cases(), *prefect_cases(), *real_cases()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="draws the moments (default: another each time)")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--kinds", nargs="+", default=["fake", "prefect", "real"], choices=["fake", "prefect", "real"])
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    asked = parser.parse_args()
    cases = [c for c in all_cases() if c.kind in asked.kinds and re.search(re.escape(asked.only), c.name)]
    if asked.list:
        print("\n".join(c.name for c in cases), f"\n{len(cases)} cases")
        return
    print(f"{len(cases)} cases, seed {asked.seed}", flush=True)
    begun = time.monotonic()
    bad, table = campaign(cases, asked.seed, say=lambda line: print(line, flush=True))
    Console(width=140).print(table)
    print(f"{len(cases) - len(bad)} of {len(cases)} whole again, {time.monotonic() - begun:.0f} s, seed {asked.seed}")
    if bad:
        sys.exit("\n".join(f"{case.name}: {what}" for case, what in bad))


if __name__ == "__main__":
    main()
