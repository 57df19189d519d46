"""Axes of cost: an axis is there where its numbers are, and its numbers are right."""

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale.axes import AXES, known_axes, priced
from thinkscale.config import Gpu
from thinkscale.summarize import summarize

WORLD = made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0, 16), num_problems=6, num_samples=2)


def tables():
    graded = made.graded(WORLD)
    return summarize(graded, made.shapes(WORLD), made.chance(WORLD), draws=20), graded


def test_without_gpu_engine_or_prices_the_axes_are_the_summary_s():
    summary, graded = tables()
    assert known_axes(priced(summary, graded)) == ["flops", "tokens", "steps", "kv_bytes"]
    assert known_axes(summary.assign(cost_flops=np.nan, cost_dollars=1.0)) == ["tokens", "steps", "kv_bytes", "dollars"]
    assert set(AXES) >= set(known_axes(summary))


def test_eflops_are_flops_and_the_traffic_of_the_gpu_named():
    summary, graded = tables()
    found = priced(summary, graded, Gpu(tflops=1000, bandwidth_tb=2, memory_gb=80))
    assert found["cost_eflops"].to_numpy() == pytest.approx((summary["cost_flops"] + 500 * summary["cost_kv_bytes"]).to_numpy())


def test_seconds_are_tokens_at_the_throughput_of_the_trace_set_times_gpus():
    summary, graded = tables()
    engine = pd.DataFrame(
        {
            "model": "nano-12k",
            "seconds": [2.0, 4.0],
            "gpus": [1, 2],
            "trace_set_ids": [["sums-nano-12k"], ["sums-nano-12k"]],
            "drawn_tokens": [[100], [900]],
        }
    )
    found = priced(summary, graded, engine=engine)
    mine = found["model"] == "nano-12k"
    assert found.loc[mine, "cost_seconds"].to_numpy() == pytest.approx(summary.loc[mine, "cost_tokens"].to_numpy() * (2 + 8) / 1000)
    assert found.loc[~mine, "cost_seconds"].isna().all()  # its engine's time is not known
    assert "cost_seconds" not in priced(summary, graded, engine=engine.head(0))
    dollars = priced(summary, graded, engine=engine, dollars_per_gpu_hour=3.6)
    assert dollars.loc[mine, "cost_dollars"].to_numpy() == pytest.approx(found.loc[mine, "cost_seconds"].to_numpy() / 1000)
    assert dollars.loc[~mine, "cost_dollars"].isna().all() and known_axes(dollars)[-2:] == ["seconds", "dollars"]
    assert "cost_dollars" not in priced(summary, graded, engine=engine.head(0), dollars_per_gpu_hour=3.6)
