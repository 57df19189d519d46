"""The tables of conclusions: what emerges where, and how much of each route a skill takes. Every column declared once.

Why: as in `schema`, of which these tables are a part (`schema.TABLES` holds them).
What it does not do: compute any value (see `emergence`, `thresholds`).
"""

import pyarrow as pa

from thinkscale.columns import AXIS, Column, Table

_CURVE = (
    Column("benchmark", pa.string(), "Name of the set of problems."),
    Column("skill", pa.string(), "What the benchmark tests."),
    Column("slice", pa.string(), "Which problems: `all`, or `difficulty=3`."),
    Column("prompt", pa.string(), "Prompt id."),
    Column("route", pa.string(), "How thinking is spent."),
    Column("sampling", pa.string(), "Sampling settings."),
    Column("family", pa.string(), "Family of the models, as in `models.yaml`; families never mix in a curve."),
    Column("at", pa.string(), "What is held fixed: `budget=40`, `model=ladder-100k`, or both."),
    Column("model", pa.string(), "The model whose thinking, samples or training vary; null along size.", nullable=True),
    Column("thinking_budget", pa.int32(), "Cap on thinking tokens; null along thinking.", nullable=True),
)

EMERGENCE = Table(
    "emergence",
    "one row per skill and slice along one axis, of one sample's accuracy: over size at a budget, over thinking at a size, over training",
    ("benchmark", "slice", "prompt", "route", "sampling", "family", "axis", "at"),
    (
        *_CURVE,
        Column("axis", pa.string(), "`size` (unit: parameters), `thinking` (FLOPs per problem) or `training` (tokens)."),
        Column("num_places", pa.int32(), "Sizes, budgets or checkpoints on the axis."),
        Column("decades", pa.float64(), "Factors of ten between the first and the last."),
        Column("num_problems", pa.int32(), "Problems that all places share."),
        Column("chance", pa.float64(), "Accuracy of guessing: the floor of all fits."),
        Column("first_value", pa.float64(), "Accuracy at the first place."),
        Column("last_value", pa.float64(), "Accuracy at the last place."),
        Column("best_value", pa.float64(), "Accuracy at the best place."),
        Column(
            "onset",
            pa.float64(),
            "Half-way from chance to the curve's ceiling, by the sigmoid; inf: beyond the last place or never, 0: before the first.",
        ),
        Column("onset_low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("onset_high", pa.float64(), "Upper end of its 95 % interval over problems; inf: not known to be reached."),
        Column("width", pa.float64(), "Decades from 10 to 90 % of the rise (at least a quarter of the closest two places).", nullable=True),
        Column("ceiling", pa.float64(), "Where the sigmoid levels off."),
        Column("fit_r2", pa.float64(), "How well the sigmoid describes the curve; NaN where the onset is off the axis.", nullable=True),
        Column("leaves_chance", pa.float64(), "Where a flat floor turns into a rising line, by the hinge; inf and 0 as in `onset`."),
        Column("leaves_chance_low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("leaves_chance_high", pa.float64(), "Upper end of its 95 % interval over problems."),
        Column(
            "elasticity",
            pa.float64(),
            "The steepest of the minimum compatible elasticities between neighbours: ln(low of the later / high of the earlier) over "
            "ln of the ratio of places. Below 2 a jump is no evidence against a power law; -inf where all later ones may be 0.",
        ),
        Column("elasticity_from", pa.float64(), "The earlier place of that pair."),
        Column("elasticity_to", pa.float64(), "The later place of that pair."),
        Column("linearity", pa.float64(), "BIG-bench's linearity: net gain over the root mean square step. Description only."),
        Column(
            "breakthroughness", pa.float64(), "BIG-bench's breakthroughness, with the noise of a step in its denominator. Description only."
        ),
        Column(
            "curvature",
            pa.float64(),
            "Second derivative of F = log(-log accuracy) over decades: below 0 the skill accelerates, 0 is a power law of -log accuracy. "
            "NaN with fewer than four places strictly between 0 and 1.",
            nullable=True,
        ),
        Column("curvature_low", pa.float64(), "Lower end of its 95 % interval over problems.", nullable=True),
        Column("curvature_high", pa.float64(), "Upper end of its 95 % interval over problems.", nullable=True),
        Column("granular", pa.string(), "The granular metric of the same answers: `gold_logprob`, `brier`, `partial`, or `none`."),
        Column(
            "granular_bend",
            pa.float64(),
            "Change of slope of log loss of the granular metric at its hinge, over its mean slope; median of the draws. Below -1 it bends.",
            nullable=True,
        ),
        Column("granular_bend_low", pa.float64(), "The 2.5 % quantile of the draws.", nullable=True),
        Column("granular_bend_high", pa.float64(), "The 97.5 % quantile of the draws.", nullable=True),
        Column("p", pa.float64(), "Of no bend in the granular metric, against the scatter of models (sup-F).", nullable=True),
        Column("p_bh", pa.float64(), "`p` adjusted over the skills at this budget or of this model (Benjamini-Hochberg).", nullable=True),
        Column("label", pa.string(), "`smooth`, `mirage`, `emergent`, `apparent emergence (metric not checked)` or `inconclusive`."),
        Column("why", pa.string(), "What stands in the way of a label; empty where nothing does."),
        Column("share_smooth", pa.float64(), "Share of bootstrap draws without a kink in accuracy.", nullable=True),
        Column("share_mirage", pa.float64(), "Share of draws that say `mirage`.", nullable=True),
        Column("share_emergent", pa.float64(), "Share of draws that say `emergent`.", nullable=True),
    ),
)

THRESHOLDS = Table(
    "thresholds",
    "one row per skill, slice, route bought, level and unit: how much of the route it takes to reach the level",
    ("benchmark", "slice", "prompt", "route", "sampling", "family", "bought", "at", "level", "unit"),
    (
        *_CURVE,
        Column("bought", pa.string(), "`bigger`, `think longer`, `sample more` or `train longer`."),
        Column("metric", pa.string(), "`pass@k` at k = 1, or `maj@k` for `sample more`."),
        Column("level", pa.string(), "`appears` (a tenth of the way from chance to all right) or `half`."),
        Column("accuracy", pa.float64(), "The accuracy that the level is."),
        Column(
            "unit",
            pa.string(),
            "`params`, `training_flops` (6 × active parameters × tokens), `training_tokens`, or `cost_flops` (per problem).",
        ),
        Column("threshold", pa.float64(), "Where the level is first reached; inf: not up to `largest`, 0: at `smallest` already."),
        Column("low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("high", pa.float64(), "Upper end of its 95 % interval over problems; inf: not known to be reached."),
        Column("share_never", pa.float64(), "Share of bootstrap draws that do not reach it."),
        Column("share_already", pa.float64(), "Share of draws that are above it at the first place."),
        Column("smallest", pa.float64(), "Amount at the first place."),
        Column("largest", pa.float64(), "Amount at the last place."),
        Column("num_places", pa.int32(), "Places on the axis."),
        Column("num_problems", pa.int32(), "Problems that all places share."),
    ),
)

ADAPTIVE = Table(
    "adaptive",
    "one row per cell and confidence: each problem's samples until its vote is settled, drawn so or replayed in random order",
    ("cell_id", "confidence"),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget."),
        Column("model", pa.string(), "Name of the model."),
        Column("params", pa.int64(), "Total parameters of the model."),
        Column("benchmark", pa.string(), "Name of the set of problems."),
        Column("skill", pa.string(), "What the benchmark tests."),
        Column("prompt", pa.string(), "Prompt id."),
        Column("route", pa.string(), "How thinking is spent."),
        Column("sampling", pa.string(), "Sampling settings."),
        Column("thinking_budget", pa.int32(), "Cap on thinking tokens; 0 is thinking off."),
        Column("confidence", pa.float64(), "Drawing stops when the leading answer leads with at least this posterior probability."),
        Column("every", pa.int32(), "Samples drawn before each look at the vote."),
        Column("drawn", pa.bool_(), "Drawing really stopped (`stop:` in the YAML); false: a replay of samples that were all drawn."),
        Column("value", pa.float64(), "Accuracy of the vote at the stop."),
        Column("low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("high", pa.float64(), "Upper end of its 95 % interval."),
        Column("draw_error", pa.float64(), "Standard error of `value` from the orders that were replayed; 0: all of them, or `drawn`."),
        Column("difference", pa.float64(), "`value - fixed_value`, paired by problem; null where `drawn`.", nullable=True),
        Column("difference_low", pa.float64(), "Lower end of its 95 % interval.", nullable=True),
        Column("difference_high", pa.float64(), "Upper end of its 95 % interval.", nullable=True),
        Column("mean_samples", pa.float64(), "Samples drawn per problem, on average."),
        Column("saved_share", pa.float64(), "Share of the samples that were not drawn: `1 - mean_samples / num_samples`."),
        Column("cost_flops", pa.float64(), "Mean FLOPs per problem: the prompt once and the samples drawn.", nullable=True),
        Column("fixed_value", pa.float64(), "Accuracy of the vote of all samples (maj@n); null where `drawn`.", nullable=True),
        Column("fixed_cost_flops", pa.float64(), "Mean FLOPs per problem with all of them.", nullable=True),
        Column("num_problems", pa.int32(), "Problems in the denominator."),
        Column("num_samples", pa.int32(), "The most that are drawn for a problem; in a replay all of them were."),
    ),
)

CALIBRATION = Table(
    "calibration",
    "one row per cell: what the agreement of samples is worth as confidence",
    ("cell_id",),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget."),
        Column("model", pa.string(), "Name of the model."),
        Column("params", pa.int64(), "Total parameters of the model."),
        *_CURVE[:2],
        *_CURVE[3:6],
        Column("thinking_budget", pa.int32(), "Cap on thinking tokens; 0 is thinking off."),
        Column("accuracy", pa.float64(), "Accuracy of one sample."),
        Column(
            "confidence", pa.float64(), "Mean share of a problem's other samples that give a sample's answer; 0 for a sample without one."
        ),
        Column("overconfidence", pa.float64(), "`confidence - accuracy`: above 0 samples agree more often than they are right."),
        Column("overconfidence_low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("overconfidence_high", pa.float64(), "Upper end of its 95 % interval over problems."),
        Column("ece", pa.float64(), "Expected calibration error over ten bins of confidence."),
        Column("ece_low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("ece_high", pa.float64(), "Upper end of its 95 % interval over problems."),
        Column("confident_wrong", pa.float64(), "Share of samples that are wrong although half of the others or more agree with them."),
        Column("confident_wrong_low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("confident_wrong_high", pa.float64(), "Upper end of its 95 % interval over problems."),
        Column("num_problems", pa.int32(), "Problems with two samples and more."),
        Column("num_samples", pa.int32(), "Fewest samples of any of them."),
    ),
)

REGIONS = Table(
    "regions",
    "one row per benchmark, slice, axis of cost and budget: the best that smaller models do for it against the best of the biggest one",
    ("benchmark", "slice", "axis", "budget"),
    (
        *_CURVE[:1],
        Column("slice", pa.string(), "Which problems: `all`, or `difficulty=3`."),
        AXIS,
        Column("budget", pa.float64(), "What a strategy (model, thinking budget, votes) may cost at most per problem, in the axis's unit."),
        Column("num_problems", pa.int32(), "Problems that all cells share."),
        Column(
            "small_value", pa.float64(), "Accuracy of the smaller models' best strategy, chosen on other problems than it is scored on."
        ),
        Column("big_value", pa.float64(), "The same of the biggest model."),
        Column("difference", pa.float64(), "`small_value - big_value`, paired by problem."),
        Column("low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("high", pa.float64(), "Upper end of its 95 % interval over problems."),
        Column("win", pa.float64(), "Share of bootstrap draws in which the smaller side is ahead (level draws count half)."),
        Column("winner", pa.string(), "`smaller` from `win` .95 on, `bigger` up to .05, else `undecided`."),
    ),
)

MEMBERSHIP = Table(
    "membership",
    "one row per point: how often it stands on its frontier",
    ("cell_id", "slice", "metric", "k"),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget."),
        *_CURVE[:1],
        Column("slice", pa.string(), "Which problems: `all`, or `difficulty=3`."),
        Column("metric", pa.string(), "As in `summary`."),
        Column("k", pa.int32(), "As in `summary`."),
        Column("membership", pa.float64(), "Share of bootstrap draws in which no point as cheap is as good (see `summary.frontier`)."),
        Column("num_problems", pa.int32(), "Problems that all cells share."),
    ),
)
