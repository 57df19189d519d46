import pyarrow as pa
import pytest

from thinkscale.dictionary import PATH, dictionary, type_name
from thinkscale.schema import TABLES


def test_the_file_is_what_the_declarations_say():
    assert PATH.read_text() == dictionary(), "run `python -m thinkscale.dictionary` in flows/"


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_every_table_and_column_is_explained_by_a_sentence(table):
    section = dictionary().split(f"\n## {table.name}\n")[1].split("\n## ")[0]
    for column in table.columns:
        assert f"| {column.name} |" in section or f"| **{column.name}** |" in section
        assert column.doc[0].isupper() or column.doc[0] == "`"
        assert column.doc.endswith((".", "?")) and "|" not in column.doc
    assert set(table.key) <= set(table.names) and len(set(table.names)) == len(table.names)
    assert not any(c.nullable for c in table.columns if c.name in table.key)


def test_types_are_named_as_readers_see_them():
    found = [type_name(t) for t in (pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.int32()), pa.float64(), pa.bool_())]
    assert found == ["string", "list of int32", "float64", "bool"]
