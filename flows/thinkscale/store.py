"""The tables of one results folder as Parquet parts: whole or not at all, never replaced.

Why: a killed run must leave nothing half-written that a later reader takes for data, two writers must never mix, and a part that rotted
must neither be taken for data nor stop everything: it is set aside, said, and what it held is owed.
What it does not do: decide what is owed (see `plan`) or join tables (see `graded`); how bytes get to a disk or an object store is in
`files`.
"""

import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from thinkscale import files
from thinkscale.remote import in_our_words
from thinkscale.schema import SCHEMA_VERSION, TABLES, Table, TableName

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")

PARTS: tuple[TableName, ...] = ("problems", "samples", "answers", "grades", "forced")
QUARANTINE = "quarantine"
_META = b"thinkscale"
_OF_TRACE_SETS: tuple[TableName, ...] = ("samples", "answers", "forced", "scores")
"""A part of these holds one trace set and names it in its footer."""
_READERS = 16  # an object store answers in tens of milliseconds, many at once


class StoreError(RuntimeError):
    """What is on disk cannot be trusted: says which file, what was found and what to do."""


class _Kept(NamedTuple):
    """Keys of one part, as they were read."""

    version: tuple[Any, ...] | None
    rows: pa.Table
    problems: frozenset[str]


class Store:
    """One results folder: `results/<experiment>/`."""

    def __init__(self, root: str | os.PathLike[str] | UPath) -> None:
        self.root = files.place(root)
        self._trace_set_of: dict[str, str] = {}
        self._kept: dict[str, _Kept] = {}

    def folder(self, table: TableName) -> UPath:
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
        final = self.folder(table) / f"{name}.parquet"
        data = table_from_rows(TABLES[table], rows)
        # the count, since a flipped bit in the footer may hide rows, and no checksum covers that
        footer = {_META: json.dumps({"schema_version": SCHEMA_VERSION, "rows": data.num_rows, **meta}).encode()}
        written = _parquet(data.replace_schema_metadata({**(data.schema.metadata or {}), **footer}))
        if not replace:
            return files.put_new(final, written)
        files.put(final, written)
        return True

    def read(
        self,
        table: TableName,
        columns: Sequence[str] | None = None,
        trace_sets: Collection[str] | None = None,
        problems: Collection[str] | None = None,
    ) -> pa.Table:
        """All parts of a table; a part that is not whole or foreign is set aside and left out.

        Args:
            columns: which; None: all.
            trace_sets: only the parts of these (by their footers: a part holds one); None: all.
            problems: only rows of these ids, and `problem_id` is one of the columns; None: all. Parts of which `read_keys` knows that they
                hold none are not opened: what one shard needs of many is read at the cost of one.
        Raises: StoreError for a part of another schema version.
        """
        schema = _schema(table, columns)

        def read(path: UPath) -> pa.Table | None:
            kept = None if problems is None else self._kept.get(str(path))
            if kept is not None and kept.problems.isdisjoint(problems or ()):
                return None
            return self._read_part(table, path, schema, trace_sets)

        return _of_problems(_joined(self._each(read, self.parts(table)), schema), problems)

    def verify(self, table: TableName, trace_sets: Collection[str] | None = None) -> None:
        """Read every byte of a table's parts, so that what rotted is set aside before anything is built on it. Raises StoreError.

        Args: as of `read`.
        """
        schema = _schema(table, None)

        def read(path: UPath) -> None:
            self._read_part(table, path, schema, trace_sets)

        self._each(read, self.parts(table))

    def _each(self, read: Callable[[S], T], parts: Sequence[S]) -> list[T]:
        if files.is_local(self.root):
            return [read(part) for part in parts]
        contexts = [copy_context() for _ in parts]  # how patient we are (see `remote`)
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(lambda context, part: context.run(read, part), contexts, parts))

    def read_keys(
        self, table: TableName, columns: Sequence[str], trace_sets: Collection[str], problems: Collection[str] | None = None
    ) -> pa.Table:
        """As `read`, and keeps what it read: what is owed is asked before every shard, and parts do not change.

        Args:
            columns: for one table always the same; `problem_id` is one of them.
            problems: only rows of these; None: all.
        """
        schema, folder = _schema(table, columns), str(self.folder(table))

        def read(part: tuple[str, tuple[Any, ...] | None]) -> pa.Table | None:
            name, version = f"{folder}/{part[0]}", part[1]  # no path is made of what is known: that costs more than the rest
            if (known := self._trace_set_of.get(name)) is not None and known not in trace_sets:
                return None
            kept = self._kept.get(name)
            if kept is None or version is None or kept.version != version:
                rows = self._read_part(table, self.folder(table) / part[0], schema, trace_sets)
                if rows is None:
                    return None
                kept = self._kept[name] = _Kept(version, rows, frozenset(decoded(rows["problem_id"]).to_pylist()))
            return kept.rows if problems is None or not kept.problems.isdisjoint(problems) else None

        parts = list(files.versions(self.folder(table), ".parquet").items())
        return _of_problems(_joined(self._each(read, parts), schema), problems)

    def read_part(self, table: TableName, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One part by name; no rows where it is not whole, see `read`. Raises StoreError."""
        schema = _schema(table, columns)
        found = self._read_part(table, self.folder(table) / f"{name}.parquet", schema, None)
        return schema.empty_table() if found is None else found

    def has(self, table: TableName, name: str) -> bool:
        """Whether a part is published."""
        return files.exists(self.folder(table) / f"{name}.parquet")

    def parts(self, table: TableName) -> list[UPath]:
        """Published parts of a table, by name."""
        return files.listed(self.folder(table), ".parquet")

    def _read_part(self, table: TableName, path: UPath, schema: pa.Schema, trace_sets: Collection[str] | None) -> pa.Table | None:
        """The part's rows; None where it belongs to other trace sets or had to be set aside."""
        known = self._trace_set_of.get(str(path))  # parts never change: what the footer said stays true
        if trace_sets is not None and known is not None and known not in trace_sets:
            return None
        try:
            with _opened(path) as file:
                return self._parse(table, path, file, schema, trace_sets)
        except FileNotFoundError:  # set aside by somebody else since it was listed
            return None
        except (pa.ArrowException, ValueError, OSError):
            pass  # the file, or the way to it? pyarrow says OSError for both
        try:
            data = files.read(path)  # the way: raises what it raises
        except FileNotFoundError:
            return None
        try:
            return self._parse(table, path, pa.BufferReader(data), schema, trace_sets)
        except (pa.ArrowException, ValueError, OSError) as e:
            self.set_aside(table, path, f"not a whole part of this table ({' '.join(str(e).split())[:200]})")
            return None

    def _parse(self, table: TableName, path: UPath, source: Any, schema: pa.Schema, trace_sets: Collection[str] | None) -> pa.Table | None:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            meta = json.loads((file.schema_arrow.metadata or {}).get(_META, b"{}"))
            version = meta.get("schema_version")
            if version is None:
                raise _Foreign("thinkscale did not write it")
            if not 1 <= version <= SCHEMA_VERSION:
                raise StoreError(
                    f"{path}: schema version {version}, this reads versions 1 to {SCHEMA_VERSION}. "
                    "Move the file out of the folder, or use the version of thinkscale that wrote it."
                )
            if table in _OF_TRACE_SETS:
                if "trace_set_id" not in meta:
                    raise _Foreign("it does not say its trace set")
                self._trace_set_of[str(path)] = meta["trace_set_id"]
            if table == "grades":  # a part of the name of its answers', which begins with their trace set
                self._trace_set_of[str(path)] = path.name.partition("-")[0]
            if trace_sets is not None and self._trace_set_of.get(str(path)) not in trace_sets:
                return None
            later = {c.name for c in TABLES[table].columns if c.since > version}
            if missing := set(schema.names) - set(file.schema_arrow.names) - later:
                raise _Foreign(f"columns {sorted(missing)} are missing")
            found = file.read(columns=[name for name in schema.names if name not in later])
            for field in [f for f in schema if f.name in later]:
                found = found.append_column(field, pa.nulls(found.num_rows, field.type))
            if found.num_rows != meta.get("rows"):
                raise _Foreign(f"it has {found.num_rows} rows and says {meta.get('rows')}")
            return found.select(schema.names).cast(schema)

    def set_aside(self, table: TableName, path: UPath, why: str) -> None:
        """Move a part to `quarantine/` and say so; what it held is owed. Grades and scores of set-aside answers go, they can be made again.

        Raises: StoreError where the folder cannot be written to.
        """
        to = self.root / QUARANTINE / f"{table}-{path.stem}-{os.urandom(3).hex()}.parquet"
        try:
            moved = files.move(path, to)
        except OSError as e:
            raise StoreError(f"{path}: {why}, and cannot be moved ({e.strerror}). Move it away and run again: what it held is owed.") from e
        if moved:
            log.warning("%s: %s. Moved to %s; what it held is owed again.", path, why, to)
        if table == "answers":
            files.remove(self.folder("grades") / path.name)
            self.drop_scores()

    def set_aside_orphans(self, trace_sets: Collection[str] | None = None) -> int:
        """Set aside the parts of answers and of what was scored in their place, of some trace sets or all, whose traces are gone (their
        part was). Returns how many parts.
        """
        key, found = ["trace_set_id", "problem_id", "sample_index", "trace_hash"], 0
        tables: tuple[TableName, ...] = ("answers", "forced")
        read = [
            (t, path, self._read_part(t, path, _schema(t, [*key, "thinking_budget"]), trace_sets)) for t in tables for path in self.parts(t)
        ]
        samples = self.read("samples", key, trace_sets)  # after the answers: traces are published before what is cut from them
        for table, path, rows in read:
            if rows is not None and orphans(rows, samples).num_rows:
                self.set_aside(table, path, "its answers were cut from traces that are not in samples/")
                found += 1
        return found

    def drop_scores(self) -> None:
        """Delete scores of answers that are not there (any more): what is drawn in their place may read otherwise."""
        there = tuple(f"{path.stem}-" for path in self.parts("answers"))
        for path in self.parts("scores"):
            if not path.name.startswith(there):
                files.remove(path)

    def quarantined(self) -> list[UPath]:
        """What was set aside and not taken away since."""
        return files.listed(self.root / QUARANTINE)

    def write_table(self, table: TableName, frame: pd.DataFrame) -> UPath:
        """Write a derived table (summary, comparison, claims): computed from parts, so it may be replaced, at once."""
        final = self.root / f"{table}.parquet"
        files.put(final, _parquet(pa.Table.from_pandas(frame, schema=TABLES[table].arrow, preserve_index=False)))
        return final

    def write_json(self, name: str, value: Any) -> UPath:
        """Write a small JSON file at once."""
        final = self.root / name
        files.put(final, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
        return final


@contextmanager
def _opened(path: UPath) -> Iterator[Any]:
    """A part, of which only what is asked for is read. Raises OSError."""
    if files.is_local(path):
        with pa.OSFile(str(path)) as file:
            yield file
    else:
        with in_our_words(str(path)), path.open("rb") as file:
            yield file


def _joined(tables: Iterable[pa.Table | None], schema: pa.Schema) -> pa.Table:
    found = [t for t in tables if t is not None]
    return pa.concat_tables(found).unify_dictionaries() if found else schema.empty_table()


def _of_problems(rows: pa.Table, problems: Collection[str] | None) -> pa.Table:
    return rows if problems is None else rows.filter(pc.is_in(decoded(rows["problem_id"]), pa.array(problems, pa.string())))


class _Foreign(ValueError):
    """A file that is Parquet, and not as we wrote it."""


def orphans(answers: pa.Table, samples: pa.Table) -> pa.Table:
    """Answers above budget 0 that were cut from a trace that is not in `samples`."""
    key = ["trace_set_id", "problem_id", "sample_index", "trace_hash"]
    cut_from = pa.table({name: decoded(answers[name]) for name in key}).filter(pc.greater(answers["thinking_budget"], 0))
    there = pa.table({name: decoded(samples[name]) for name in key})
    return cut_from.join(there.group_by(key).aggregate([]), keys=key, join_type="left anti")


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


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column with plain values instead of a dictionary's."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _schema(table: TableName, columns: Sequence[str] | None) -> pa.Schema:
    declared = TABLES[table]
    return pa.schema([declared.arrow.field(name) for name in columns or declared.names])


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)  # without it a flipped bit may read as another number
    return bytes(sink.getvalue())
