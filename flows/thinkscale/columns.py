"""What a table is made of: columns with type and sentence, and those that tables share.

Why: `schema` declares the tables; what a declaration is stands here.
What it does not do: declare a table.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

TableName = Literal[
    "problems",
    "samples",
    "answers",
    "grades",
    "forced",
    "engine",
    "loss",
    "scores",
    "summary",
    "compliance",
    "comparison",
    "headline",
    "regions",
    "membership",
    "purchase",
    "targets",
    "split",
    "claims",
    "emergence",
    "thresholds",
    "calibration",
    "adaptive",
    "scaling",
    "forecast",
    "coverage",
]

id_type = pa.dictionary(pa.int32(), pa.string())  # ids repeat on every row: dictionary-encoded they cost a few bits


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, what it means, and whether null is a value it may take."""

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False
    since: int = 1
    """Schema version that brought it; such a column is nullable, and null in parts of earlier versions."""


@dataclass(frozen=True)
class Table:
    """One table: what a row is (grain), which columns identify it (key), and all columns in order."""

    name: TableName
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema; null is refused where the declaration refuses it."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [c.name for c in self.columns]


TRACE_SET = (
    Column("trace_set_id", id_type, "Hash of model revision, prompt text, benchmark, route and sampling: what is generated once."),
    Column("model", id_type, "Name of the model in `models.yaml`."),
    Column("params", pa.int64(), "Total parameters of the model."),
    Column("params_active", pa.int64(), "Parameters used per token (smaller than `params` for mixture-of-experts models)."),
    Column("params_non_embedding", pa.int64(), "Parameters without the embedding and output matrices."),
    Column("benchmark", id_type, "Name of the set of problems."),
    Column("skill", id_type, "What the benchmark tests."),
    Column("difficulty", pa.float64(), "Difficulty of the problem on the benchmark's own scale (steps, hops, terms ...)."),
    Column("prompt", id_type, "Prompt id: the file name in `prompts/` without its ending; with k worked examples `<id>=k`."),
    Column(
        "route",
        id_type,
        "How thinking is spent: `cut` ends it at the budget and asks for the answer; `extend=2` does that and has the model go on when it "
        "would close before, up to twice; `effort=low`: the model is told its level; `native`: the server ends it; `tools`: a conversation "
        "in which the server reads the model's calls. With `calculator=8` up to eight calls of that tool are answered.",
    ),
    Column("sampling", id_type, "Sampling settings, written as `temperature=1,top_p=1,...`."),
    Column("problem_id", id_type, "Hash of benchmark, question and gold answer."),
    Column("cluster_id", id_type, "Problems that share a template or passage share this; otherwise equal to `problem_id`."),
)

POINT = (
    Column("model", pa.string(), "Name of the model."),
    Column("params", pa.int64(), "Total parameters of the model."),
    Column("params_active", pa.int64(), "Parameters used per token."),
    Column("params_non_embedding", pa.int64(), "Parameters without embedding and output matrices."),
    Column("benchmark", pa.string(), "Name of the set of problems."),
    Column("skill", pa.string(), "What the benchmark tests."),
    Column("slice", pa.string(), "Which problems: `all`, or `difficulty=3`."),
    Column("prompt", pa.string(), "Prompt id."),
    Column("route", pa.string(), "How thinking is spent."),
    Column("sampling", pa.string(), "Sampling settings."),
    Column("thinking_budget", pa.int32(), "Cap on thinking tokens; 0 is thinking off."),
    Column(
        "metric",
        pa.string(),
        "`pass@k`, `maj@k`, `unforced pass@k` (cut thinking counts as wrong); `best@k` and `vote@k` by a score; `right_prob`, `1 - brier`, "
        "`-log10_error / 16`.",
    ),
    Column("k", pa.int32(), "Samples that the estimate pretends to have."),
)

LEVEL = Column(
    "thinking_level",
    pa.float64(),
    "Orders settings by the thinking asked for: `thinking_budget`; of a level of `effort`, which has no number, the mean of thinking "
    "tokens at that level over the models of the benchmark.",
)

AXIS = Column(
    "axis",
    pa.string(),
    "What is paid: `flops`, `eflops` (with memory traffic, where `gpu:` is given), `tokens` (completion), `steps` (tokens of the longest "
    "sample: waiting), `kv_bytes`, `seconds` (GPU-seconds as measured), `dollars` (where a table has them).",
)
