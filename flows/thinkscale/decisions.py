"""The tables of decisions: what to buy next, what reaches a target most cheaply, how to split a budget. Every column declared once.

Why: as in `schema`, of which these tables are a part (`schema.TABLES` holds them).
What it does not do: compute any value (see `purchase`, `targets`, `split`).
"""

import pyarrow as pa

from thinkscale.columns import AXIS, LEVEL, POINT, Column, Table

_POINT = {c.name: c for c in POINT}
_SETTING = (
    ("model", pa.string(), "model"),
    ("route", pa.string(), "way of thinking"),
    ("thinking_budget", pa.int32(), "thinking budget"),
    ("metric", pa.string(), "metric"),
    ("k", pa.int32(), "samples"),
)


def _ends(name: str, of: str, nullable: bool = False) -> tuple[Column, Column]:
    return (
        Column(name.format("low"), pa.float64(), f"Lower end of {of} 95 % interval.", nullable=nullable),
        Column(name.format("high"), pa.float64(), f"Upper end of {of} 95 % interval.", nullable=nullable),
    )


PURCHASE = Table(
    "purchase",
    "one row per point × route that goes on from it × reach × axis of cost: what a step adds and what it costs",
    ("cell_id", "slice", "metric", "k", "bought", "reach", "axis"),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget: where the step starts."),
        *(_POINT[name] for name in ("model", "params", "benchmark", "skill", "slice", "prompt", "route", "sampling", "thinking_budget")),
        LEVEL,
        Column("metric", pa.string(), "`pass@k` at k = 1, or `maj@k`."),
        Column("k", pa.int32(), "Samples at the start."),
        Column(
            "bought",
            pa.string(),
            "`bigger` (next size), `think longer` (about twice the budget, or level), `sample more` (2k; from 1 to 4).",
        ),
        Column(
            "reach",
            pa.string(),
            "`next`: the next step; `further`, over all problems: of all steps along the route the one with the most `per_doubling`.",
        ),
        AXIS,
        Column("to_cell_id", pa.string(), "Cell where the step ends."),
        Column("to_model", pa.string(), "Its model."),
        Column("to_route", pa.string(), "Its way of thinking: another one where a level of `effort` is bought."),
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

TARGETS = Table(
    "targets",
    "one row per benchmark, slice, axis of cost and target accuracy: the cheapest setting that reaches it",
    ("benchmark", "slice", "axis", "target"),
    (
        _POINT["benchmark"],
        _POINT["skill"],
        _POINT["slice"],
        AXIS,
        Column("target", pa.float64(), "The accuracy wanted; only those above guessing have rows."),
        Column("cell_id", pa.string(), "Cell of the cheapest setting at the target or above; null: nobody reaches it.", nullable=True),
        Column("setting", pa.string(), "In words; empty: nobody reaches it."),
        *(Column(name, type_, f"Its {text}.", nullable=True) for name, type_, text in _SETTING),
        Column("value", pa.float64(), "Its accuracy.", nullable=True),
        *_ends("{}", "its accuracy's", True),
        Column("cost", pa.float64(), "What it costs per problem, in the axis's unit.", nullable=True),
        Column("cost_low", pa.float64(), "Of the bootstrap draws' cheapest costs the 2.5 % quantile; inf where the target is not reached."),
        Column("cost_high", pa.float64(), "Their 97.5 % quantile; inf: more than 2.5 % of the draws do not reach the target."),
        Column("share_cheapest", pa.float64(), "Share of draws in which this very setting is the cheapest that reaches it.", nullable=True),
        Column("share_model", pa.float64(), "Share of draws in which a setting of its model is.", nullable=True),
        Column("share_never", pa.float64(), "Share of draws in which nobody reaches it."),
        Column(
            "held_out",
            pa.float64(),
            "Accuracy, on the other half of the problems, of the cheapest setting that one half says reaches the target. Below the "
            "target: such choices are partly luck. Null where no half reaches it.",
            nullable=True,
        ),
        Column("safe", pa.string(), "The cheapest setting that reaches it in 95 % of the draws; empty: none does."),
        Column("safe_cost", pa.float64(), "What that costs.", nullable=True),
        Column("num_points", pa.int32(), "Settings in the choice: those that need no oracle and whose cost on this axis is known."),
        Column("num_problems", pa.int32(), "Problems that all cells of the skill share."),
    ),
)

SPLIT = Table(
    "split",
    "one row per benchmark, slice, model, axis of cost and budget: the best thinking budget and number of votes that it buys",
    ("benchmark", "slice", "model", "prompt", "route", "sampling", "axis", "budget"),
    (
        *(_POINT[name] for name in ("model", "params", "benchmark", "skill", "slice", "prompt")),
        Column("route", pa.string(), "How thinking is spent; `effort`: at any of its levels."),
        _POINT["sampling"],
        Column("axis", pa.string(), "What is budgeted: `tokens` (completion) or `flops`, per problem."),
        Column("budget", pa.float64(), "So much of it at most."),
        Column(
            "longest",
            pa.float64(),
            "`budget` over the cost of one sample at the largest thinking budget; at 1 one thought may have it all.",
        ),
        Column("setting", pa.string(), "The best split in the data, in words; of level ones the cheapest."),
        Column("thinking_budget", pa.int32(), "Its thinking budget; of a level of `effort` its `thinking_level`, rounded."),
        Column("k", pa.int32(), "Its votes; 1: one sample."),
        Column("cost", pa.float64(), "What it costs."),
        Column("value", pa.float64(), "Its accuracy on the problems that chose it: too good where many settings are about equal."),
        Column("share_best", pa.float64(), "Share of bootstrap draws in which this very split is the best."),
        Column("share_votes", pa.float64(), "Share of draws in which the best split has more than one sample."),
        *(
            Column(f"{name}_{end}", pa.int32(), f"Of the draws' best {text} the {word} % quantile.")
            for name, text in (("thinking_budget", "thinking budgets"), ("k", "numbers of votes"))
            for end, word in (("low", "2.5"), ("high", "97.5"))
        ),
        Column("held_out", pa.float64(), "Accuracy of the best split, chosen on other problems than it is scored on."),
        *_ends("held_out_{}", "its"),
        Column("single", pa.float64(), "The same among single samples: all of the budget into one thought."),
        Column(
            "difference", pa.float64(), "`held_out - single`, paired by problem; 0 with its ends where every half chose a single sample."
        ),
        *_ends("{}", "the difference's"),
        Column("num_points", pa.int32(), "Splits that the budget buys."),
        Column("num_problems", pa.int32(), "Problems that all cells of the skill share."),
    ),
)
