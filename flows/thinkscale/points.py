"""The tables of points: accuracy and cost of every setting, thinking asked for and spent, pairs, claims. Every column declared once.

Why: as in `schema`, of which these tables are a part (`schema.TABLES` holds them).
What it does not do: compute any value (see `summarize`, `compliance`, `compare`).
"""

import pyarrow as pa

from thinkscale.columns import AXIS, LEVEL, POINT, Column, Table

SUMMARY = Table(
    "summary",
    "one row per point: cell × slice × metric × k",
    ("cell_id", "slice", "metric", "k"),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget."),
        *POINT,
        LEVEL,
        Column("value", pa.float64(), "The estimate; NaN where it is undefined (k > n).", nullable=True),
        Column("low", pa.float64(), "Lower end of the 95 % interval over problems.", nullable=True),
        Column("high", pa.float64(), "Upper end of the 95 % interval over problems.", nullable=True),
        Column(
            "share_within",
            pa.float64(),
            "Share of the squared standard error that comes from drawing samples and that more samples lessen; the rest takes more "
            "problems. NaN where it cannot be told (2k > n, votes).",
            nullable=True,
        ),
        Column("draw_error", pa.float64(), "Standard error of `value` from drawn subsets (weighted votes); 0: exact.", nullable=True),
        Column("chance", pa.float64(), "Accuracy of guessing on these problems, as the benchmark declares it."),
        Column("num_problems", pa.int32(), "Problems in the denominator."),
        Column("num_samples", pa.int32(), "Fewest samples of any problem in the denominator."),
        Column("cost_tokens", pa.float64(), "Mean completion tokens per problem for k samples.", nullable=True),
        Column("cost_prompt_tokens", pa.float64(), "Mean prompt tokens per problem, charged once per k samples.", nullable=True),
        Column("cost_prefill_flops", pa.float64(), "Mean FLOPs per problem to read the prompt, once per k samples.", nullable=True),
        Column("cost_decode_flops", pa.float64(), "Mean FLOPs per problem to decode k samples.", nullable=True),
        Column(
            "cost_scorer_flops",
            pa.float64(),
            "Mean FLOPs per problem to score k samples, for metrics by `verifier_score`; 0 for others, null where not known.",
            nullable=True,
        ),
        Column("cost_flops", pa.float64(), "`cost_prefill_flops + cost_decode_flops + cost_scorer_flops`.", nullable=True),
        Column("cost_kv_bytes", pa.float64(), "Mean bytes of KV cache read per problem to decode k samples.", nullable=True),
        Column("cost_steps", pa.float64(), "Mean tokens of the longest of k samples: what is waited for, apart from work.", nullable=True),
        Column("mean_thinking_tokens", pa.float64(), "Mean thinking tokens of one sample.", nullable=True),
        Column(
            "share_closed",
            pa.float64(),
            "Share of samples whose thinking ended by itself within the budget (`closed` or `eos`).",
            nullable=True,
        ),
        Column("share_no_answer", pa.float64(), "Share of samples without an extracted answer."),
        Column(
            "frontier",
            pa.bool_(),
            "No other point of this skill and slice with the same kind of metric is at most as dear and at least as good.",
        ),
    ),
)

COMPARISON = Table(
    "comparison",
    "one row per pair (smaller model thinking more, bigger model thinking less) of a skill where the smaller costs at most as much",
    ("benchmark", "slice", "small_cell_id", "small_metric", "small_k", "big_cell_id", "big_metric", "big_k"),
    (
        Column("benchmark", pa.string(), "Name of the set of problems."),
        Column("skill", pa.string(), "What the benchmark tests."),
        Column("slice", pa.string(), "Which problems: `all`, or `difficulty=3`."),
        *(
            Column(f"{side}_{name}", type_, f"{text} of the {word} model's point.")
            for side, word in (("small", "smaller"), ("big", "bigger"))
            for name, type_, text in (
                ("cell_id", pa.string(), "Cell"),
                ("model", pa.string(), "Name"),
                ("params", pa.int64(), "Parameters"),
                ("route", pa.string(), "Way of thinking"),
                ("thinking_budget", pa.int32(), "Thinking budget"),
                ("metric", pa.string(), "Metric"),
                ("k", pa.int32(), "Samples"),
                ("value", pa.float64(), "Accuracy"),
                ("cost_flops", pa.float64(), "FLOPs per problem"),
                ("cost_tokens", pa.float64(), "Completion tokens per problem"),
            )
        ),
        Column("cost_ratio", pa.float64(), "`small_cost_flops / big_cost_flops`, at most 1."),
        Column(
            "dearer_on",
            pa.string(),
            "Axes on which the smaller is the dearer side all the same, of `tokens`, `steps` (the longest of k samples) and `kv_bytes`; "
            "empty where all agree with the FLOPs.",
        ),
        Column("difference", pa.float64(), "Accuracy of the smaller minus the bigger, paired over the same problems."),
        Column("low", pa.float64(), "Lower end of the paired 95 % interval of the difference."),
        Column("high", pa.float64(), "Upper end of the paired 95 % interval of the difference."),
        Column("num_problems", pa.int32(), "Problems that both sides answered."),
        Column("route_bought", pa.string(), "What the smaller model spent: `think longer`, `sample more` or `both`."),
        Column("winner", pa.string(), "`smaller, thinking more`, `bigger`, or `no difference shown` (the interval holds 0)."),
    ),
)

COMPLIANCE = Table(
    "compliance",
    "one row per cell: how what was spent keeps to what was asked for",
    ("cell_id",),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget."),
        *POINT[:4],
        Column("benchmark", pa.string(), "Name of the set of problems."),
        Column("prompt", pa.string(), "Prompt id."),
        Column("route", pa.string(), "How thinking is spent."),
        Column("sampling", pa.string(), "Sampling settings."),
        Column("thinking_budget", pa.int32(), "Thinking tokens asked for, at most."),
        Column("num_answers", pa.int64(), "Answers in the denominator of the shares."),
        Column("median_spent", pa.float64(), "Median of thinking tokens over the answers.", nullable=True),
        Column("p95_spent", pa.float64(), "Their 95th percentile.", nullable=True),
        Column("max_spent", pa.int32(), "The most.", nullable=True),
        Column(
            "share_closed_early",
            pa.float64(),
            "Share whose thinking ended by itself before or at the budget (`closed`, `eos`).",
            nullable=True,
        ),
        Column("share_cut", pa.float64(), "Share whose thinking was cut.", nullable=True),
        Column("share_over", pa.float64(), "Share with more thinking than asked for.", nullable=True),
        Column("share_too_long", pa.float64(), "Share of problems that did not fit the context at this budget."),
        Column("share_no_answer", pa.float64(), "Share without an extracted answer."),
        Column("share_called", pa.float64(), "Share in whose thinking a tool was called; null where none may be.", nullable=True),
        Column("mean_calls", pa.float64(), "Mean number of calls that were answered.", nullable=True),
        Column("share_valid", pa.float64(), "Share of all calls that could be answered; NaN where there was none.", nullable=True),
        Column("share_tool_tokens", pa.float64(), "Share of all thinking tokens that a tool put in.", nullable=True),
    ),
)

HEADLINE = Table(
    "headline",
    "one row per benchmark, route and axis of cost: the best setting of smaller models against the biggest one's single answer at its "
    "smallest budget",
    ("benchmark", "route", "axis"),
    (
        Column("benchmark", pa.string(), "Name of the set of problems."),
        Column("route", pa.string(), "What the smaller models do more of: `think longer`, `sample more`, `both`, or `any`."),
        AXIS,
        Column("skill", pa.string(), "What the benchmark tests."),
        Column("big", pa.string(), "The biggest model's setting."),
        Column("big_value", pa.float64(), "Its accuracy."),
        Column(
            "small",
            pa.string(),
            "The smaller model's setting; two where the halves chose differently; empty: none costs so little.",
        ),
        Column("small_value", pa.float64(), "Its accuracy on the halves that did not choose it; NaN where there is none.", nullable=True),
        Column("cost_ratio", pa.float64(), "Its cost on the axis as a share of the biggest model's.", nullable=True),
        Column("difference", pa.float64(), "`small_value - big_value`, paired by problem.", nullable=True),
        Column("low", pa.float64(), "Lower end of its 95 % interval over problems, given the choices.", nullable=True),
        Column("high", pa.float64(), "Upper end of its 95 % interval.", nullable=True),
        Column("num_problems", pa.int32(), "Problems that all settings share."),
        Column("winner", pa.string(), "As printed: which side is ahead, or that it is not shown."),
    ),
)

CLAIMS = Table(
    "claims",
    "one row per comparison that the experiment's YAML named before the data were drawn",
    ("claim",),
    (
        Column("claim", pa.string(), "Name of the claim in the YAML."),
        Column("benchmark", pa.string(), "Name of the set of problems."),
        Column("slice", pa.string(), "Which problems."),
        Column("better", pa.string(), "The side claimed to be better, as `model budget=B metric k`."),
        Column("worse", pa.string(), "The other side."),
        Column("better_value", pa.float64(), "Its accuracy.", nullable=True),
        Column("worse_value", pa.float64(), "Accuracy of the other side.", nullable=True),
        Column("difference", pa.float64(), "Paired difference, better minus worse.", nullable=True),
        Column("low", pa.float64(), "Lower end of its 95 % interval.", nullable=True),
        Column("high", pa.float64(), "Upper end of its 95 % interval.", nullable=True),
        Column("p", pa.float64(), "Two-sided p of no difference, paired by problem.", nullable=True),
        Column("p_holm", pa.float64(), "`p` adjusted for the number of claims (Holm).", nullable=True),
        Column("num_problems", pa.int32(), "Problems that both sides answered."),
        Column(
            "cost_ratio",
            pa.float64(),
            "FLOPs per problem of the better side over those of the worse; null where unknown. Above 1 it is no claim at equal compute.",
            nullable=True,
        ),
        Column("verdict", pa.string(), "`holds` (low > 0), `refuted` (high < 0) or `not shown`."),
    ),
)
