"""The README is true: its tree, its reading order, its YAML, its snippet, its data tables."""

import ast
import asyncio
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from thinkscale import evaluate, report, schema
from thinkscale.config import FLOWS
from thinkscale.plan import open_study

ROOT = FLOWS.parent
README = (ROOT / "README.md").read_text()
LIBRARY = FLOWS / "thinkscale"


def _blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def _tree() -> tuple[list[str], list[str]]:
    """Names under flows/ and the library's modules, in the README's order."""
    tree = next(b for b in _blocks("") if b.startswith("flows/"))
    top = re.findall(r"^  (\w[\w./]*)", tree, flags=re.MULTILINE)
    modules = re.findall(r"^    (\w+) ", tree, flags=re.MULTILINE)
    return top, modules


def _imports(module: str) -> set[str]:
    """Modules of the library that a module imports at its top level."""
    found: set[str] = set()
    for node in ast.parse((LIBRARY / f"{module}.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thinkscale"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def test_the_tree_names_every_file_and_nothing_else() -> None:
    top, modules = _tree()
    there = {p.name for p in FLOWS.iterdir() if p.suffix in (".py", ".yaml")}
    assert {name for name in top if not name.endswith("/")} == there
    assert set(modules) == {p.stem for p in LIBRARY.glob("*.py") if p.stem != "__init__"}


def test_a_module_imports_only_those_above_it() -> None:
    _, modules = _tree()
    for i, module in enumerate(modules):
        assert _imports(module) <= set(modules[:i]), module


def test_the_library_imports_no_engine_and_no_orchestrator_at_module_level() -> None:
    for path in LIBRARY.glob("*.py"):
        body = ast.parse(path.read_text()).body
        names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]
        assert not {n.split(".")[0] for n in names} & {"prefect", "vllm", "torch", "transformers"}, path.name


def test_the_annotated_yaml_loads(tmp_path: Path) -> None:
    (text,) = _blocks("yaml")
    (tmp_path / "mine.yaml").write_text(text)
    study = open_study(str(tmp_path / "mine.yaml"), tmp_path)
    assert study.config.name == "mine" and len(study.config.claims) == 1


def test_the_tables_and_keys_are_the_schema_s() -> None:
    rows = re.findall(r"^\| `(\w+)(?:/|\.parquet)` \| .* \| (.*) \|$", README, flags=re.MULTILINE)
    keys = dict(rows)
    assert set(keys) == set(schema.TABLES)
    for name, table in schema.TABLES.items():
        if keys[name] not in ("the same", "benchmark, slice, both sides"):
            assert keys[name].split(", ") == list(table.key), name


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> report.Analysis:
    """Of a results folder called ladder, made with the fake engine."""
    root = tmp_path_factory.mktemp("readme")
    config = {
        "name": "ladder",
        "asks": "Does the README's snippet run?",
        "models": ["ladder-100k", "ladder-1m"],
        "benchmarks": {"sums": {"problems": 10}},
        "thinking_budgets": [0, 16],
        "num_samples": 4,
        "answer_tokens": 8,
        "engine": {"command": [sys.executable, str(ROOT / "tests" / "fake_vllm.py")]},
    }
    (root / "ladder.yaml").write_text(yaml.safe_dump(config))
    study = open_study(str(root / "ladder.yaml"), root / "results")
    for model in study.config.models:
        asyncio.run(evaluate.evaluate(study, model))
    return report.analyze(study)


@pytest.fixture(scope="module")
def results(analysis: report.Analysis) -> Path:
    """The folder in which results/ladder is."""
    return Path(str(analysis.files[0])).parents[3]


def test_every_finding_names_a_row_that_exists(analysis: report.Analysis) -> None:
    tables = {path.stem: pd.read_parquet(path) for path in map(Path, map(str, analysis.files)) if path.suffix == ".parquet"}
    for finding in [f for said in analysis.findings.values() for f in said]:
        rows = tables[finding.table]
        for column, value in finding.row.items():
            rows = rows[rows[column] == value]
        assert len(rows), finding.text
    assert {"purchase", "targets", "split"} <= {f.table for said in analysis.findings.values() for f in said}


def test_the_snippet_runs_and_agrees_with_the_summary(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = _blocks("python")
    monkeypatch.chdir(results)
    names: dict[str, object] = {}
    exec(snippet, names)
    summary, per_problem = names["summary"], names["per_problem"]
    accuracy = per_problem.groupby(["model", "thinking_budget"], observed=True).mean()  # type: ignore[attr-defined]
    for row in summary[(summary.metric == "pass@k") & (summary.k == 1) & (summary.slice == "all")].itertuples():  # type: ignore[index,attr-defined]
        assert accuracy[(row.model, row.thinking_budget)] == pytest.approx(row.value)
