"""The tables on disk: every column declared once, with its type and one sentence.

Why: a data dictionary that is typed in twice drifts; `results/README.md` is made from this file and a test compares the two.
What it does not do: read or write anything (see `store`), or compute any value (see `grading`, `summarize`, `compare`).
"""

import pyarrow as pa

from thinkscale.columns import POINT, TRACE_SET, Column, Table, TableName, id_type
from thinkscale.conclusions import CALIBRATION, EMERGENCE, MEMBERSHIP, REGIONS, THRESHOLDS
from thinkscale.extrapolations import FORECAST, SCALING

__all__ = [
    "CALIBRATION",
    "EMERGENCE",
    "FORECAST",
    "MEMBERSHIP",
    "REGIONS",
    "SCALING",
    "SCHEMA_VERSION",
    "TABLES",
    "THRESHOLDS",
    "Column",
    "Table",
    "TableName",
]

SCHEMA_VERSION = 2
"""2: columns that are null in parts of version 1 (`Column.since`), which can be read as ever."""

_SAMPLE = Column("sample_index", pa.int32(), "Which draw for this problem, from 0.")
_CELL = Column("cell_id", id_type, "Hash of trace set and thinking budget.")
_BUDGET = Column("thinking_budget", pa.int32(), "Cap on thinking tokens asked for; 0 is thinking off.")
_TRACE_HASH = Column("trace_hash", pa.string(), "Hash of the trace's token ids; an answer names the very trace it was cut from.")

PROBLEMS = Table(
    "problems",
    "one row per problem of a benchmark",
    ("benchmark", "problem_id"),
    (
        Column("benchmark", id_type, "Name of the set of problems."),
        Column("skill", id_type, "What the benchmark tests."),
        Column("problem_id", pa.string(), "Hash of benchmark, question and gold answer."),
        Column("cluster_id", pa.string(), "Problems that share a template or passage share this; otherwise equal to `problem_id`."),
        Column("difficulty", pa.float64(), "Difficulty on the benchmark's own scale."),
        Column("question", pa.string(), "The question as the prompt receives it."),
        Column("answer", pa.string(), "The gold answer."),
        Column("choices", pa.list_(pa.string()), "The options of a multiple-choice problem; empty otherwise."),
        Column("metadata", pa.string(), "JSON that the benchmark's own scorer needs; `{}` where it needs none."),
    ),
)

SAMPLES = Table(
    "samples",
    "one row per trace drawn; a trace continued to a larger cap is a second row with a larger `trace_budget`",
    ("trace_set_id", "problem_id", "sample_index", "trace_budget"),
    (
        *TRACE_SET,
        _SAMPLE,
        Column("trace_budget", pa.int32(), "Cap on thinking tokens under which this trace was generated."),
        Column(
            "ended",
            id_type,
            "How the trace ended: `closed` by itself, `cut` by the cap, `eos` (end of text inside), `too_long` (the context is full).",
        ),
        Column("prompt_tokens", pa.int32(), "Tokens before the thinking: chat template, question and the opening of thinking."),
        Column("thinking_tokens", pa.int32(), "Tokens of thinking, without the close."),
        Column("thinking_token_ids", pa.list_(pa.int32()), "The thinking as token ids: what answers at every budget are cut from."),
        Column(
            "next_token_id",
            pa.int32(),
            "The token drawn past the cap of a `cut` trace; a continuation starts with it, to have the law of one longer run. Else -1.",
        ),
        Column(
            "thinking",
            pa.string(),
            "The thinking as text, with the token past the cap where it was cut (for reading; cutting is done on ids).",
        ),
        _TRACE_HASH,
        Column(
            "close_token_ids",
            pa.list_(pa.int32()),
            "Ids of the cue by which a model without tags closed; a budget that ends within them cuts there. Else empty.",
            nullable=True,
            since=2,
        ),
        Column(
            "waits",
            pa.list_(pa.int32()),
            "Of `extend`: index in the thinking of the first id that was put in place of each close. Else empty.",
            nullable=True,
            since=2,
        ),
        Column(
            "request_completion_tokens", pa.int32(), "Tokens the engine generated for this row, with the close or the token past the cap."
        ),
        Column("engine", id_type, "Fingerprint of the engine (package, version, dtype, device) that drew the trace."),
    ),
)

ANSWERS = Table(
    "answers",
    "one row per cell × problem × sample, also where the trace closed before the budget",
    ("cell_id", "problem_id", "sample_index"),
    (
        *TRACE_SET,
        _CELL,
        _SAMPLE,
        _BUDGET,
        Column(
            "ended",
            id_type,
            "How the thinking ended at this budget: `closed`, `cut`, `eos`, `off` at budget 0 (nothing was cut: thinking was off), or "
            "`too_long` (this budget does not fit the context: nothing was asked).",
        ),
        Column("prompt_tokens", pa.int32(), "Tokens before the thinking."),
        Column("thinking_tokens", pa.int32(), "Tokens of thinking spent, at most `thinking_budget` (but for `native`)."),
        Column(
            "over_budget",
            pa.bool_(),
            "Is it more than asked for? Only `native` may be.",
            nullable=True,
            since=2,
        ),
        Column("injected_tokens", pa.int32(), "Tokens put in by us after the thinking (the close, a cue)."),
        Column("answer_tokens", pa.int32(), "Tokens of the answer, with its end token."),
        Column("completion_tokens", pa.int32(), "`thinking_tokens + injected_tokens + answer_tokens`: what this row would cost alone."),
        Column("answer_text", pa.string(), "The answer as text."),
        Column(
            "answer_logprob",
            pa.float64(),
            "Log-probability (natural) of the answer's tokens together, as the model itself says, before temperature and the like.",
            nullable=True,
            since=2,
        ),
        Column("answer_logprob_mean", pa.float64(), "The same per token of the answer.", nullable=True, since=2),
        Column("gold_logprob", pa.float64(), "Of the gold answer, in place of this one; null where not asked for.", nullable=True, since=2),
        Column("gold_tokens", pa.int32(), "Tokens of the gold answer, which `gold_logprob` is the sum over.", nullable=True, since=2),
        Column(
            "answer_finish",
            id_type,
            "`stop` (the model ended its answer) `length` (it ran into the answer cap), or `too_long` (nothing was asked).",
        ),
        _TRACE_HASH,
        Column(
            "request_completion_tokens",
            pa.int32(),
            "Answer tokens really generated for this row; 0 where a closed trace's answer is shared with a smaller budget.",
        ),
        Column("engine", id_type, "Fingerprint of the engine that wrote the answer."),
    ),
)

GRADES = Table(
    "grades",
    "one row per row of `answers`",
    ("cell_id", "problem_id", "sample_index"),
    (
        _CELL,
        Column("problem_id", id_type, "As in `answers`."),
        _SAMPLE,
        Column("correct", pa.bool_(), "Is the extracted answer right?"),
        Column("correct_unforced", pa.bool_(), "`correct`, and the thinking was not cut: the 'unfinished = wrong' grade."),
        Column("partial", pa.float64(), "Granular credit in [0, 1]; 1 where `correct`."),
        Column("status", id_type, "`answered`, `no_answer`, `truncated_answer` or `too_long`."),
        Column("extracted_answer", pa.string(), "Canonical final answer; null where none was found.", nullable=True),
        Column("answer_class", pa.string(), "Answers of one class vote together; null abstains.", nullable=True),
        Column("grader_version", id_type, "Name and version of the grader."),
    ),
)

_counter = "Counted by the engine within these seconds: "
ENGINE = Table(
    "engine",
    "one row per few seconds of an engine's life",
    ("engine_start", "second"),
    (
        Column("engine_start", pa.string(), "One start of one engine."),
        Column("second", pa.float64(), "Seconds since it was ready, at the end of the interval."),
        Column("model", pa.string(), "Name of the model."),
        Column("host", pa.string(), "Machine it ran on."),
        Column("time", pa.float64(), "The same moment by that machine's clock, in seconds since 1970."),
        Column("seconds", pa.float64(), "Length of the interval."),
        Column("prompt_tokens", pa.int64(), f"{_counter}tokens of prompts."),
        Column("generation_tokens", pa.int64(), f"{_counter}tokens generated."),
        Column("prefix_cache_queries", pa.int64(), f"{_counter}prompt tokens looked up in the prefix cache."),
        Column("prefix_cache_hits", pa.int64(), f"{_counter}those of them that were found."),
        Column("num_preemptions", pa.int64(), f"{_counter}sequences put back for want of memory."),
        Column("running", pa.int64(), "Sequences in the batch at the end of the interval."),
        Column("waiting", pa.int64(), "Sequences that wait for room at the end of the interval."),
        Column("gpus", pa.int32(), "GPUs of the engine (1 on CPU)."),
        Column("gpu_memory_mib", pa.float64(), "Memory in use on them, in MiB; null without NVML.", nullable=True),
        Column("gpu_power_w", pa.float64(), "Power they draw, in watts; null without NVML.", nullable=True),
        Column(
            "gpu_energy_j", pa.float64(), "Their energy counters, in joules since the driver was loaded; null without NVML.", nullable=True
        ),
        Column("trace_set_ids", pa.list_(pa.string()), "Trace sets that were worked on: the join to `samples`, `answers` and cells."),
        Column(
            "drawn_tokens",
            pa.list_(pa.int64()),
            "Tokens that came back for each of them; `metering.engine_seconds` shares out the interval in this proportion.",
        ),
    ),
)

LOSS = Table(
    "loss",
    "one row per model, text and context",
    ("model", "model_revision", "text_hash", "context"),
    (
        Column("model", pa.string(), "Name of the model."),
        Column("params", pa.int64(), "Total parameters of the model."),
        Column("params_active", pa.int64(), "Parameters used per token."),
        Column("params_non_embedding", pa.int64(), "Parameters without embedding and output matrices."),
        Column("model_revision", pa.string(), "Commit on the hub, or hash of a local folder."),
        Column("text", pa.string(), "The text as the YAML names it."),
        Column("text_hash", pa.string(), "Hash of its content."),
        Column("context", pa.int32(), "Tokens at most that the model saw at once."),
        Column("tokens", pa.int64(), "Tokens that were scored."),
        Column("unscored_tokens", pa.int64(), "Tokens that nothing stands before: not scored, nor are their bytes counted."),
        Column("bytes", pa.int64(), "Bytes of the text that the scored tokens stand for."),
        Column("nats", pa.float64(), "Summed negative log-probability of the scored tokens."),
        Column("nats_per_token", pa.float64(), "`nats / tokens`: compares models of one tokenizer."),
        Column("bits_per_byte", pa.float64(), "`nats / ln 2 / bytes`: compares models of any tokenizer."),
        Column("engine", pa.string(), "What scored it: engine, version, device, number format."),
    ),
)

SUMMARY = Table(
    "summary",
    "one row per point: cell × slice × metric × k",
    ("cell_id", "slice", "metric", "k"),
    (
        Column("cell_id", pa.string(), "Hash of trace set and thinking budget."),
        *POINT,
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
        Column("chance", pa.float64(), "Accuracy of guessing, as the benchmark declares it."),
        Column("num_problems", pa.int32(), "Problems in the denominator."),
        Column("num_samples", pa.int32(), "Fewest samples of any problem in the denominator."),
        Column("cost_tokens", pa.float64(), "Mean completion tokens per problem for k samples.", nullable=True),
        Column("cost_prompt_tokens", pa.float64(), "Mean prompt tokens per problem, charged once per k samples.", nullable=True),
        Column("cost_prefill_flops", pa.float64(), "Mean FLOPs per problem to read the prompt, once per k samples.", nullable=True),
        Column("cost_decode_flops", pa.float64(), "Mean FLOPs per problem to decode k samples.", nullable=True),
        Column("cost_flops", pa.float64(), "`cost_prefill_flops + cost_decode_flops`.", nullable=True),
        Column("cost_kv_bytes", pa.float64(), "Mean bytes of KV cache read per problem to decode k samples.", nullable=True),
        Column("cost_steps", pa.float64(), "Mean tokens of the longest of k samples: what is waited for, apart from work.", nullable=True),
        Column("mean_thinking_tokens", pa.float64(), "Mean thinking tokens of one sample.", nullable=True),
        Column("share_closed", pa.float64(), "Share of samples whose thinking ended by itself within the budget (`closed` or `eos`)."),
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
        Column("median_spent", pa.float64(), "Median of thinking tokens over the answers."),
        Column("p95_spent", pa.float64(), "Their 95th percentile."),
        Column("max_spent", pa.int32(), "The most."),
        Column("share_closed_early", pa.float64(), "Share whose thinking ended by itself before or at the budget (`closed`, `eos`)."),
        Column("share_cut", pa.float64(), "Share whose thinking was cut."),
        Column("share_over", pa.float64(), "Share with more thinking than asked for."),
        Column("share_too_long", pa.float64(), "Share of problems that did not fit the context at this budget."),
        Column("share_no_answer", pa.float64(), "Share without an extracted answer."),
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

_DRAWN = (PROBLEMS, SAMPLES, ANSWERS, GRADES, ENGINE, LOSS)
_COMPUTED = (SUMMARY, COMPLIANCE, COMPARISON, REGIONS, MEMBERSHIP, CLAIMS, EMERGENCE, THRESHOLDS, CALIBRATION, SCALING, FORECAST)
TABLES: dict[str, Table] = {t.name: t for t in (*_DRAWN, *_COMPUTED)}
