"""The tables of laws and forecasts, every column declared once; a part of `schema` (`schema.TABLES` holds them).

Why: as in `schema`.
What it does not do: compute any value (see `laws`, `forecast`, `coverage`).
"""

import pyarrow as pa

from thinkscale.columns import POINT, Column, Table

_ENDS = (("low", "Lower"), ("high", "Upper"))

SCALING = Table(
    "scaling",
    "one row per law fitted: loss against size, tokens or both over a family of models; error against loss over its sizes",
    ("family", "quantity", "against", "among", "law"),
    (
        Column("family", pa.string(), "Family of models, as in `models.yaml`."),
        Column("quantity", pa.string(), "What the law is of: `bits_per_byte` (held-out loss) or `error` (1 - pass@1)."),
        Column(
            "against", pa.string(), "What it falls with: `params`, `training_tokens`, `params and training_tokens`, or `bits_per_byte`."
        ),
        Column(
            "among",
            pa.string(),
            "The points: `sizes` (each size at its longest training; for an error with the names of its cell), `all` with "
            "their checkpoints, or the name of the size whose checkpoints they are.",
        ),
        Column("benchmark", pa.string(), "Name of the set of problems; null for a loss.", nullable=True),
        Column("prompt", pa.string(), "Prompt id; null for a loss.", nullable=True),
        Column("route", pa.string(), "How thinking is spent; null for a loss.", nullable=True),
        Column("sampling", pa.string(), "Sampling settings; null for a loss.", nullable=True),
        Column("thinking_budget", pa.int32(), "Cap on thinking tokens; null for a loss.", nullable=True),
        Column(
            "law",
            pa.string(),
            "`power law` (A/x^alpha), `power law with offset` (+ E), `Chinchilla` (A/N^alpha + B/D^beta + E), `Kaplan` "
            "([(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D), or `exponential` (error = worst - k exp(-gamma loss)).",
        ),
        Column("num_points", pa.int32(), "Points that it was fitted to."),
        Column("exponent", pa.float64(), "Of N in the laws of N and D: alpha; gamma of the exponential."),
        *(Column(f"exponent_{end}", pa.float64(), f"{word} end of its 95 % interval.", nullable=True) for end, word in _ENDS),
        Column("exponent_tokens", pa.float64(), "Of D in the laws of N and D: beta or alpha_D.", nullable=True),
        *(Column(f"exponent_tokens_{end}", pa.float64(), f"{word} end of its 95 % interval.", nullable=True) for end, word in _ENDS),
        Column(
            "offset",
            pa.float64(),
            "E, what no size or training removes; `worst` of the exponential (far above 1: the points do not bend, and it is not known).",
            nullable=True,
        ),
        *(Column(f"offset_{end}", pa.float64(), f"{word} end of its 95 % interval.", nullable=True) for end, word in _ENDS),
        Column("scatter", pa.float64(), "Root mean square residual: of log loss, or of the error."),
        Column(
            "aicc", pa.float64(), "AICc, less is better, to compare laws of the same points; null where points are too few.", nullable=True
        ),
        Column("held_out", pa.string(), "The largest size (its longest training), predicted from the other points.", nullable=True),
        Column("held_out_value", pa.float64(), "What it really has.", nullable=True),
        Column("predicted", pa.float64(), "What the law fitted to the others predicts.", nullable=True),
        *(Column(f"predicted_{end}", pa.float64(), f"{word} end of its 95 % prediction interval.", nullable=True) for end, word in _ENDS),
        Column("covered", pa.bool_(), "That interval holds the real value.", nullable=True),
    ),
)

FORECAST = Table(
    "forecast",
    "one row per skill × budget × k × sizes left out × method: the largest size, forecast from the smaller ones, and what it really did",
    ("family", "benchmark", "prompt", "route", "sampling", "thinking_budget", "k", "left_out", "method"),
    (
        Column("family", pa.string(), "Family of models whose sizes are compared."),
        Column("benchmark", pa.string(), "Name of the set of problems."),
        Column("skill", pa.string(), "What the benchmark tests."),
        Column("prompt", pa.string(), "Prompt id."),
        Column("route", pa.string(), "How thinking is spent."),
        Column("sampling", pa.string(), "Sampling settings."),
        Column("thinking_budget", pa.int32(), "Cap on thinking tokens; 0 is thinking off."),
        Column("metric", pa.string(), "`pass@k`."),
        Column("k", pa.int32(), "Samples: 1, and the most that all sizes have."),
        Column("left_out", pa.int32(), "Largest sizes that the method did not see: 1 or 2. The largest of all is what it forecasts."),
        Column(
            "method",
            pa.string(),
            "`same as the previous size`; a line over the sizes above chance in `PassUntil` space (-log(-log p) in log parameters), of the "
            "`logit`, or through `loss` (log p in bits per byte, themselves from a power law); `beta-binomial` for k > 1.",
        ),
        Column("model", pa.string(), "The largest size: what is forecast."),
        Column("params", pa.int64(), "Its parameters."),
        Column("num_sizes", pa.int32(), "Sizes that the method saw."),
        Column("chance", pa.float64(), "`pass@k` of guessing."),
        Column("num_problems", pa.int32(), "Problems that all sizes answered."),
        Column("observed", pa.float64(), "What the largest size really did."),
        Column("observed_low", pa.float64(), "Lower end of its 95 % interval over problems."),
        Column("observed_high", pa.float64(), "Upper end of its 95 % interval over problems."),
        Column("predicted", pa.float64(), "What the method forecast; null where it could not.", nullable=True),
        Column("low", pa.float64(), "Lower end of the 95 % prediction interval (problems and the scatter of sizes).", nullable=True),
        Column("high", pa.float64(), "Upper end of the 95 % prediction interval.", nullable=True),
        Column("error", pa.float64(), "`predicted - observed`.", nullable=True),
        Column("covered", pa.bool_(), "The interval holds what was observed.", nullable=True),
        Column(
            "crps",
            pa.float64(),
            "Continuous ranked probability score, in accuracy: the forecast's distance, less is better.",
            nullable=True,
        ),
        Column(
            "skill_score",
            pa.float64(),
            "`1 - crps / (distance of the previous size)`: 1 is perfect, 0 as good as `same as the previous size`, below 0 worse.",
            nullable=True,
        ),
        Column("outcome", pa.string(), "`forecast`, or `no forecast: ` and why; the numbers of too wide an interval stay."),
    ),
)

_FACTS = ("model", "params", "benchmark", "skill", "prompt", "route", "sampling", "thinking_budget")

COVERAGE = Table(
    "coverage",
    "one row per cell × law × samples seen × k: pass@k beyond the samples that the law saw, and what it missed where more were there",
    ("cell_id", "law", "num_samples", "k"),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget."),
        *(c for c in POINT if c.name in _FACTS),
        Column(
            "law",
            pa.string(),
            "`power law` (exp(a k^b)), `beta-binomial`, `zero-inflated beta-binomial` (a share of the problems is beyond the model), or "
            "`by AIC`: whichever of the last two has the smaller AIC, in the data and in each draw.",
        ),
        Column("num_samples", pa.int32(), "Samples of each problem that the law saw: all n, or a quarter of them as a check."),
        Column("k", pa.int32(), "Samples that it speaks of: n to 16 n; of a quarter, the three quarters that it did not see."),
        Column("value", pa.float64(), "Coverage (pass@k) by the law; null where it says nothing.", nullable=True),
        Column("low", pa.float64(), "Lower end of its 95 % interval over problems.", nullable=True),
        Column("high", pa.float64(), "Upper end of its 95 % interval over problems.", nullable=True),
        Column(
            "observed", pa.float64(), "Coverage of the samples that are there: the same, or those left out. Null beyond n.", nullable=True
        ),
        Column("error", pa.float64(), "`value - observed`, on the same problems.", nullable=True),
        Column("error_low", pa.float64(), "Lower end of its 95 % interval over problems.", nullable=True),
        Column("error_high", pa.float64(), "Upper end of its 95 % interval over problems.", nullable=True),
        Column("a", pa.float64(), "Of the power law.", nullable=True),
        Column("b", pa.float64(), "Of the power law.", nullable=True),
        Column(
            "alpha",
            pa.float64(),
            "Of the Beta: the less, the more problems are nearly hopeless; coverage nears its limit as k^-alpha.",
            nullable=True,
        ),
        Column("beta", pa.float64(), "Of the Beta.", nullable=True),
        Column("zero", pa.float64(), "Share of problems beyond the model.", nullable=True),
        Column("aic", pa.float64(), "Akaike's criterion of the counts, the less the better; null for the power law.", nullable=True),
        Column("share_zeros", pa.float64(), "Of `by AIC`: share of draws that choose the zero-inflated law.", nullable=True),
        Column("num_problems", pa.int32(), "Problems of the cell."),
        Column("outcome", pa.string(), "`forecast`, or `no forecast: ` and why; the numbers of too wide an interval stay."),
    ),
)
