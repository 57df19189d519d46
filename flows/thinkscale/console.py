"""What the flow files share at the command line: arguments, Prefect's settings, log lines.

Why: `--plan` must answer in seconds, so arguments are read before Prefect is imported; and Prefect's own defaults (20 s for its local
server to start, result files, telemetry) are set in one place. What it does not do: import prefect.
"""

import argparse
import asyncio
import atexit
import functools
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

import httpx
from pydantic import Field
from rich.console import Console

from thinkscale import loss, scores
from thinkscale.compare import ClaimError
from thinkscale.config import ConfigError, Experiment
from thinkscale.evaluate import start_first
from thinkscale.fanout import Unfinished
from thinkscale.files import FilesError
from thinkscale.outlook import plan, plan_table
from thinkscale.plan import RESULTS, Study, open_study
from thinkscale.remote import StorageError
from thinkscale.serving import Running
from thinkscale.status import status_view
from thinkscale.store import StoreError
from thinkscale.tidy import TableError

T = TypeVar("T")

# What flows are given, with what Prefect's API can refuse when a run is submitted; the rest is said by the run (`opened`).
Given = Annotated[str, Field(min_length=1)] | Experiment
Folder = Annotated[str, Field(min_length=1)]

_SERVER = "PREFECT_API_URL must be a server that runs (prefect server start)."
LEAVE_SECONDS = 8.0
"""After Ctrl-C, for engines to end and claims to be given back."""


class Command(NamedTuple):
    """What was asked for at the command line."""

    experiment: str
    results: str
    engines: dict[str, Running]
    """Engines that are starting already."""
    pool: str | None = None
    replicas: int = 1
    mixed: bool = False


def command(about: str | None) -> Command:
    """EXPERIMENT and --results of a flow file; exits with one line where the experiment is not what it should be."""
    asked = _parser(about).parse_args()
    _study(asked.experiment, asked.results)
    log_to_terminal()
    return Command(asked.experiment, asked.results, {})


def analyze_command(about: str | None) -> Command:
    """The same for `analyze.py`."""
    parser = _parser(about)
    parser.add_argument("--mixed", action="store_true", help="take answers of several engines or graders together")
    asked = parser.parse_args()
    study = _study(asked.experiment, asked.results)
    if not _or_exit(lambda: study.store.parts("answers")):
        sys.exit(f"error: {study.store.root}: no answers of this experiment. Run: {sweep_again(asked.experiment, asked.results, None)}")
    log_to_terminal()
    return Command(asked.experiment, asked.results, {}, mixed=asked.mixed)


def sweep_command(about: str | None) -> Command:
    """The same for `sweep.py`: prints plan or status and exits if asked to, otherwise starts the first model's engine."""
    parser = _parser(about)
    parser.add_argument("--plan", action="store_true", help="print cells, samples on disk and owed, and what they will cost; start nothing")
    parser.add_argument(
        "--status", action="store_true", help="print what is done, owed and being worked on, from disk alone; start nothing"
    )
    parser.add_argument("--pool", help="Prefect work pool whose workers run the models (default: here, one after the other)")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="with --pool: runs for each model, which share its shards")
    asked = parser.parse_args()
    study = _study(asked.experiment, asked.results)
    if asked.replicas < 1 or (asked.replicas > 1 and not asked.pool):
        sys.exit(f"error: --replicas {asked.replicas}: at least 1, and more only with --pool, where there are workers to share the work.")
    if asked.plan:
        _or_exit(lambda: study.check(fetch=False))
    if asked.plan or asked.status:
        Console(width=150).print(_or_exit(lambda: status_view(study) if asked.status else plan_table(study, plan(study))))
        for expected in (_or_exit(lambda: loss.outlook(study)), _or_exit(lambda: scores.outlook(study))):
            if expected:
                print(expected)
        sys.exit()
    log_to_terminal()
    if asked.pool:
        _or_exit(lambda: travelling(study))
        return Command(asked.experiment, asked.results, {}, asked.pool, asked.replicas)
    return Command(asked.experiment, asked.results, _or_exit(lambda: start_first(study)))


def _parser(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("experiment", help="name of a shipped experiment (flows/experiments/) or path of a YAML file")
    parser.add_argument("--results", default=str(RESULTS), help="folder or URL (s3://, gs://) of results folders (default: results/)")
    return parser


def _study(experiment: str, results: str) -> Study:
    return _or_exit(lambda: open_study(experiment, results))


def _or_exit(do: Callable[[], T]) -> T:
    with one_line():
        return do()


@contextmanager
def one_line() -> Iterator[None]:
    """Exit with one line where the fault is in what we were given, in a folder, or with a server; a fault of ours stays a traceback."""
    try:
        yield
    except Exception as e:
        if said := in_one_line(e):
            sys.exit(f"error: {said}")
        raise


def in_one_line(e: BaseException) -> str:
    """What to say of an error that is none of ours; nothing where it may be."""
    match e:
        case ConfigError() | FilesError() | StoreError() | TableError() | ClaimError() | StorageError():
            return str(e)
        case httpx.HTTPStatusError(request=request, response=response):
            hint = " Of a Prefect server: PREFECT_API_AUTH_STRING must be its user:password." if response.status_code == 401 else ""
            return f"{request.url.netloc.decode()}: answered {response.status_code} {response.reason_phrase}.{hint}"
        case httpx.HTTPError():
            return f"Prefect's API does not answer ({type(e).__name__}: {e}). {_SERVER}"
        case OSError(filename=name, filename2=other) if name is not None:
            return f"{other or name}: cannot be read or written: {e.strerror}."
    return ""


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(e := record.exc_info[1], BaseException) and (isinstance(e, Unfinished) or in_one_line(e)):
        record.exc_info = None
    return True


def as_given(experiment: object) -> str | dict[str, Any]:
    """A flow's parameter as `open_study` takes it: a name or path as it is, content as a mapping."""
    if isinstance(experiment, Experiment):
        return experiment.model_dump(mode="json", exclude_unset=True)
    if isinstance(experiment, str | dict):
        return experiment
    raise ConfigError(f"experiment: found {type(experiment).__name__}; give a shipped name, a path, or the content of a YAML file.")


def experiment_name(experiment: object) -> str:
    """What to call a run: the name within content, or the last part of a path."""
    given = as_given(experiment)
    return Path(given).stem if isinstance(given, str) else str(given.get("name", "unnamed"))


def sweep_again(experiment: object, results: str, pool: str | None, replicas: int = 1) -> str:
    """The command that finishes what a sweep left owed."""
    given = as_given(experiment)
    words = ["python", "flows/sweep.py", given if isinstance(given, str) else "THE_SAME.yaml"]
    words += ["--results", results] if results != str(RESULTS) else []
    words += ["--pool", pool] if pool else []
    return shlex.join([*words, *(["--replicas", str(replicas)] if replicas > 1 else [])])


def opened(experiment: object, results: str, *, deployed: bool, engines: bool = True) -> Study:
    """A flow's study; the first that a flow asks for. A deployment's run goes on from here when its worker dies.

    What it is told comes from whoever may submit runs: where it is to start engines, that must not name a command or an address, in
    content or in a file. Raises ConfigError.
    """
    if deployed:
        outlive_reader()
    study = open_study(as_given(experiment), results)
    if deployed and engines:
        travelling(study)
    return study


def check_model(study: Study, model: str) -> None:
    """Raise ConfigError for a model whose rows would not belong into the experiment's folder."""
    scorer = study.config.scorer
    if model not in (*study.config.models, scorer):
        there = ", ".join(study.config.models) + (f"; scorer: {scorer}" if scorer else "")
        raise ConfigError(f"model: '{model}' is none of experiment '{study.config.name}'. Give one of its models: {there}.")


def travelling(study: Study) -> dict[str, Any]:
    """The content of an experiment for a worker, which may not have its file. Raises ConfigError where it would be refused there."""
    content = study.config.model_dump(mode="json", exclude_defaults=True)
    open_study(content)
    return content


def settle_prefect() -> None:
    """Settings that Prefect reads when it is imported; what the user set stays."""
    defaults = {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",  # 20 s is too short for a first start on two busy cores
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "thinkscale",  # library code logs without importing Prefect
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
    logging.getLogger("thinkscale").setLevel(logging.INFO)  # which a deployment's run, where Prefect is imported first, would not say


def run(flow: Callable[[], Coroutine[Any, Any, T]], server: str | None) -> T:
    """Run a flow that was asked for at the command line, to its end or to Ctrl-C.

    Args:
        server: the address of Prefect's; None: it starts a temporary one. That hears the Ctrl-C too and is gone, and Prefect would try for
            minutes to tell it how the runs ended: so we are gone within seconds. What is on disk is always whole, engines die with us.
    """

    async def begun() -> T:
        if server is None:
            usual = signal.getsignal(signal.SIGINT)  # of the event loop that runs now

            def interrupted(number: int, frame: FrameType | None) -> None:
                logging.disable(logging.CRITICAL)  # hundreds of lines on a server that is gone
                late = threading.Timer(LEAVE_SECONDS, _leave)
                late.daemon = True
                late.start()
                if callable(usual):
                    usual(number, frame)

            signal.signal(signal.SIGINT, interrupted)
        return await flow()

    try:
        with one_line():
            return asyncio.run(begun())
    except KeyboardInterrupt:
        _leave()
    except RuntimeError as e:
        if "Failed to reach API" not in str(e):
            raise
        sys.exit(f"error: {e}. {_SERVER} Without it a temporary one is started.")


def _leave() -> NoReturn:
    os.write(2, f"\nInterrupted. What is finished stays; to go on: {shlex.join(['python', *sys.argv])}\n".encode())
    os._exit(128 + signal.SIGINT)


@functools.cache  # once for each process: the models of a sweep without a pool are flows of it
def outlive_reader() -> None:
    """Go on when whoever reads our output is gone: from then on it is dropped.

    A worker reads its run's output through a pipe. When the worker is killed, the next line that is logged would end the run: rich, which
    Prefect logs with, exits on a broken pipe.
    """
    for descriptor in (1, 2):
        real = os.dup(descriptor)
        read, write = os.pipe()
        os.dup2(write, descriptor)
        os.close(write)
        pump = threading.Thread(target=_pump, args=(read, real), daemon=True, name=f"output {descriptor}")
        pump.start()
        atexit.register(_drained, descriptor, real, pump)


def _pump(read: int, real: int) -> None:
    while data := os.read(read, 65536):
        with suppress(OSError):
            os.write(real, data)


def _drained(descriptor: int, real: int, pump: threading.Thread) -> None:
    """At the end: the pipe's last writer goes, so that the pump writes out what is left."""
    os.dup2(real, descriptor)
    pump.join(5.0)


def log_to_terminal() -> None:
    """Progress lines of the library before Prefect takes over logging."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("thinkscale").setLevel(logging.INFO)
