"""The tables on disk: every column declared once, with its type and one sentence.

Why: a data dictionary that is typed in twice drifts; `results/README.md` is made from this file and a test compares the two.
What it does not do: read or write anything (see `store`), or compute any value (see `grading`, `summarize`, `compare`).
"""

import pyarrow as pa

from thinkscale.columns import TRACE_SET, Column, Table, TableName, id_type
from thinkscale.conclusions import ADAPTIVE, CALIBRATION, EMERGENCE, MEMBERSHIP, REGIONS, THRESHOLDS
from thinkscale.decisions import PURCHASE, SPLIT, TARGETS
from thinkscale.extrapolations import COVERAGE, FORECAST, SCALING
from thinkscale.points import CLAIMS, COMPARISON, COMPLIANCE, HEADLINE, SUMMARY

__all__ = [  # also those declared elsewhere
    "ADAPTIVE",
    "CALIBRATION",
    "CLAIMS",
    "COMPARISON",
    "COMPLIANCE",
    "COVERAGE",
    "EMERGENCE",
    "FORECAST",
    "HEADLINE",
    "MEMBERSHIP",
    "PURCHASE",
    "REGIONS",
    "SCALING",
    "SCHEMA_VERSION",
    "SPLIT",
    "SUMMARY",
    "TABLES",
    "TARGETS",
    "THRESHOLDS",
    "Column",
    "Table",
    "TableName",
]

SCHEMA_VERSION = 4
"""2 to 4: columns that are null in parts of versions before (`Column.since`), which can be read as ever. 3 also: what gold answers get is
not in `answers` but in a table of its own, `forced`."""

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
            "The thinking as text, with what is known past the cap where it was cut (for reading; cutting is done on ids).",
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
        *(
            Column(name, pa.list_(type_), text, nullable=True, since=3)
            for name, type_, text in (
                ("tool_result_at", pa.int32(), "Where a tool may be called: index in the thinking of each result's first id."),
                ("tool_result_tokens", pa.int32(), "How many ids each result has; a cap may end within the last one."),
                ("tool_result_valid", pa.bool_(), "Is it a number, not `error`?"),
                (
                    "turn_prompt_token_ids",
                    pa.int32(),
                    "Of `tools`: all ids that the model had read before the last result, or before the thinking. Else empty.",
                ),
                ("pending_token_ids", pa.int32(), "Where the cap ends within what was put in: the rest of it, after `next_token_id`."),
            )
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
        Column(
            "tool_calls",
            pa.int32(),
            "Calls of a tool that ended within this thinking, of those that are answered; null where no tool may be called.",
            nullable=True,
            since=3,
        ),
        Column("tool_valid", pa.int32(), "Those of them that could be answered; the others got `error`.", nullable=True, since=3),
        Column("tool_tokens", pa.int32(), "Of `thinking_tokens`: those of the tool's results, which we put in.", nullable=True, since=3),
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
        Column(
            "log10_error",
            pa.float64(),
            "Of the grader `number`: log10(abs(answer - gold) / abs(gold)), at least -16, which is equal; where gold is 0, "
            "log10(abs(answer)). Null without a number, and of other graders.",
            nullable=True,
            since=4,
        ),
        Column(
            "status",
            id_type,
            "`answered`, `no_answer` (none was found, or it is too long to be one), `truncated_answer` (none before the answer ran into "
            "its cap) or `too_long` (the problem did not fit the context: nothing was asked).",
        ),
        Column("extracted_answer", pa.string(), "Canonical final answer; null where none was found.", nullable=True),
        Column("answer_class", pa.string(), "Answers of one class vote together; null abstains.", nullable=True),
        Column("grader_version", id_type, "Name and version of the grader."),
    ),
)

FORCED = Table(
    "forced",
    "one row per row of `answers` whose gold answer was scored in its place (`gold_logprob: true`), after the same thinking",
    ("cell_id", "problem_id", "sample_index"),
    (
        TRACE_SET[0],
        _CELL,
        Column("problem_id", id_type, "As in `answers`."),
        _SAMPLE,
        _BUDGET,
        _TRACE_HASH,
        Column(
            "gold_logprob",
            pa.float64(),
            "Log-probability (natural) of the gold answer's tokens together, by the model itself; null where they do not fit the context.",
            nullable=True,
        ),
        Column("gold_tokens", pa.int32(), "Tokens of the gold answer, which `gold_logprob` is the sum over.", nullable=True),
        Column(
            "choice_probs",
            pa.list_(pa.float64()),
            "Probability of the letter of each choice, of all letters together 1; null without choices.",
            nullable=True,
        ),
        Column("right_prob", pa.float64(), "That of the right choice.", nullable=True),
        Column(
            "brier",
            pa.float64(),
            "Brier score of `choice_probs`, summed over the choices: 0 (sure and right) to 2 (sure and wrong); even odds on k: 1 - 1/k.",
            nullable=True,
        ),
        Column("engine", id_type, "Fingerprint of the engine that scored; `forced_engine` in the frame of `graded.read_graded`."),
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
        Column(
            "gpu_memory_mib",
            pa.float64(),
            "Memory in use on them, in MiB; null without NVML, or where it is not known which.",
            nullable=True,
        ),
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

SCORES = Table(
    "scores",
    "one row per row of `answers` and scorer, where the YAML has `scorer:`",
    ("cell_id", "problem_id", "sample_index", "scorer", "scorer_revision"),
    (
        _CELL,
        Column("problem_id", id_type, "As in `answers`."),
        _SAMPLE,
        Column("scorer", id_type, "Name of the scorer in `models.yaml`."),
        Column("scorer_revision", id_type, "Its commit on the hub, or hash of a local folder."),
        Column(
            "verifier_score",
            pa.float64(),
            "P(right) as the scorer was trained to say it, of prompt, thinking, close and answer. 0 where nothing was asked (`too_long`); "
            "null where the row does not fit the scorer's context.",
            nullable=True,
        ),
        Column("scorer_tokens", pa.int32(), "Tokens of the row that it reads: what scoring this row would cost alone."),
        Column("scorer_flops", pa.float64(), "FLOPs of reading them."),
        Column("request_scorer_tokens", pa.int32(), "Tokens really sent for this row; 0 where it reads as a smaller budget's row."),
        Column("engine", id_type, "Fingerprint of the engine that scored."),
    ),
)

_DRAWN = (PROBLEMS, SAMPLES, ANSWERS, GRADES, FORCED, ENGINE, LOSS, SCORES)
_COMPUTED = (
    SUMMARY,
    COMPLIANCE,
    COMPARISON,
    HEADLINE,
    REGIONS,
    MEMBERSHIP,
    PURCHASE,
    TARGETS,
    SPLIT,
    CLAIMS,
    EMERGENCE,
    THRESHOLDS,
    CALIBRATION,
    ADAPTIVE,
    SCALING,
    FORECAST,
    COVERAGE,
)
COMPUTED: tuple[TableName, ...] = tuple(t.name for t in _COMPUTED)
"""Tables that are made of the others and can be made again."""
TABLES: dict[str, Table] = {t.name: t for t in (*_DRAWN, *_COMPUTED)}
