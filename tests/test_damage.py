"""A part that rotted is found in whichever column it rotted, and the next run makes it again."""

import pyarrow.parquet as pq
import pytest

from fakes import FAKE_VLLM, eventually, processes, rows, run_fake, start_child, study
from thinkscale.plan import owed_shards

TABLES = ("problems", "samples", "answers", "grades")


def opened_in(folder):
    folder.mkdir()
    return study(folder, benchmarks={"sums": {"problems": 16}}, engine={"command": list(FAKE_VLLM), "concurrency": 4})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    opened = opened_in(tmp_path_factory.mktemp("undisturbed") / "study")
    run_fake(opened)
    return {table: rows(opened, table) for table in TABLES}


def flip(path, column):
    """Change one bit at the end of a column's data (headers of pages have no checksum, and hold nothing that is not also elsewhere)."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    (chunk,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.split(".")[0] == column]
    data = bytearray(path.read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    data[begin + chunk.total_compressed_size - 6] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("table", "column", "killed_before"),
    [
        ("samples", "thinking_token_ids", ("answers", 2)),
        ("samples", "thinking", ("answers", 2)),
        ("problems", "answer", ("grades", 2)),
        ("problems", "question", ("grades", 2)),
        ("answers", "answer_text", ("grades", 2)),
    ],
)
def test_a_flipped_bit_costs_what_the_part_held_and_no_more(tmp_path, undisturbed, table, column, killed_before):
    opened = opened_in(tmp_path / "study")
    start_child(opened, killed_before).communicate(timeout=60)
    assert eventually(lambda: not processes(opened), 30)
    for path in opened.store.parts(table):
        flip(path, column)
    spoiled = len(opened.store.parts(table))
    run_fake(opened)
    assert sum(p.name.startswith(f"{table}-") for p in opened.store.quarantined()) == spoiled > 0
    assert owed_shards(opened, "fake-100k") == [] and {t: rows(opened, t) for t in TABLES} == undisturbed
