import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from fakes import rows, run_toy, study
from thinkscale.graded import read_graded
from thinkscale.grades import grade_all
from thinkscale.plan import owed_shards
from thinkscale.report import analyze
from thinkscale.schema import SCHEMA_VERSION, TABLES
from thinkscale.store import PARTS, Store, StoreError, table_from_rows

GRADE = {"cell_id": "c", "problem_id": "p", "sample_index": 0, "correct": True, "correct_unforced": True, "partial": 1.0}
GRADE |= {"log10_error": -16.0, "status": "answered", "extracted_answer": "1", "answer_class": "1", "grader_version": "number-1"}


def grades(number, start=0):
    return [{**GRADE, "sample_index": i} for i in range(start, start + number)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole results folder, analyzed."""
    opened = study(tmp_path_factory.mktemp("study"), models=["fake-21k", "fake-100k"])
    run_toy(opened)
    analyze(opened)
    return opened


@pytest.fixture
def copied(finished, tmp_path):
    """A folder of one's own to break."""
    shutil.copytree(finished.store.root, tmp_path / "out")
    return Store(tmp_path / "out")


def test_what_was_published_is_read_back(tmp_path):
    store = Store(tmp_path / "new")
    assert store.read("grades").num_rows == 0 and store.parts("grades") == []
    assert store.publish("grades", "a", grades(3)) and store.publish("grades", "b", grades(2, 3))
    table = store.read("grades")
    assert sorted(table.to_pylist(), key=lambda r: r["sample_index"]) == grades(5)
    assert table.schema.equals(TABLES["grades"].arrow)
    assert store.read("grades", ["correct"]).column_names == ["correct"]
    assert store.read_part("grades", "b").to_pylist() == grades(2, 3)


def test_the_loser_discards_and_the_first_part_stands(tmp_path):
    store = Store(tmp_path)
    assert store.publish("grades", "a", grades(3))
    before = store.parts("grades")[0].read_bytes()
    assert not store.publish("grades", "a", grades(5))
    assert store.parts("grades")[0].read_bytes() == before
    assert os.listdir(store.folder("grades")) == ["a.parquet"]


def test_only_grades_that_ask_for_it_are_replaced(tmp_path):
    store = Store(tmp_path)
    store.publish("grades", "a", grades(3))
    assert store.publish("grades", "a", grades(5), replace=True)
    assert store.read("grades").num_rows == 5 and os.listdir(store.folder("grades")) == ["a.parquet"]


def test_of_many_writers_one_wins(tmp_path):
    barrier = threading.Barrier(8)

    def write(number):
        barrier.wait()
        return Store(tmp_path).publish("grades", "a", grades(number)), number

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(write, range(1, 9)))
    (winner,) = [number for won, number in outcomes if won]
    assert Store(tmp_path).read("grades").num_rows == winner
    assert os.listdir(tmp_path / "grades") == ["a.parquet"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({k: v for k, v in GRADE.items() if k != "partial"}, r"grades: columns \['partial'\] are missing or unknown"),
        ({**GRADE, "score": 1}, r"grades: columns \['score'\] are missing or unknown"),
        ({**GRADE, "problem_id": None}, "grades: column problem_id is null in 1 of 1 rows"),
        ({**GRADE, "status": None}, "column status is null"),
    ],
)
def test_a_row_that_is_not_as_declared_is_refused_and_leaves_nothing(tmp_path, row, said):
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=said):
        store.publish("grades", "a", [row])
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(pa.ArrowInvalid):
        store.publish("grades", "a", [{**GRADE, "sample_index": "first"}])
    assert os.listdir(tmp_path) == []


def test_only_columns_that_may_be_null_take_null(tmp_path):
    for name, declared in TABLES.items():
        assert not any(declared.arrow.field(c).nullable for c in declared.key), name
    store = Store(tmp_path)
    store.publish("grades", "a", [{**GRADE, "extracted_answer": None, "answer_class": None}])
    assert store.read("grades")["answer_class"].null_count == 1


def _torn(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbled(path):
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(bytes(data))


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("correct\n1\n" * 10)


def _foreign(path):
    pd.DataFrame({"a": [1]}).to_parquet(path)


def _other_version(path):
    table = pq.read_table(path)
    footer = {b"thinkscale": json.dumps({"schema_version": SCHEMA_VERSION + 1}).encode()}
    pq.write_table(table.replace_schema_metadata(footer), path)


def _other_columns(path):
    footer = {b"thinkscale": json.dumps({"schema_version": SCHEMA_VERSION, "trace_set_id": "t"}).encode()}
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(footer), path)


def _without_trace_set(path):
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"thinkscale": json.dumps({"schema_version": SCHEMA_VERSION}).encode()}), path)


def _other_types(path):
    footer = {b"thinkscale": json.dumps({"schema_version": SCHEMA_VERSION, "trace_set_id": "t"}).encode()}
    table = pa.table({name: ["text"] for name in TABLES["answers"].names})
    pq.write_table(table.replace_schema_metadata(footer), path)


def _flipped(path):
    """One bit of one number, where neither a compression nor an encoding would notice."""
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    chunk = pq.read_metadata(path).row_group(0).column(table.column_names.index("completion_tokens"))
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 4] ^= 1
    path.write_bytes(bytes(data))


def _shortened(path):
    """As a flipped bit in the footer does: the file is sound, and rows are missing."""
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)


BROKEN = (_torn, _garbled, _empty, _text, _foreign, _other_columns, _other_types, _without_trace_set, _flipped, _shortened)


@pytest.mark.parametrize(("table", "spoil"), [(t, s) for t in ("samples", "answers") for s in BROKEN if (t, s) != ("samples", _flipped)])
def test_a_part_that_cannot_be_trusted_is_set_aside_and_said(copied, table, spoil, caplog):
    path = next(p for p in copied.parts(table) if "fake-100k" in pq.read_table(p)["model"].to_pylist())
    rows, whole = pq.read_table(path).num_rows, copied.read(table).num_rows
    spoil(path)
    spoiled = path.read_bytes()
    assert Store(copied.root).read(table).num_rows == whole - rows
    (aside,) = copied.quarantined()
    assert not path.exists() and aside.read_bytes() == spoiled and aside.name.startswith(f"{table}-{path.stem}-")
    assert f"{path}: not a whole part of this table" in caplog.text and str(aside) in caplog.text
    assert not (copied.folder("grades") / path.name).exists()  # grades of answers have their name
    assert copied.set_aside_orphans() == (table == "samples") and copied.set_aside_orphans() == 0
    assert len(copied.quarantined()) == 1 + (table == "samples")
    read_graded(copied.root)  # what is left is sound


def test_a_part_that_cannot_be_set_aside_is_an_error_that_says_what_to_do(copied):
    path = copied.parts("answers")[0]
    _torn(path)
    (copied.root / "quarantine").write_text("in the way")
    with pytest.raises(StoreError, match=r"not a whole part.*cannot be moved.*Move it away and run again") as error:
        copied.read("answers")
    assert str(path) in str(error.value) and path.exists()


def test_columns_that_came_later_are_null_in_parts_of_the_first_version(copied):
    later = {t: [c.name for c in TABLES[t].columns if c.since > 1] for t in ("samples", "answers", "grades")}
    assert later["samples"] and later["answers"]
    for table, names in later.items():
        for path in copied.parts(table):
            as_of_version(path, 1, names)
    store = Store(copied.root)
    for table, names in later.items():
        found = store.read(table)
        assert found.num_rows and all(found[name].null_count == found.num_rows for name in names)
    frame = read_graded(copied.root)
    assert frame["correct"].notna().all() and not store.quarantined()


def as_of_version(path, version, without):
    """A part as an earlier version wrote it."""
    old = pq.read_table(path).drop_columns(without)
    meta = json.loads(old.schema.metadata[b"thinkscale"]) | {"schema_version": version}
    old = old.replace_schema_metadata({**old.schema.metadata, b"thinkscale": json.dumps(meta).encode()})
    pq.write_table(old, path, write_page_checksum=True)


def test_grading_again_fills_the_errors_of_numbers_that_were_graded_before_they_were_kept(tmp_path):
    opened = study(tmp_path, benchmarks={"sums": {"problems": 8}})
    run_toy(opened)
    for path in opened.store.parts("grades"):
        as_of_version(path, 3, ["log10_error"])
    for path in opened.store.parts("answers"):  # the toy says no numbers
        said = pq.read_table(path)
        texts = pa.array([f"{i % 20}\n" if i % 3 else "none" for i in range(said.num_rows)])
        pq.write_table(said.set_column(said.schema.get_field_index("answer_text"), said.schema.field("answer_text"), texts), path)
    store = Store(opened.store.root)
    assert read_graded(store.root)["log10_error"].isna().all()
    grade_all(store, opened.known)
    frame = read_graded(store.root)
    assert (frame["log10_error"].notna() == frame["extracted_answer"].notna()).all() and frame["log10_error"].notna().any()
    assert ((frame["log10_error"] == -16) == frame["correct"]).all()


def test_a_part_of_another_version_is_an_error_and_stays(copied):
    path = copied.parts("answers")[1]
    _other_version(path)
    for read in (lambda: copied.read("answers"), lambda: read_graded(copied.root)):
        with pytest.raises(StoreError, match=rf"version {SCHEMA_VERSION + 1}, this reads versions 1 to {SCHEMA_VERSION}. Move") as error:
            read()
        assert str(path) in str(error.value) and path.exists()


def test_a_store_that_cannot_be_read_just_now_sets_nothing_aside(copied):
    path = copied.parts("answers")[0]
    data = path.read_bytes()
    path.unlink()
    path.mkdir()  # reading it is an OSError, as when a network filesystem is away
    with pytest.raises(OSError, match="directory"):
        copied.read("answers")
    assert not copied.quarantined()
    path.rmdir()
    path.write_bytes(data)
    assert copied.read("answers").num_rows == 288


def test_what_was_set_aside_is_owed_and_drawn_again_to_the_same_tables(tmp_path):
    opened = study(tmp_path)
    run_toy(opened, engine_seed=0)
    before = {t: rows(opened, t) for t in PARTS}
    for table in PARTS:
        for path in opened.store.parts(table)[:1]:
            _torn(path)
    opened.store.read("samples")
    opened.store.set_aside_orphans()
    assert 0 < sum(len(s.answers) for s in owed_shards(opened, "fake-100k")) < 144
    run_toy(opened, engine_seed=0)
    assert {t: rows(opened, t) for t in PARTS} == before and len(read_graded(opened.store.root)) == 144


@pytest.mark.parametrize("name", [".a.parquet.tmp", ".half.parquet", ".a.123.tmp", "notes.txt"])
def test_unfinished_files_of_killed_writers_are_no_parts(copied, name):
    before = copied.read("answers").num_rows
    (copied.folder("answers") / name).write_bytes(b"PAR1 half")
    assert copied.read("answers").num_rows == before
    assert len(pd.read_parquet([str(p) for p in copied.parts("answers")])) == before
    assert len(read_graded(copied.root)) == before


def test_parts_of_other_trace_sets_are_left_out(finished):
    (one,) = finished.trace_sets("fake-21k")
    table = finished.store.read("answers", ["trace_set_id", "model"], {one.trace_set_id})
    assert set(table["trace_set_id"].to_pylist()) == {one.trace_set_id}
    assert table.num_rows == finished.store.read("answers").num_rows // 2
    assert finished.store.read("answers", ["model"], set()).num_rows == 0


def test_graded_answers_are_one_tidy_frame(finished):
    frame = read_graded(finished.store.root)
    grades, scores = ([c for c in TABLES[t].names if c not in TABLES["answers"].names] for t in ("grades", "forced"))
    assert list(frame.columns) == [*TABLES["answers"].names, *grades, *scores, "forced_engine"]
    assert len(frame) == 2 * 12 * 4 * 3
    assert not frame[list(TABLES["answers"].key)].duplicated().any()
    assert frame[[*scores, "forced_engine"]].isna().all(axis=None), "nothing was scored"
    unasked = {*scores, "forced_engine", "tool_calls", "tool_valid", "tool_tokens"}
    assert set(frame.columns[frame.isna().any()]) - unasked <= {"extracted_answer", "answer_class", "log10_error"}
    assert isinstance(frame["model"].dtype, pd.CategoricalDtype) and frame["correct"].dtype == bool
    assert (frame["thinking_tokens"] <= frame["thinking_budget"]).all()
    assert (frame["completion_tokens"] == frame["thinking_tokens"] + frame["injected_tokens"] + frame["answer_tokens"]).all()


def test_an_answer_that_stands_twice_is_an_error_that_names_its_key(copied):
    part = copied.parts("answers")[0]
    shutil.copy(part, part.with_name("again.parquet"))
    with pytest.raises(StoreError, match=r"answers: key \{'cell_id': .* stands 2 times; the grain is one row per cell"):
        read_graded(copied.root)


def test_an_answer_without_a_grade_is_an_error_that_says_what_to_run(copied):
    copied.parts("grades")[0].unlink()
    with pytest.raises(StoreError, match=r"48 of 288 answers have no grade. Run: python flows/regrade.py"):
        read_graded(copied.root)


def test_an_answer_cut_from_a_trace_that_is_not_there_is_an_error(copied):
    copied.parts("samples")[0].unlink()
    with pytest.raises(StoreError, match=r"32 answers name a trace that is not in samples/.*sets such answers aside and draws them again"):
        read_graded(copied.root)


def test_grades_made_again_from_the_folder_are_the_same(finished, copied):
    before = {p.name: p.read_bytes() for p in copied.parts("grades")}
    for p in copied.parts("grades"):
        p.unlink()
    assert grade_all(copied, finished.known) == 288
    assert {p.name: p.read_bytes() for p in copied.parts("grades")} == before


@pytest.mark.parametrize("table", ["summary", "comparison", "claims"])
def test_pandas_duckdb_and_polars_read_the_derived_tables(finished, table):
    path = finished.store.root / f"{table}.parquet"
    frame = pd.read_parquet(path)
    assert list(frame.columns) == TABLES[table].names and (len(frame) > 0) == (table != "claims")
    assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(len(frame),)]
    assert pl.read_parquet(path).shape == frame.shape


@pytest.mark.parametrize("table", ["problems", "samples", "answers", "grades"])
def test_pandas_duckdb_and_polars_read_the_folders(finished, table):
    folder = finished.store.folder(table)
    (folder / ".killed.1.tmp").write_bytes(b"half")
    frame = pd.read_parquet(folder)
    count = finished.store.read(table).num_rows
    assert len(frame) == count and list(frame.columns) == TABLES[table].names
    assert duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall() == [(count,)]
    lazy = pl.scan_parquet(f"{folder}/*.parquet")
    assert lazy.select(pl.len()).collect().item() == count
    assert lazy.collect_schema().names() == TABLES[table].names
    assert ds.dataset([str(p) for p in finished.store.parts(table)], format="parquet").count_rows() == count


def test_the_engines_agree_on_a_number(finished):
    root = finished.store.root
    ours = read_graded(root).groupby(["model", "thinking_budget"], observed=True)["thinking_tokens"].sum()
    query = f"select model, thinking_budget, sum(thinking_tokens) from '{root}/answers/*.parquet' group by all"
    assert {(m, b): t for m, b, t in duckdb.sql(query).fetchall()} == ours.to_dict()
    frame = pl.scan_parquet(f"{root}/answers/*.parquet").group_by("model", "thinking_budget").agg(pl.col("thinking_tokens").sum())
    assert {(m, b): t for m, b, t in frame.collect().rows()} == ours.to_dict()


def test_derived_tables_are_replaced_at_once(finished, tmp_path):
    store, frame = Store(tmp_path), pd.read_parquet(finished.store.root / "summary.parquet")
    store.write_table("summary", frame)
    store.write_table("summary", frame.head(1))
    assert len(pd.read_parquet(tmp_path / "summary.parquet")) == 1
    store.write_json("manifest.json", {"a": 1})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"a": 1}
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "summary.parquet"]


def test_no_rows_make_an_empty_table_of_the_declared_columns():
    for declared in TABLES.values():
        assert table_from_rows(declared, []).schema.equals(declared.arrow)


def test_keys_that_were_kept_are_those_of_the_files_that_are_there(copied):
    columns = ["problem_id", "sample_index", "ended", "trace_budget"]
    sets = set(pc.unique(copied.read("samples", ["trace_set_id"])["trace_set_id"].cast(pa.string())).to_pylist())
    one = sorted(sets)[0]

    def told(of):
        kept, read = copied.read_keys("samples", columns, of), Store(copied.root).read("samples", columns, of)
        assert kept.to_pylist() == read.to_pylist() and kept.schema == read.schema
        return kept.num_rows

    assert 0 < told({one}) < told(sets)
    everybody = copied.read("samples", columns).to_pylist()
    some = {row["problem_id"] for row in everybody[::5]}
    assert copied.read_keys("samples", columns, sets, some).to_pylist() == [row for row in everybody if row["problem_id"] in some]
    assert copied.read_keys("samples", columns, sets, {"nobody"}).num_rows == 0 == copied.read_keys("samples", columns, sets, ()).num_rows
    for asked in (some, {"nobody"}, ()):  # with what is known of the parts and without
        expected = [row for row in everybody if row["problem_id"] in asked]
        assert all(store.read("samples", columns, sets, asked).to_pylist() == expected for store in (copied, Store(copied.root)))
    first, *_, last = copied.parts("samples")
    os.replace(last, first)  # another file under a name that was read
    assert told(sets) > 0
    copied.parts("samples")[0].unlink()
    told(sets)
