"""What engines did over time, and whose time it was."""

import time

import pandas as pd
import pytest

from fakes import FAKE_VLLM, rows, run_fake, study
from thinkscale.metering import Gpu, Meter, engine_seconds, gpu_now
from thinkscale.report import analyze
from thinkscale.store import Store


def metrics(prompt, generated, **gauges):
    return {"prompt_tokens": prompt, "generation_tokens": generated, "prefix_cache_hits": prompt / 2, **gauges}


def test_rows_hold_what_was_counted_between_two_looks(tmp_path):
    store = Store(tmp_path)
    meter = Meter(store, "org/m", "node1", 2)
    meter.heard(metrics(10.0, 5.0))
    with meter.at_work("a"):
        meter.drawn("a", 7)
        meter.heard(metrics(14.0, 15.0, num_requests_running=3.0, num_requests_waiting=1.0))
        with meter.at_work("b"):
            meter.heard(metrics(14.0, 15.0))
    meter.heard(metrics(14.0, 16.0))
    meter.heard(metrics(14.0, 16.0))
    meter.flush()
    meter.flush()
    (part,) = store.parts("engine")
    one, two, three, four = store.read("engine").sort_by("second").to_pylist()
    assert (one["prompt_tokens"], one["generation_tokens"], one["prefix_cache_hits"]) == (4, 10, 2)
    assert (one["running"], one["waiting"], one["gpus"], one["host"]) == (3, 1, 2, "node1")
    assert (one["trace_set_ids"], one["drawn_tokens"]) == (["a"], [7])
    assert (two["trace_set_ids"], two["drawn_tokens"]) == (["a", "b"], [0, 0])
    assert three["trace_set_ids"] == ["a", "b"] and three["generation_tokens"] == 1, "they were worked on when the interval began"
    assert four["trace_set_ids"] == []
    assert one["second"] == pytest.approx(one["seconds"]) and part.name.startswith("org-m-")
    assert abs(one["time"] - time.time()) < 60


def test_rows_are_kept_part_by_part_and_no_sooner_than_due(tmp_path):
    store = Store(tmp_path)
    meter = Meter(store, "m", "h", 1)
    for i in range(3):
        meter.heard(metrics(i, i))
    meter.flush(3600.0)
    assert not store.parts("engine")
    meter.flush()
    meter.heard(metrics(9, 9))
    meter.flush()
    assert len(store.parts("engine")) == 2 and store.read("engine").num_rows == 3


def test_an_interval_is_shared_out_by_the_tokens_that_came_back():
    engine = pd.DataFrame(
        [
            ("m", 2.0, ["a", "b"], [30, 10]),
            ("m", 4.0, ["a", "b"], [0, 0]),  # in equal parts
            ("m", 8.0, ["b"], [5]),
            ("n", 1.0, ["a"], [3]),
            ("n", 99.0, [], []),  # nobody's
        ],
        columns=["model", "seconds", "trace_set_ids", "drawn_tokens"],
    )
    found = engine_seconds(engine).set_index(["model", "trace_set_id"])
    assert found["engine_seconds"].to_dict() == {("m", "a"): 3.5, ("m", "b"): 10.5, ("n", "a"): 1.0}
    assert found["drawn_tokens"].to_dict() == {("m", "a"): 30, ("m", "b"): 15, ("n", "a"): 3}
    assert found["tokens_per_second"].to_dict() == pytest.approx({("m", "a"): 30 / 3.5, ("m", "b"): 15 / 10.5, ("n", "a"): 3.0})
    assert engine_seconds(engine.head(0)).empty


def test_a_run_that_is_over_before_the_second_look_leaves_what_its_engine_did(tmp_path):
    opened = study(tmp_path, models=["fake-100k"], benchmarks={"sums": {"problems": 2}}, engine={"command": list(FAKE_VLLM)})
    run_fake(opened)
    spent = sum(
        opened.store.read(t, ["request_completion_tokens"]).to_pandas()["request_completion_tokens"].sum() for t in ("samples", "answers")
    )
    found = opened.store.read("engine").to_pandas()
    assert found["generation_tokens"].sum() == spent > 0 and found["drawn_tokens"].map(sum).sum() > 0


class Nvml:
    """What we use of pynvml, on three GPUs that do not exist."""

    NVMLError = LookupError

    def __init__(self, silent=False):
        self.silent = silent

    def nvmlDeviceGetCount(self):
        return 3

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetUUID(self, index):
        return f"GPU-{('deadbeef', 'deadcafe', 'beefcafe')[index]}-0000"

    def nvmlDeviceGetMemoryInfo(self, index):
        return type("Memory", (), {"used": (index + 1) * 2**30})

    def nvmlDeviceGetPowerUsage(self, index):
        if self.silent:
            raise LookupError("not supported")
        return 1000 * (index + 1)

    def nvmlDeviceGetTotalEnergyConsumption(self, index):
        return 5000 * (index + 1)


@pytest.mark.parametrize(
    ("visible", "gpus", "expected"),
    [
        (None, 1, (1024, 1, 5)),
        (None, 3, (6144, 6, 30)),
        ("2", 1, (3072, 3, 15)),
        ("1,2", 2, (5120, 5, 25)),
        ("1, 2", 1, (2048, 2, 10)),
        ("GPU-deadcafe-0000", 1, (2048, 2, 10)),
        ("GPU-beef,GPU-deadb", 2, (4096, 4, 20)),
        ("1,MIG-deadbeef", 1, (2048, 2, 10)),
        ("", 1, (None, None, None)),
        ("-1", 1, (None, None, None)),
        ("GPU-dead", 1, (None, None, None)),  # which of two?
        ("GPU-cafe", 1, (None, None, None)),
        ("MIG-deadbeef", 1, (None, None, None)),
        ("1", 2, (None, None, None)),
        ("3", 1, (None, None, None)),
    ],
)
def test_gpus_are_summed_over_those_that_the_engine_uses(monkeypatch, visible, gpus, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_now(gpus, Nvml()) == Gpu(*expected)


def test_a_gpu_that_does_not_tell_is_unknown_and_not_zero(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_now(1, Nvml(silent=True)) == Gpu(None, None, None)


def test_a_run_leaves_what_its_engine_did_and_analysis_joins_it_to_cells(tmp_path):
    command = [*FAKE_VLLM, "--fault", '{"kind": "slow", "seconds": 0.4}']
    opened = study(tmp_path, models=["fake-21k", "fake-100k"], engine={"command": command, "concurrency": 4, "stall_timeout": 4.0})
    run_fake(opened)
    analyze(opened)
    engine = pd.read_parquet(opened.store.root / "engine.parquet")
    assert engine["engine_start"].nunique() == 2 and not engine.duplicated(["engine_start", "second"]).any()
    found = engine_seconds(engine).set_index("trace_set_id")
    assert set(found.index) == {r["trace_set_id"] for r in rows(opened, "samples")}
    spent = {}
    for r in rows(opened, "samples") + rows(opened, "answers"):
        spent[r["trace_set_id"]] = spent.get(r["trace_set_id"], 0) + r["request_completion_tokens"]
    for set_id, row in found.iterrows():
        assert 0 < row["drawn_tokens"] <= spent[set_id], "the last seconds of an engine may be missing"
        assert 0 < row["engine_seconds"] < 120
