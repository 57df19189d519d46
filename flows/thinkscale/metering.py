"""What an engine did over time: counters of vLLM and of the GPUs, a row every few seconds, kept as parts of the table `engine`.

Why: tokens per second, cache hits and engine-seconds say whether a GPU-hour was well spent, and are a cost of their own beside FLOPs.
What it does not do: ask the engine (the watch of `serving` does, and passes on what it heard); decide anything.
"""

import importlib.util
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pandas as pd

from thinkscale.config import file_name
from thinkscale.store import Store

FLUSH_SECONDS = 60.0
"""Rows of a run that is killed are lost back to the last part."""
COUNTERS = ("prompt_tokens", "generation_tokens", "prefix_cache_queries", "prefix_cache_hits", "num_preemptions")
GAUGES = {"num_requests_running": "running", "num_requests_waiting": "waiting"}


class Gpu(NamedTuple):
    """The GPUs of one engine together; None where it is not known."""

    memory_mib: float | None
    power_w: float | None
    energy_j: float | None


class Meter:
    """Collects the rows of one engine start and publishes them. Called by the watch's thread and by the one that draws."""

    def __init__(self, store: Store, model: str, host: str, gpus: int) -> None:
        self.store, self.model, self.host, self.gpus = store, model, host, gpus
        self.engine_start = file_name(model, time.strftime("%Y%m%dT%H%M%S"), os.urandom(3).hex())
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
        self._parts = 0
        self._drawn: dict[str, int] = {}
        self._at_work: dict[str, int] = {}
        self._before: dict[str, float] | None = None
        self._flushed = time.monotonic()
        self._begun = self._last = 0.0

    def drawn(self, trace_set_id: str, tokens: int) -> None:
        """Tokens of a trace set came back."""
        with self._lock:
            self._drawn[trace_set_id] = self._drawn.get(trace_set_id, 0) + tokens

    @contextmanager
    def at_work(self, trace_set_id: str) -> Iterator[None]:
        """While a shard of a trace set is worked on."""
        self._count(trace_set_id, 1)
        try:
            yield
        finally:
            self._count(trace_set_id, -1)

    def _count(self, trace_set_id: str, change: int) -> None:
        with self._lock:
            self._at_work[trace_set_id] = self._at_work.get(trace_set_id, 0) + change
            self._drawn.setdefault(trace_set_id, 0)

    def heard(self, metrics: dict[str, float]) -> None:
        """One look at the engine's metrics (see `endpoint.parse_metrics`): a row for the time since the last one."""
        now = time.monotonic()
        gpu = gpu_now(self.gpus)
        with self._lock:
            if self._before is None:
                self._begun = now
            else:
                self._rows.append(self._row(metrics, self._before, now, gpu))
            self._before, self._last = metrics, now
            self._drawn = {t: 0 for t, running in self._at_work.items() if running > 0}

    def flush(self, due: float = 0.0) -> None:
        """Publish what was collected, if the last time is `due` seconds ago. Raises OSError where nothing can be written."""
        with self._lock:
            if time.monotonic() - self._flushed < due:
                return
            rows, self._rows, self._flushed = self._rows, [], time.monotonic()
            self._parts += bool(rows)
        if rows:
            self.store.publish("engine", f"{self.engine_start}-{self._parts:05}", rows)

    def _row(self, now: dict[str, float], before: dict[str, float], at: float, gpu: Gpu) -> dict[str, Any]:
        sets = sorted(self._drawn)
        return {
            "engine_start": self.engine_start,
            "second": at - self._begun,
            "model": self.model,
            "host": self.host,
            "time": time.time(),
            "seconds": at - self._last,
            **{name: int(now.get(name, 0.0) - before.get(name, 0.0)) for name in COUNTERS},
            **{ours: int(now.get(name, 0.0)) for name, ours in GAUGES.items()},
            "gpus": self.gpus,
            "gpu_memory_mib": gpu.memory_mib,
            "gpu_power_w": gpu.power_w,
            "gpu_energy_j": gpu.energy_j,
            "trace_set_ids": sets,
            "drawn_tokens": [self._drawn[t] for t in sets],
        }


def gpu_now(gpus: int, nvml: Any = None) -> Gpu:
    """Memory, power and energy counter of the GPUs that we may use, summed, through NVML; nothing where it is not there, or cannot
    be told which they are.

    Args:
        gpus: how many of the visible ones the engine uses.
        nvml: the module pynvml; None: it is imported if installed.
    """
    nvml = nvml or _nvml()
    if nvml is None:
        return Gpu(None, None, None)
    try:
        handles = _visible(nvml)[:gpus]
        if len(handles) < gpus:
            return Gpu(None, None, None)
        return Gpu(
            sum(nvml.nvmlDeviceGetMemoryInfo(h).used for h in handles) / 2**20,
            sum(nvml.nvmlDeviceGetPowerUsage(h) for h in handles) / 1e3,
            sum(nvml.nvmlDeviceGetTotalEnergyConsumption(h) for h in handles) / 1e3,
        )
    except nvml.NVMLError:  # a kind of GPU that does not tell
        return Gpu(None, None, None)


def _visible(nvml: Any) -> list[Any]:
    """NVML's handles of the GPUs that CUDA shows us, in its order: by number or the beginning of a UUID, up to the first that is none (as a
    part of a GPU).
    """
    there = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return there
    uuids = [os.fsdecode(nvml.nvmlDeviceGetUUID(handle)) for handle in there]  # bytes in old versions
    found = []
    for name in map(str.strip, asked.split(",")):
        meant = [i for i, uuid in enumerate(uuids) if name == str(i) or (name.startswith("GPU-") and uuid.startswith(name))]
        if len(meant) != 1:
            break
        found.append(there[meant[0]])
    return found


def _nvml() -> Any:
    if "nvml" not in _FOUND:
        _FOUND["nvml"] = None
        if importlib.util.find_spec("pynvml") is not None:
            nvml = importlib.import_module("pynvml")
            try:
                nvml.nvmlInit()
                _FOUND["nvml"] = nvml
            except nvml.NVMLError:  # no driver
                pass
    return _FOUND["nvml"]


_FOUND: dict[str, Any] = {}


def engine_seconds(engine: pd.DataFrame) -> pd.DataFrame:
    """Engine time by trace set.

    An interval belongs to the trace sets that were being worked on, in proportion to the tokens that came back for each of them in it (in
    equal parts where none came back); an interval in which none was is nobody's. A trace set is drawn once for all budgets, so this is the
    time of all its cells together.

    Args:
        engine: the table `engine`.
    Returns: a row per model and trace_set_id: engine_seconds, drawn_tokens, tokens_per_second.
    """
    whole = engine[["model", "seconds", "trace_set_ids", "drawn_tokens"]].reset_index(drop=True)
    whole = whole.assign(total=whole["drawn_tokens"].map(sum), sets=whole["trace_set_ids"].map(len))
    long = whole.explode(["trace_set_ids", "drawn_tokens"]).dropna(subset="trace_set_ids")
    tokens = long["drawn_tokens"].astype("int64")
    share = (tokens / long["total"]).where(long["total"] > 0, 1 / long["sets"])
    long = long.assign(trace_set_id=long["trace_set_ids"], drawn_tokens=tokens, engine_seconds=long["seconds"] * share)
    found = long.groupby(["model", "trace_set_id"], as_index=False)[["engine_seconds", "drawn_tokens"]].sum()
    return found.assign(tokens_per_second=found["drawn_tokens"] / found["engine_seconds"])
