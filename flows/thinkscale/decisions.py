"""The tables of decisions: what to buy next, what reaches a target most cheaply, how to split a budget. Every column declared once.

Why: as in `schema`, of which these tables are a part (`schema.TABLES` holds them).
What it does not do: compute any value (see `purchase`, `targets`, `split`).
"""

import pyarrow as pa

from thinkscale.columns import POINT, Column, Table

_POINT = {c.name: c for c in POINT}
_AXIS = Column(
    "axis",
    pa.string(),
    "What is paid: `flops`, `eflops` (with memory traffic, where `gpu:` is given), `tokens` (completion), `steps` (tokens of the longest "
    "sample: waiting), `kv_bytes`, `seconds` (GPU-seconds as measured), `dollars` (where a table has them).",
)


def _ends(name: str, of: str, nullable: bool = False) -> tuple[Column, Column]:
    return (
        Column(name.format("low"), pa.float64(), f"Lower end of {of} 95 % interval.", nullable=nullable),
        Column(name.format("high"), pa.float64(), f"Upper end of {of} 95 % interval.", nullable=nullable),
    )


PURCHASE = Table(
    "purchase",
    "one row per point × route that goes on from it × axis of cost: what the next step adds and what it costs",
    ("cell_id", "slice", "metric", "k", "bought", "axis"),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget: where the step starts."),
        *(_POINT[name] for name in ("model", "params", "benchmark", "skill", "slice", "prompt", "route", "sampling", "thinking_budget")),
        Column("metric", pa.string(), "`pass@k` at k = 1, or `maj@k`."),
        Column("k", pa.int32(), "Samples at the start."),
        Column("bought", pa.string(), "`bigger` (next size), `think longer` (about twice the budget), `sample more` (2k; from 1 to 4)."),
        _AXIS,
        Column("to_cell_id", pa.string(), "Cell where the step ends."),
        Column("to_model", pa.string(), "Its model."),
        Column("to_thinking_budget", pa.int32(), "Its thinking budget."),
        Column("to_metric", pa.string(), "Metric there."),
        Column("to_k", pa.int32(), "Samples there."),
        Column("value", pa.float64(), "Accuracy at the start."),
        Column("to_value", pa.float64(), "Accuracy where the step ends."),
        Column("gain", pa.float64(), "`to_value - value`, paired by problem."),
        *_ends("{}", "the gain's"),
        Column("cost_ratio", pa.float64(), "How many times more is paid on this axis; null where it is not known.", nullable=True),
        Column(
            "per_doubling",
            pa.float64(),
            "Gain for each doubling of what is paid: over log2 of `cost_ratio`, which counts as 1.05 at least. Null as `cost_ratio`.",
            nullable=True,
        ),
        Column(
            "share_best",
            pa.float64(),
            "Share of bootstrap draws in which it has the most `per_doubling` of the routes that go on from here, and more than none. "
            "Level ones share.",
            nullable=True,
        ),
        Column("share_nothing", pa.float64(), "Share of draws in which no route from here gains.", nullable=True),
        Column("num_open", pa.int32(), "Routes that go on from here at a cost known on this axis."),
        Column("num_problems", pa.int32(), "Problems that all cells of the skill share."),
    ),
)
