"""What a point costs, on every axis of cost that is known of it.

Why: which route is the cheapest depends on what is paid for; a conclusion that holds on FLOPs may turn on memory traffic or on waiting.
What it does not do: measure anything, or make up a price: an axis is there where its numbers are.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from thinkscale import cost
from thinkscale.config import Gpu
from thinkscale.metering import engine_seconds

AXES: Mapping[str, str] = {
    "flops": "FLOPs",
    "eflops": "eFLOPs",
    "tokens": "completion tokens",
    "steps": "tokens of the longest sample",
    "kv_bytes": "bytes of KV cache read",
    "seconds": "GPU-seconds",
    "dollars": "dollars",
}
"""Axis -> its unit per problem; its numbers are the column `cost_<axis>`. `steps` is what is waited for, `seconds` what is paid for."""
COUNTED = ("flops", "tokens", "steps", "kv_bytes")
"""The axes that follow from tokens alone: every summary has them, whatever it ran on."""


def priced(
    summary: pd.DataFrame,
    graded: pd.DataFrame,
    gpu: Gpu | None = None,
    engine: pd.DataFrame | None = None,
    dollars_per_gpu_hour: float | None = None,
) -> pd.DataFrame:
    """The summary with `cost_eflops`, where the kind of GPU is known, and `cost_seconds`, where an engine's time was measured.

    GPU-seconds are a point's tokens at the throughput at which its trace set was drawn, times the engine's GPUs: many requests at once,
    prompts included, short and long budgets alike. With a price of a GPU they are `cost_dollars` too; one that is there stays otherwise.

    Args:
        summary: from `summarize`.
        graded: the same rows; `trace_set_id` joins their cells to the engine's time.
        gpu: the kind of GPU that eFLOPs are of.
        engine: the table `engine`.
        dollars_per_gpu_hour: what a GPU costs; None: not known.
    """
    more = {}
    if gpu is not None:
        more["cost_eflops"] = cost.eflops(summary["cost_flops"], summary["cost_kv_bytes"], gpu)
    if engine is not None and len(engine) and "trace_set_id" in graded:
        spent = engine_seconds(engine.assign(seconds=engine["seconds"] * engine["gpus"]))
        drawn = spent.groupby(spent["trace_set_id"].astype(str))[["engine_seconds", "drawn_tokens"]].sum()
        rate = drawn["engine_seconds"] / drawn["drawn_tokens"].where(drawn["drawn_tokens"] > 0)
        sets = graded.drop_duplicates("cell_id").set_index("cell_id")["trace_set_id"].astype(str)
        per_token = summary["cell_id"].map(sets.map(rate).to_dict()).astype(float)
        more["cost_seconds"] = (summary["cost_tokens"] * per_token).to_numpy()
        if dollars_per_gpu_hour is not None:
            more["cost_dollars"] = cost.gpu_dollars(more["cost_seconds"], dollars_per_gpu_hour)
    return summary.assign(**more)


def known_axes(points: pd.DataFrame) -> list[str]:
    """The axes on which any of these points has a cost."""
    return [axis for axis in AXES if f"cost_{axis}" in points and np.isfinite(points[f"cost_{axis}"].astype(float)).any()]
