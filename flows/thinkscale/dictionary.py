"""The data dictionary, `results/README.md`, made from `schema`: python -m thinkscale.dictionary (in `flows/`) writes it again.

Why: a dictionary that is typed in by hand drifts; a test compares the file with what stands here.
What it does not do: read any results.
"""

import pyarrow as pa

from thinkscale.columns import Column, Table
from thinkscale.config import FLOWS
from thinkscale.schema import SCHEMA_VERSION, TABLES

PATH = FLOWS.parent / "results" / "README.md"


def dictionary() -> str:
    """The whole file."""
    return HEAD.format(version=SCHEMA_VERSION) + "".join(_section(table) for table in TABLES.values())


def type_name(type_: pa.DataType) -> str:
    """An Arrow type for people: as pandas, DuckDB and polars show it, without its encoding."""
    if pa.types.is_dictionary(type_):
        return type_name(type_.value_type)
    if pa.types.is_list(type_):
        return f"list of {type_name(type_.value_type)}"
    return {"double": "float64"}.get(str(type_), str(type_))


def _section(table: Table) -> str:
    rows = "".join(_row(table, column) for column in table.columns)
    key = ", ".join(f"`{name}`" for name in table.key)
    grain = table.grain[0].upper() + table.grain[1:]
    return f"\n## {table.name}\n\n{grain}.\nKey: {key}.\n\n| column | type | meaning |\n|---|---|---|\n{rows}"


def _row(table: Table, column: Column) -> str:
    name = f"**{column.name}**" if column.name in table.key else column.name
    return f"| {name} | {type_name(column.type)}{', may be null' if column.nullable else ''} | {column.doc} |\n"


HEAD = """# Results: what is in a folder, a table, a column

Made from `flows/thinkscale/schema.py` by `python -m thinkscale.dictionary` (run in `flows/`); a test compares the two.
Schema version {version}.

```
results/<experiment>/
  manifest.json        what made it: the YAML resolved, commit, package versions, device, hashes of models, prompts and benchmarks
  problems/            what was asked, with the gold answers
  samples/             the thinking traces, drawn once at the largest budget
  answers/             what was answered at every budget
  grades/              was it right; made again from problems/ and answers/ by `flows/regrade.py`
  loss/                loss of each model on a text, where the YAML asks for it; `loss.parquet` is the same in one file
  scores/              what a scorer said of every answer, where the YAML has one
  engine/              what the engines did, a row every few seconds; `engine.parquet` is the same in one file
  summary.parquet      accuracy with interval and cost of every point
  compliance.parquet   thinking asked for and thinking spent, of every cell
  comparison.parquet   smaller model thinking more against bigger model
  claims.parquet       the comparisons that the YAML named beforehand
  scaling.parquet      the laws that losses and errors follow over sizes, tokens and losses
  forecast.parquet     the largest size of each skill, forecast from the smaller ones and scored
  findings.md          what the tables say, in sentences, each with its number, interval and table row
  plots/               pictures of the summary; `flows/analyze.py` makes plots, these tables and engine.parquet again
  claims/              who is working on what just now; empty when nothing is owed
  quarantine/          parts that were not whole or not ours, set aside; what they held is owed again
  logs/                what the engines printed (with results in an object store: on the disk of the machine, under results/)
```

`problems/`, `samples/`, `answers/` and `grades/` hold Parquet parts: read a folder as one table, in pandas with
`pd.read_parquet("results/nano/answers")`, in DuckDB `"results/nano/answers/*.parquet"`. A part is written whole and, but for grades,
never changed. Its name means nothing: every row carries its keys. `thinkscale.graded.read_graded("results/nano")` gives answers and grades
as one frame, after checking that keys are unique and that every answer has its trace and its grade. A folder may hold more than the YAML
asks for now (earlier budgets, samples, problems); `flows/analyze.py` takes what it asks for. Below, columns of the key stand in bold.
"""

if __name__ == "__main__":
    PATH.write_text(dictionary())
