"""Graded rows: the columns that are needed, those that may be left out, and what must hold of every row.

Why: tables that others made (one row per graded answer, five columns at least) go through the same estimates and comparisons as ours,
and every row's invariants are checked here, once.
What it does not do: estimate anything, or guess what was not given: tokens that are not known make costs NaN, answers that are not known
make votes NaN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thinkscale.inference import Ints
from thinkscale.votes import classes_by_problem

REQUIRED = ("model", "params", "problem_id", "sample_index", "correct")
FACTS = (
    *("cell_id", "model", "params", "params_active", "params_non_embedding", "benchmark", "skill"),
    *("prompt", "route", "sampling", "thinking_budget"),
)
PROBLEM = ("benchmark", "problem_id", "cluster_id", "difficulty")
SCORES = ("answer_logprob", "verifier_score")
"""Optional columns by which the best of k may be chosen and votes weighed."""
_TOKENS = ("prompt_tokens", "thinking_tokens", "injected_tokens", "answer_tokens", "completion_tokens")
_NEEDED = (*FACTS, *PROBLEM[1:], "sample_index", *_TOKENS, "ended", "correct", "correct_unforced", "extracted_answer")
_CELL = ("model", "benchmark", "prompt", "route", "sampling", "thinking_budget")
_NUMBERS = ("params", "params_active", "params_non_embedding", "thinking_budget", "difficulty", *_TOKENS)
_MAY_BE_NULL = {"extracted_answer", *_TOKENS}
COUNTED = 4
"""Cells of a table of counts that a row is worth: beyond, sorting is cheaper."""


class TableError(ValueError):
    """A table breaks its declaration: says which column and row, and the offending value."""


def complete(frame: pd.DataFrame, same: Callable[[str, str], bool] | None = None) -> pd.DataFrame:
    """A table that somebody else made, with the columns that `summarize` and `compare` need.

    Required: model, params, problem_id, sample_index, correct (True/False or 1/0). Anything else of `answers` and `grades`
    (results/README.md) is used where it is there: cluster_id, benchmark, skill, difficulty, thinking_budget, prompt, route, sampling,
    tokens, answer_class, and `answer_logprob` or `verifier_score` to choose by. In place of answer_class an `answer` may be given, from
    which classes are found (`votes.answer_classes`); null abstains. A cell is a model × benchmark × prompt × route × sampling × budget.

    Args:
        frame: one row per graded answer.
        same: a grader's verdict on two answers, for `answer`; None: equal texts are equal answers.
    Raises: TableError naming what is missing or what correct holds.
    """
    absent = [c for c in REQUIRED if c not in frame]
    if absent:
        raise TableError(f"graded rows: column '{absent[0]}' is missing. Needed: {', '.join(REQUIRED)}; found: {', '.join(frame.columns)}.")
    rows = frame.reset_index(drop=True)
    if rows.empty:
        raise TableError("graded rows: there are none. Give one row per graded answer.")
    for column in [c for c in (*REQUIRED[:-1], *_CELL) if c in rows]:
        null = np.flatnonzero(rows[column].isna())
        if len(null):
            raise TableError(f"graded rows: {column} is null in row {null[0]} (of {len(null)}): drop such rows or fill it in.")
    odd = ~rows["correct"].isin([True, False])
    if odd.any():
        raise TableError(f"graded rows: correct must be True or False (1 or 0), found {rows.loc[odd, 'correct'].tolist()[0]!r}.")
    rows = rows.assign(correct=rows["correct"].astype(bool))
    given = rows.get("benchmark", "all")
    texts: dict[str, Any] = {"benchmark": given, "skill": given, "prompt": "given", "route": "given", "sampling": "given", "ended": "given"}
    numbers: dict[str, Any] = {"difficulty": 0.0, "thinking_budget": 0, "params_active": rows["params"]}
    grades: dict[str, Any] = {"cluster_id": rows["problem_id"].astype(str), "correct_unforced": rows["correct"]}
    numbers["params_non_embedding"] = rows["params"]
    defaults = {**texts, **numbers, **grades, **{c: np.nan for c in _TOKENS}}
    rows = rows.assign(**{c: v for c, v in defaults.items() if c not in rows})
    if "answer_class" not in rows and "answer" in rows:
        said = [None if pd.isna(a) else str(a) for a in rows["answer"]]
        found = classes_by_problem(zip(rows["benchmark"], rows["problem_id"], strict=True), said, same)
        rows = rows.assign(answer_class=pd.Series(found, dtype="str"))
    if "extracted_answer" not in rows:
        rows = rows.assign(extracted_answer=rows.get("answer_class", ""))
    if "cell_id" not in rows:
        cells, code = codes(rows, *_CELL)
        rows = rows.assign(cell_id=pd.Categorical.from_codes(code, pd.Index([" ".join(cell) for cell in cells])))
    return rows


def codes(rows: pd.DataFrame, *columns: str) -> tuple[list[tuple[str, ...]], Ints]:
    """Distinct values of some columns in sorted order, and each row's place among them."""
    code = np.zeros(len(rows), np.int64)
    names: list[tuple[str, ...]] = [()]
    for column in columns:
        part, levels = _levels(rows[column])
        used, code = places(code * len(levels) + part, len(names) * len(levels))
        texts = [str(level) for level in levels]
        names = [(*names[u // len(texts)], texts[u % len(texts)]) for u in used.tolist()]
    return names, code


def places(code: Ints, size: int) -> tuple[Ints, Ints]:
    """Distinct values of whole numbers in [0, size), in order, and each one's place among them.

    Found by counting, or by sorting where `size` is far more than there are numbers.
    """
    if size > COUNTED * len(code) + 2**20:
        values, place = np.unique(code, return_inverse=True)
        return values, place.reshape(-1)
    there = np.bincount(code, minlength=size) > 0
    return np.flatnonzero(there), (np.cumsum(there) - 1)[code]


def _levels(values: pd.Series) -> tuple[Ints, pd.Index]:
    """Each value's number among sorted levels; of a category all levels, used or not."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy().astype(np.int64), values.cat.categories
    part, levels = pd.factorize(values, sort=True)
    return part.astype(np.int64), pd.Index(levels)


def by_cell(rows: pd.DataFrame) -> list[Ints]:
    """Row numbers of each cell, cells in the order of their ids."""
    names, code = codes(rows, "cell_id")
    return np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code, minlength=len(names)))[:-1])


def checked(graded: pd.DataFrame) -> pd.DataFrame:
    """The columns needed here, after the invariants of every row."""
    absent = [c for c in _NEEDED if c not in graded]
    if absent:
        raise TableError(
            f"graded: column '{absent[0]}' is missing. Read a results folder with graded.read_graded, other tables with tidy.complete."
        )
    if graded.empty:
        raise TableError("graded: no rows. Nothing has been answered and graded yet: run the sweep first.")
    rows = graded.reset_index(drop=True)
    if "stopped" in rows:
        told = (
            "drawing was stopped because of the answers: no estimate here is right for such rows. Draw the rest, or leave the problem out"
        )
        refuse(rows, rows["stopped"].astype(bool), told)
    for column in _NUMBERS:
        rows[column] = _numeric(rows[column])
    for column in _NEEDED:
        if column not in _MAY_BE_NULL:
            refuse(rows, rows[column].isna(), f"{column} is null")
    if _doubled(rows):
        refuse(rows, rows.duplicated(["cell_id", "problem_id", "sample_index"]), "there twice")
    refuse(rows, rows["params"] <= 0, "params must be above 0, found {params}")
    refuse(rows, rows["prompt_tokens"] <= 0, "prompt_tokens must be above 0 (null where they are not known), found {prompt_tokens}")
    over = (rows["route"] != "native") & (rows["thinking_tokens"] > rows["thinking_budget"])
    refuse(rows, over, "thinking_tokens {thinking_tokens} over thinking_budget {thinking_budget}")
    parts = rows["thinking_tokens"].astype(np.float64) + rows["injected_tokens"] + rows["answer_tokens"]
    sum_ = "thinking {thinking_tokens} + injected {injected_tokens} + answer {answer_tokens}"
    refuse(rows, parts.notna() & (parts != rows["completion_tokens"]), f"completion_tokens {{completion_tokens}} is not {sum_}")
    for keys, columns in ((("cell_id",), FACTS[1:]), (("benchmark", "problem_id"), PROBLEM[2:])):
        _constant(rows, keys, columns)
    return rows


def _numeric(values: pd.Series) -> pd.Series:
    """The same in NumPy's types: pandas' own null compares as neither true nor false."""
    if not pd.api.types.is_numeric_dtype(values):
        if pd.api.types.infer_dtype(values) not in ("integer", "floating", "mixed-integer-float"):
            raise TableError(f"graded: {values.name} must be numbers, found {values.iloc[0]!r}. Convert the column with pandas.to_numeric.")
        return pd.to_numeric(values)
    if not pd.api.types.is_extension_array_dtype(values):
        return values
    return pd.Series(values.to_numpy(np.float64) if values.hasnans else values.to_numpy(), index=values.index)


def _doubled(rows: pd.DataFrame) -> bool:
    """Is any sample there twice?"""
    code, size = np.zeros(len(rows), np.int64), 1
    for column in ("cell_id", "problem_id", "sample_index"):
        part, levels = _levels(rows[column])
        used, code = places(code * len(levels) + part, size * len(levels))
        size = len(used)
    return size < len(rows)


def _constant(rows: pd.DataFrame, keys: tuple[str, ...], columns: tuple[str, ...]) -> None:
    names, code = codes(rows, *keys)
    first = first_rows(code, len(names))
    for column in columns:
        value = rows[column].to_numpy() if pd.api.types.is_numeric_dtype(rows[column]) else pd.factorize(rows[column])[0]
        bad = np.flatnonzero(value != value[first][code])
        if len(bad):
            here, there = (rows[column].iloc[[row]].tolist()[0] for row in (bad[0], first[code[bad[0]]]))
            raise TableError(f"graded: {' '.join(keys)} {' '.join(names[code[bad[0]]])} has {column} {there!r} and {here!r}.")


def first_rows(code: Ints, size: int) -> Ints:
    """The first row of each of `size` codes."""
    first = np.full(size, -1)
    first[code[::-1]] = np.arange(len(code))[::-1]
    return first


def refuse(rows: pd.DataFrame, bad: "pd.Series[bool] | NDArray[np.bool_]", text: str) -> None:
    """Raise for the first bad row; names in braces stand for its values."""
    at = np.flatnonzero(bad)
    if len(at):
        row = {str(name): value for name, value in rows.iloc[at[0]].items()}
        where = f"cell {row['cell_id']}, problem {row['problem_id']}, sample {row['sample_index']}"
        raise TableError(f"graded: {text.format(**row)} (row: {where}).")
