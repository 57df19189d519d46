"""The flows themselves, through Prefect, whose server takes most of the time: three starts in all.

The first is `python flows/sweep.py`, killed in the middle; the second is one process that sweeps to the end, sweeps again, grades again
and analyzes, and tells what it saw; the third is interrupted.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pandas as pd
import pytest
import yaml

from fakes import FAKE_VLLM, engines, eventually, files, processes, rows
from thinkscale import console, evaluate
from thinkscale.compare import ClaimError
from thinkscale.config import FLOWS
from thinkscale.files import FilesError
from thinkscale.graded import read_graded
from thinkscale.plan import open_study, owed_shards
from thinkscale.report import analyze, check_unmixed
from thinkscale.schema import SCHEMA_VERSION
from thinkscale.store import StoreError
from thinkscale.tidy import TableError

EXPERIMENT = {
    "name": "flows",
    "asks": "Do the flows do what the library does?",
    "models": ["ladder-21k", "ladder-100k"],
    "benchmarks": {"sums": {"problems": 12}},
    "thinking_budgets": [0, 8, 24],
    "num_samples": 4,
    "answer_tokens": 8,
    "shard_problems": 4,
}

SECOND = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, {flows!r})
from analyze import analyze
from evaluate_model import _transient
from prefect.states import Failed
from regrade import regrade
from sweep import sweep
from thinkscale import console, printed
from thinkscale.endpoint import EngineDied, RequestFailed

console.log_to_terminal()

def parts():
    return sorted((str(p), p.stat().st_mtime_ns) for p in Path({results!r}).rglob("*.parquet"))

async def go():
    what = ({experiment!r}, {results!r})
    await sweep(*what)
    first = parts()
    logs = len(list(Path({results!r}).rglob("*.log")))
    await sweep(*what)
    again, more = parts(), len(list(Path({results!r}).rglob("*.log")))
    graded = await regrade(*what)
    printed.show(await analyze(*what))
    again_after = [await _transient(None, None, Failed(data=e("no"))) for e in (RequestFailed, EngineDied, ValueError)]
    return {{"again after": again_after, "nothing done": first == again, "nothing started": logs == more, "graded": graded}}

Path({out!r}).write_text(json.dumps(asyncio.run(go())))
"""


def environment(home):
    # each test run has a Prefect of its own: no profile, no server of the user's
    mine = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    return {**mine, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}


def written(folder, **engine):
    path = folder / "flows.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT | {"engine": engine}))
    return str(path), folder / "results"


def seen(opened):
    """How many completions the running engine was asked for."""
    try:
        port = engines(opened)[-1]
        return httpx.get(f"http://127.0.0.1:{port}/fake/requests", trust_env=False).json()["completions"]
    except (IndexError, TypeError, httpx.TransportError):
        return 0


def session(pid):
    """Command lines of the processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.joinpath("stat").read_text().rpartition(")")[2].split()[3] == str(pid):
                found.append(path.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A sweep that was killed, and the process that went on."""
    folder, home = tmp_path_factory.mktemp("flows"), tmp_path_factory.mktemp("prefect")
    # 1 request to see that the engine is ready, then 4 of traces and 1 of answers a shard: after 8 one shard may be done, another draws
    fault = {"kind": "hang", "after": 8, "once": str(folder / "been")}
    experiment, results = written(folder, command=[*FAKE_VLLM, "--fault", json.dumps(fault)], concurrency=4)
    opened, log = open_study(experiment, results), folder / "killed.log"
    with log.open("wb") as out:
        command = [sys.executable, str(FLOWS / "sweep.py"), experiment, "--results", str(results)]
        killed = subprocess.Popen(command, stdout=out, stderr=out, env=environment(home), start_new_session=True)
    assert eventually(lambda: seen(opened) > 8 and opened.store.parts("samples"), 120), log.read_text()
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    before = files(opened)
    left = eventually(lambda: not processes(opened), 30), processes(opened), session(killed.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(killed.pid, signal.SIGKILL)  # Prefect's own local server does not notice that its flow was killed
    told = folder / "told.json"
    script = SECOND.format(flows=str(FLOWS), experiment=experiment, results=str(results), out=str(told))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(home), timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {
        "home": home,
        "study": opened,
        "before": before,
        "left": left,
        "told": json.loads(told.read_text()),
        "said": done.stdout + done.stderr,
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same experiment without flows and without a kill."""
    experiment, results = written(tmp_path_factory.mktemp("undisturbed"), command=list(FAKE_VLLM), concurrency=4)
    opened = open_study(experiment, results)
    for model in opened.config.models:
        asyncio.run(evaluate.evaluate(opened, model))
    analyze(opened)
    return opened


def test_a_killed_sweep_leaves_no_engine_and_no_half_written_part(runs):
    gone, of_engines, of_session = runs["left"]
    assert gone, of_engines
    assert all("prefect.server" in line for line in of_session), of_session
    assert not [p for p in runs["study"].store.root.rglob("*.parquet") if p.name.startswith(".")]


def test_a_killed_sweep_goes_on_to_what_it_would_have_been(runs, undisturbed):
    opened = runs["study"]
    after = files(opened)
    assert runs["before"] and {name: after[name] for name in runs["before"]} == runs["before"]
    assert after == files(undisturbed)
    for table in ("problems", "samples", "answers", "grades"):
        assert rows(opened, table) == rows(undisturbed, table)
    for name in ("summary", "comparison", "claims"):
        assert (opened.store.root / f"{name}.parquet").read_bytes() == (undisturbed.store.root / f"{name}.parquet").read_bytes()
    assert not any(owed_shards(opened, model) for model in opened.config.models)
    assert len(read_graded(opened.store.root)) == 2 * 12 * 4 * 3


def test_a_second_sweep_does_nothing(runs):
    assert runs["told"]["nothing done"] and runs["told"]["nothing started"]
    assert "nothing owed" in runs["said"]


def test_a_shard_is_tried_again_only_where_its_requests_failed(runs):
    assert runs["told"]["again after"] == [True, False, False]


def test_grading_again_gives_the_same_grades(runs, undisturbed):
    assert runs["told"]["graded"] == 288
    assert files(runs["study"], "grades") == files(undisturbed, "grades")  # regrade ran before this looked


def test_analysis_prints_the_table_and_writes_files(runs):
    said, root = runs["said"], runs["study"].store.root
    assert "A smaller model that thinks more, or a bigger one?" in said and "ladder-100k" in said
    for name in ("summary.parquet", "comparison.parquet", "claims.parquet"):
        assert str(root / name) in said and pd.read_parquet(root / name) is not None
    assert len(pd.read_parquet(root / "summary.parquet")) > 0
    for name in ("accuracy-vs-flops.png", "accuracy-vs-size.png"):
        assert str(root / "plots" / name) in said and (root / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_the_manifest_says_what_made_the_folder(runs):
    manifest = json.loads((runs["study"].store.root / "manifest.json").read_text())
    config = runs["study"].config
    assert manifest["config"] == config.model_dump(mode="json") and manifest["schema_version"] == SCHEMA_VERSION
    assert set(manifest["models"]) == set(config.models) and set(manifest["benchmarks"]) == {"sums"}
    assert set(manifest["trace_sets"]) == {r["trace_set_id"] for r in rows(runs["study"], "samples")}
    assert {"prefect", "pandas", "pyarrow"} <= set(manifest["packages"]) and manifest["device"] in ("cpu", "gpu")


def test_ctrl_c_ends_a_sweep_within_seconds_and_says_how_to_go_on(runs, tmp_path):
    """It goes to the whole group, Prefect's temporary server included, as from a terminal."""
    fault = {"kind": "hang", "after": 8, "once": str(tmp_path / "been")}
    experiment, results = written(tmp_path, command=[*FAKE_VLLM, "--fault", json.dumps(fault)], concurrency=4)
    opened, log = open_study(experiment, results), tmp_path / "said.log"
    with log.open("wb") as out:
        command = [sys.executable, str(FLOWS / "sweep.py"), experiment, "--results", str(results)]
        sweep = subprocess.Popen(command, stdout=out, stderr=out, env=environment(runs["home"]), start_new_session=True)
    assert eventually(lambda: seen(opened) > 8 and opened.store.parts("samples"), 120), log.read_text()
    begun, before = time.monotonic(), len(log.read_text())
    os.killpg(sweep.pid, signal.SIGINT)
    assert sweep.wait(90) == 128 + signal.SIGINT and time.monotonic() - begun < 60
    said = log.read_text()[before:]
    assert f"to go on: python {FLOWS}/sweep.py {experiment} --results {results}" in said and "Traceback" not in said
    assert eventually(lambda: not processes(opened) and not session(sweep.pid), 30), (processes(opened), session(sweep.pid))
    assert owed_shards(opened, opened.config.models[0])


def test_what_is_not_there_yet_is_one_line(tmp_path):
    experiment, results = written(tmp_path)
    command = [sys.executable, str(FLOWS / "analyze.py"), experiment, "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    where = results / "flows"
    assert (
        done.returncode == 1
        and done.stderr == f"error: {where}: no answers of this experiment. Run: python flows/sweep.py {experiment} --results {results}\n"
    )
    with pytest.raises(StoreError, match=r"no such folder. Give a results folder"):
        read_graded(where)


def test_progress_is_shown(runs):
    assert "engine ready after" in runs["said"] and "sums 9-12 done" in runs["said"]
    assert "tokens/s" in runs["said"]


@pytest.mark.parametrize("flow", ["sweep", "analyze", "regrade"])
def test_a_wrong_name_is_one_line_that_names_the_nearest(flow, tmp_path):
    command = [sys.executable, str(FLOWS / f"{flow}.py"), "nanoo", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "error: no experiment 'nanoo' in flows/experiments. Did you mean 'nano'?\n"


def test_a_wrong_key_is_one_line_that_names_the_nearest(tmp_path):
    path = tmp_path / "typo.yaml"
    path.write_text(yaml.safe_dump({k if k != "num_samples" else "num_sample": v for k, v in EXPERIMENT.items()}))
    done = subprocess.run([sys.executable, str(FLOWS / "sweep.py"), str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: typo.yaml: unknown key 'num_sample'. Did you mean 'num_samples'?\n"


def refused(status):
    request = httpx.Request("GET", "http://user:secret@prefect:4200/api/x")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))


def failing(error, monkeypatch):
    """A flow that ends in an error, which Prefect logs as it does."""

    async def flow():
        try:
            raise error
        except Exception:
            logging.getLogger("prefect.flow_runs").exception("as Prefect logs it")
            raise

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(logging.getLogger("prefect.flow_runs"), "propagate", True)
    console.settle_prefect()
    return flow


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: cannot be read or written: Not a directory."),
        (OSError(errno.EROFS, "Read-only file system", "a/.b.tmp", None, "a/b"), "a/b: cannot be read or written: Read-only file system."),
        (TableError("drawing was stopped"), "drawing was stopped"),
        (StoreError("parts differ"), "parts differ"),
        (ClaimError("twice"), "twice"),
        (FilesError("no links"), "no links"),
        (refused(401), "prefect:4200: answered 401 Unauthorized. Of a Prefect server: PREFECT_API_AUTH_STRING must be its user:password."),
        (refused(500), "prefect:4200: answered 500 Internal Server Error."),
        (
            httpx.ConnectError("refused"),
            "Prefect's API does not answer (ConnectError: refused). PREFECT_API_URL must be a server that runs",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_fault_of_ours_is_one_line_without_a_traceback(error, said, monkeypatch, caplog):
    flow = failing(error, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        console.run(flow, "http://server")
    assert str(ended.value).startswith(f"error: {said}") and "\n" not in str(ended.value)
    assert "as Prefect logs it" in caplog.text and "Traceback" not in caplog.text


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), OSError("no file's"), RuntimeError("x")], ids=repr)
def test_a_fault_of_ours_keeps_its_traceback(error, monkeypatch, caplog):
    flow = failing(error, monkeypatch)
    with pytest.raises(type(error)):
        console.run(flow, "http://server")
    assert "Traceback" in caplog.text


def test_results_in_a_file_are_one_line(tmp_path):
    experiment, results = written(tmp_path)
    results.write_text("")
    done = subprocess.run([sys.executable, str(FLOWS / "sweep.py"), experiment, "--results", str(results)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: {results}/flows/logs: cannot be read or written: Not a directory.\n"


def test_deploying_to_a_server_that_is_not_there_is_one_line():
    with socket.socket() as s:  # bound, and nobody listens
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}/api"
        done = subprocess.run(
            [sys.executable, str(FLOWS / "deploy.py")], capture_output=True, text=True, env={**os.environ, "PREFECT_API_URL": url}
        )
    assert (
        done.returncode == 1
        and done.stderr.startswith("error: Prefect's API does not answer (ConnectError")
        and done.stderr.count("\n") == 1
    )


def test_engines_and_graders_are_not_mixed_unasked(runs):
    graded = read_graded(runs["study"].store.root)
    check_unmixed(graded, runs["study"])
    graded["engine"] = ["one"] * 3 + ["two"] * (len(graded) - 3)
    with pytest.raises(StoreError, match=rf"several engines: one \(3 answers\), two \({len(graded) - 3:,} answers\).*--mixed"):
        check_unmixed(graded, runs["study"])
    graded["grader_version"] = ["a"] * 3 + ["b"] * (len(graded) - 3)
    with pytest.raises(
        StoreError, match=r"graded by a, b\. Grade all again, without an engine: python flows/regrade\.py flows --results /"
    ):
        check_unmixed(graded, runs["study"])
