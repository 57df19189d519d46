"""Benchmarks: generated ones are stable, balanced and never trained on; files of the hub's layout are read or refused."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from thinkscale.config import FLOWS, ConfigError, HubBenchmark
from thinkscale.grading import check_golds, grade
from thinkscale.loading import load_catalogue
from thinkscale.problems import GENERATED, Generated, benchmarks, held_out, training_draft

KNOWN = benchmarks(load_catalogue())


@pytest.mark.parametrize("name", GENERATED)
def test_a_prefix_does_not_depend_on_the_number(name: str) -> None:
    assert KNOWN[name].load(40, 0)[:15] == KNOWN[name].load(15, 0)


@pytest.mark.parametrize("name", GENERATED)
def test_problems_are_distinct_balanced_and_held_out(name: str) -> None:
    found = KNOWN[name].load(60, 0)
    assert len({p.question for p in found}) == len({p.problem_id for p in found}) == 60
    assert all(held_out(p.question) for p in found)
    counts = Counter(p.difficulty for p in found)
    assert set(counts) == {float(level) for level in GENERATED[name].levels} and max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", GENERATED)
def test_another_seed_gives_other_problems(name: str) -> None:
    first, second = ({p.problem_id for p in KNOWN[name].load(40, seed)} for seed in (0, 1))
    assert len(first & second) < 10
    assert KNOWN[name].identity(0) != KNOWN[name].identity(1)


@pytest.mark.parametrize("generated", GENERATED.values(), ids=lambda g: g.name)
def test_training_never_sees_a_held_out_question(generated: Generated) -> None:
    rng = random.Random(0)
    assert not any(held_out(training_draft(generated, rng).question) for _ in range(300))


def test_answers_are_right_by_another_way_of_computing_them() -> None:
    rng = random.Random(0)
    for _ in range(50):
        draft = GENERATED["sums"].draw(rng, 4)
        assert int(draft.answer) == sum(map(int, draft.question.rstrip("=").split("+")))
        start, *moves = GENERATED["swaps"].draw(rng, 5).question.split(" ")
        mapping = GENERATED["mapping"].draw(rng, 3)
        *pairs, asked = mapping.question.split(" ")
        word, follows = asked.strip("?>"), dict(pairs)
        for _ in range(asked.count(">")):
            word = word.translate(str.maketrans(follows))
        assert word == mapping.answer
        assert len(start) == 5 and all(len(move) == 2 for move in moves)


def test_swaps_end_where_the_moves_lead() -> None:
    rng = random.Random(1)
    for _ in range(50):
        draft = GENERATED["swaps"].draw(rng, 4)
        start, *moves = draft.question.split(" ")
        row = list(start)
        for i, j in ((int(m[0]) - 1, int(m[1]) - 1) for m in moves):
            row[i], row[j] = row[j], row[i]
        assert "".join(row) == draft.answer == draft.worked.split(" ")[-1]


@pytest.mark.parametrize("name", GENERATED)
def test_every_gold_answer_grades_correct(name: str) -> None:
    benchmark = KNOWN[name]
    check_golds(benchmark, benchmark.load(100, 0))
    for problem in benchmark.load(100, 0):
        found = grade(benchmark.grader, problem.answer, problem, truncated=False)
        assert found.correct and found.partial == 1.0 and found.status == "answered", problem


def _hub(folder: Path, file: str, **changes: object) -> HubBenchmark:
    settings = {
        "skill": "word problems",
        "source": str(folder),
        "file": file,
        "mean_prompt_tokens": 50,
        "grader": "number",
        "answer_after": "####",
    }
    return HubBenchmark.model_validate({**settings, "answer_after": "####", **changes})


ROWS = [{"question": "1 + 1?", "answer": "One and one.\n#### 2"}, {"question": "2 + 2?", "answer": "#### 4"}]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_files_of_the_hub_s_layout_are_read(tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pd.DataFrame(ROWS).to_parquet(tmp_path / "test.parquet")
    else:
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    catalogue = load_catalogue().model_copy(update={"benchmarks": {"mine": _hub(tmp_path, f"test.{ending}", problems=2)}})
    found = benchmarks(catalogue)["mine"].load(None, 0)
    assert [(p.question, p.answer) for p in found] == [("1 + 1?", "2"), ("2 + 2?", "4")]
    assert benchmarks(catalogue)["mine"].load(1, 0) == found[:1]


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        (ROWS, {"answer": "gold"}, "no column"),
        ([*ROWS, ROWS[0]], {}, "earlier row"),
        ([*ROWS, {"question": " ", "answer": "1"}], {}, "row 2: empty question"),
        ([*ROWS, {"question": "3?", "answer": None}], {}, "row 2: empty answer"),
        (ROWS, {"problems": 3}, "says 3"),
    ],
)
def test_an_unfit_file_is_refused(tmp_path: Path, rows: list[dict[str, str]], changes: dict[str, object], said: str) -> None:
    pd.DataFrame(rows).to_parquet(tmp_path / "test.parquet")
    hub = _hub(tmp_path, "test.parquet", **{"problems": len(rows), **changes})
    catalogue = load_catalogue().model_copy(update={"benchmarks": {"mine": hub}})
    with pytest.raises(ConfigError, match=said):
        benchmarks(catalogue)["mine"].load(None, 0)


def test_a_hub_that_cannot_be_reached_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    code = (
        "from thinkscale.loading import load_catalogue\nfrom thinkscale.problems import benchmarks\n"
        "benchmarks(load_catalogue())['gsm8k'].load(None, 0)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": str(FLOWS)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "set `source` to a local folder" in ran.stderr
