"""Parquet on disk: whole or not at all, never replaced, and read back as one tidy frame.

Why: a killed run must leave nothing half-written that a later reader takes for data, and two writers must never mix.
A part is written under a dot name (readers skip those), flushed to disk, then published by a hard link, which fails if the name is taken.
What it does not do: decide what is owed (see `shards`) or compute anything.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thinkscale.schema import SCHEMA_VERSION, TABLES, Table, TableName

PARTS: tuple[TableName, ...] = ("problems", "samples", "answers", "grades")
_META = b"thinkscale"


class StoreError(RuntimeError):
    """What is on disk cannot be trusted: says which file, what was found and what to do."""


class Store:
    """One results folder: `results/<experiment>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, table: TableName) -> Path:
        """Where the parts of a table are."""
        return self.root / table

    def publish(self, table: TableName, name: str, rows: Iterable[Mapping[str, Any]], *, replace: bool = False, **meta: Any) -> bool:
        """Write one part, or lose to a part of the same name.

        Args:
            name: file name without ending; the same work has the same name.
            rows: every column of the table's declaration.
            replace: only for grades, which can be made again from stored answers at any time.
            meta: kept in the file's footer, outside the table; samples and answers say their `trace_set_id` there.
        Returns: False where the name was taken: the other writer's part stands and ours is discarded.
        """
        folder = self.folder(table)
        folder.mkdir(parents=True, exist_ok=True)
        final, temporary = folder / f"{name}.parquet", _temporary(folder, name)
        data = table_from_rows(TABLES[table], rows)
        footer = {_META: json.dumps({"schema_version": SCHEMA_VERSION, **meta}).encode()}
        try:
            pq.write_table(data.replace_schema_metadata({**(data.schema.metadata or {}), **footer}), temporary, compression="zstd")
            _flush(temporary)
            if replace:
                os.replace(temporary, final)
            else:
                os.link(temporary, final)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _flush(folder)
        return True

    def read(self, table: TableName, columns: Sequence[str] | None = None, trace_sets: Collection[str] | None = None) -> pa.Table:
        """All parts of a table.

        Args:
            columns: which; None: all.
            trace_sets: only the parts of these (by their footers: a part holds one); None: all.
        Raises: StoreError for a part that is not whole, is foreign, or has another schema version.
        """
        declared = TABLES[table]
        schema = pa.schema([declared.arrow.field(name) for name in columns or declared.names])
        read = [self._read_part(path, schema, trace_sets) for path in self.parts(table)]
        tables = [t for t in read if t is not None]
        return pa.concat_tables(tables).unify_dictionaries() if tables else schema.empty_table()

    def read_part(self, table: TableName, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One part by name. Raises StoreError."""
        declared = TABLES[table]
        schema = pa.schema([declared.arrow.field(c) for c in columns or declared.names])
        return self._read_part(self.folder(table) / f"{name}.parquet", schema, None)

    def parts(self, table: TableName) -> list[Path]:
        """Published parts of a table, by name."""
        return sorted(p for p in self.folder(table).glob("*.parquet") if not p.name.startswith("."))

    def _read_part(self, path: Path, schema: pa.Schema, trace_sets: Collection[str] | None) -> pa.Table | None:
        try:
            with pq.ParquetFile(path) as file:
                meta = json.loads((file.schema_arrow.metadata or {}).get(_META, b"{}"))
                if meta.get("schema_version") != SCHEMA_VERSION:
                    raise StoreError(
                        f"{path}: schema version {meta.get('schema_version')}, this is version {SCHEMA_VERSION}. "
                        "Move the file out of the folder, or use the version of thinkscale that wrote it."
                    )
                if trace_sets is not None and meta["trace_set_id"] not in trace_sets:
                    return None
                return file.read(columns=schema.names).select(schema.names).cast(schema)
        except (pa.ArrowException, KeyError, OSError) as e:
            raise StoreError(f"{path}: not a whole part of this table ({e}). Move it away and run again: what it held is owed.") from e

    def write_table(self, table: TableName, frame: pd.DataFrame) -> Path:
        """Write a derived table (summary, comparison, claims): computed from parts, so it may be replaced, at once."""
        self.root.mkdir(parents=True, exist_ok=True)
        final, temporary = self.root / f"{table}.parquet", _temporary(self.root, table)
        try:
            pq.write_table(pa.Table.from_pandas(frame, schema=TABLES[table].arrow, preserve_index=False), temporary, compression="zstd")
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
        return final

    def write_json(self, name: str, value: Any) -> Path:
        """Write a small JSON file at once."""
        self.root.mkdir(parents=True, exist_ok=True)
        final, temporary = self.root / name, _temporary(self.root, name)
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
        os.replace(temporary, final)
        return final


def read_graded(path: Path | str) -> pd.DataFrame:
    """All graded answers of a results folder as one tidy frame: the columns of `answers` and of `grades`, one row per answer.

    Raises: StoreError where a key is doubled, an answer has no grade, or an answer names a trace that is not there.
    """
    store = Store(Path(path))
    answers, grades = store.read("answers"), store.read("grades")
    check_unique(answers, TABLES["answers"])
    check_unique(grades, TABLES["grades"])
    check_traces(answers, store.read("samples", ["trace_set_id", "problem_id", "sample_index", "trace_hash"]))
    key = list(TABLES["grades"].key)
    frame = _frame(answers).merge(_frame(grades), on=key, how="left", validate="one_to_one", indicator=True)
    ungraded = int((frame["_merge"] != "both").sum())
    if ungraded:
        raise StoreError(f"{path}: {ungraded} of {len(frame)} answers have no grade. Run: python flows/regrade.py {Path(path).name}")
    return _categories(frame.drop(columns="_merge"))


def check_unique(table: pa.Table, declared: Table) -> None:
    """Raise StoreError naming the first key that stands twice."""
    keys = pa.table({name: _decoded(table[name]) for name in declared.key})
    counts = keys.group_by(list(declared.key)).aggregate([([], "count_all")])
    double = counts.filter(pc.greater(counts["count_all"], 1))
    if double.num_rows:
        raise StoreError(
            f"{declared.name}: key {double.slice(0, 1).drop(['count_all']).to_pylist()[0]} stands {double['count_all'][0]} times; "
            f"the grain is {declared.grain}."
        )


def check_traces(answers: pa.Table, samples: pa.Table) -> None:
    """Raise StoreError where an answer above budget 0 was cut from a trace that is not in `samples`."""
    key = ["trace_set_id", "problem_id", "sample_index", "trace_hash"]
    cut_from = pa.table({name: _decoded(answers[name]) for name in key}).filter(pc.greater(answers["thinking_budget"], 0))
    there = pa.table({name: _decoded(samples[name]) for name in key})
    orphans = cut_from.join(there.group_by(key).aggregate([]), keys=key, join_type="left anti")
    if orphans.num_rows:
        raise StoreError(
            f"{orphans.num_rows} answers name a trace that is not in samples/, first: {orphans.slice(0, 1).to_pylist()[0]}. "
            "Parts of two runs were mixed."
        )


def table_from_rows(declared: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of the declared schema. Raises StoreError for a missing or unknown column, or a null where none may be."""
    rows = list(rows)
    for row in rows[:1]:
        odd = set(row) ^ set(declared.names)
        if odd:
            raise StoreError(f"{declared.name}: columns {sorted(odd)} are missing or unknown.")
    columns = []
    for column in declared.columns:
        values = pa.array(
            [row[column.name] for row in rows], type=column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        )
        if values.null_count and not column.nullable:
            raise StoreError(f"{declared.name}: column {column.name} is null in {values.null_count} of {len(rows)} rows.")
        columns.append(values.dictionary_encode() if pa.types.is_dictionary(column.type) else values)
    return pa.Table.from_arrays(columns, schema=declared.arrow)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _frame(table: pa.Table) -> pd.DataFrame:
    """Pandas with plain strings: categories of two tables would not merge."""
    frame: pd.DataFrame = pa.table({name: _decoded(table[name]) for name in table.column_names}).to_pandas()
    return frame


def _categories(frame: pd.DataFrame) -> pd.DataFrame:
    declared = {c.name: c.type for name in ("answers", "grades") for c in TABLES[name].columns}
    return frame.astype({name: "category" for name in frame.columns if pa.types.is_dictionary(declared[name])})


def _temporary(folder: Path, name: str) -> Path:
    """A name of our own: process ids repeat between machines and containers that share a folder."""
    return folder / f".{name}.{os.urandom(6).hex()}.tmp"


def _flush(path: Path) -> None:
    """fsync: after a power cut a published name must not hold less than it said."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network filesystems cannot flush a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
