"""Benchmarks as `models.yaml` declares them: files of the usual layouts, and reasoning-gym's generators.

Why: a benchmark is one entry of YAML, checked like everything else that is written there. Here are also the few things that every
declaration is made of. What it does not do: read the files (see `layouts`) or know the skills that this project generates (see `skills`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# a name becomes part of a file name: no slash, no leading dot, and short enough (a file name has 255 bytes) for what is added to it
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Chance = float | Mapping[float, float]
"""Accuracy of guessing: of every problem, or of those of each difficulty."""
Grader = Literal["number", "exact", "choice", "reasoning_gym", "f1", "math", "code", "chrf"]
Layout = Literal["columns", "parallel", "squad", "mmlu", "arc", "gpqa", "humaneval", "mbpp"]


class ConfigError(ValueError):
    """Something in a YAML file is wrong: says which file and key, what was found and what to do."""


class Strict(BaseModel):
    """Unknown keys are errors, values are never changed after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class HubBenchmark(Strict):
    """A benchmark in a file: on the data hub, pinned, or local."""

    skill: str
    source: str
    """Name on the data hub, or a local folder (relative to `flows/` or absolute)."""
    file: str
    """Parquet, JSON-lines, JSON, CSV, TSV or text file of the wanted split, inside the source."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit on the hub, whole: what a name or a branch stands for may change. A local file needs none, its content is hashed."""
    problems: Positive
    mean_prompt_tokens: Positive
    """For estimates before the data are read."""
    layout: Layout = "columns"
    """Whose file this looks like: what its columns are called and what a problem is made of."""
    question: str = "question"
    """Column of the question (`columns`, `parallel`); a dot leads into a nested one: `translation.de`."""
    answer: str = "answer"
    """Column of the gold answer (likewise)."""
    answer_after: str | None = None
    """The gold answer is what follows the last of these marks in its column (GSM8K: `####`)."""
    difficulty: str | None = None
    """Column of a number on the benchmark's own scale (MATH-500: `level`)."""
    id: str | None = None
    """Column of the file's own ids: no two rows may share one."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a CSV or TSV file without a line of headers (MGSM)."""
    answer_file: str | None = None
    """Second text file, whose lines are the answers to the lines of `file` (FLORES)."""
    grader: Literal["number", "exact", "choice", "f1", "math", "code", "chrf"]
    correct_from: Annotated[float, Field(gt=0, le=1)] = 0.6
    """`chrf` (as a share of 1) from which a translation counts as correct; its `partial` does not depend on this."""
    chance: Share = 0.0


class GymBenchmark(Strict):
    """A dataset of reasoning-gym, generated from name, parameters and seed."""

    skill: str
    dataset: str
    """Its name in reasoning-gym."""
    levels: Annotated[tuple[int, ...], Field(min_length=1)]
    """The difficulty axis: values that the parameters named in `varies` take."""
    varies: Annotated[tuple[str, ...], Field(min_length=1)]
    """Parameters that are set to the level (usually a minimum and a maximum)."""
    settings: dict[str, Any] = {}
    """Other parameters; what is not given is the dataset's default."""
    mean_prompt_tokens: Positive
    grader: Literal["reasoning_gym", "exact", "number"] = "reasoning_gym"
    """reasoning-gym's own score where several answers are right or it knows better what is nearly so."""
    chance: Share | dict[float, Share] = 0.0
    """Accuracy of guessing; by level where it differs between them."""

    @model_validator(mode="after")
    def _every_level_has_its_chance(self) -> Self:
        if isinstance(self.chance, dict) and set(self.chance) != set(self.levels):
            raise ValueError(f"chance: has the levels {sorted(self.chance)}, and the benchmark {sorted(self.levels)}. Give one for each.")
        return self
