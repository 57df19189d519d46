"""What a table and a column are, for `schema` and `extrapolations`.

Why: the declarations fill two modules; what they are made of stands once.
What it does not do: declare any table.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

TableName = Literal["problems", "samples", "answers", "grades", "engine", "summary", "comparison", "claims", "scaling", "forecast"]


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, what it means, and whether null is a value it may take."""

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False


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
