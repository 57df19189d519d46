"""Grades of stored answers, part by part, and the problems that grading needs.

Why: a grade is a function of an answer and its problem, so it can be made again at any time, without an engine; the problems lie beside the
answers, so that anybody can.
What it does not do: judge an answer (see `grading`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from thinkscale.config import digest
from thinkscale.generate import TOO_LONG
from thinkscale.grading import Grade, grade_many, grader_version
from thinkscale.problems import Benchmark, Problem
from thinkscale.store import Store


def grade_part(store: Store, name: str, benchmarks: Mapping[str, Benchmark], problems: Mapping[str, Problem]) -> int:
    """Grade one part of answers, given its problems by id, and publish the grades under the same name. Returns how many are correct."""
    columns = ["benchmark", "cell_id", "problem_id", "sample_index", "ended", "answer_text", "answer_finish"]
    answers = store.read_part("answers", name, columns).to_pylist()
    rows = []
    for answer, found in _graded(answers, benchmarks, problems):
        rows.append(
            {
                "cell_id": answer["cell_id"],
                "problem_id": answer["problem_id"],
                "sample_index": answer["sample_index"],
                "correct": found.correct,
                "correct_unforced": found.correct and answer["ended"] != "cut",
                "partial": found.partial,
                "log10_error": found.log10_error,
                "status": found.status,
                "extracted_answer": found.extracted_answer,
                "answer_class": found.answer_class,
                "grader_version": graded_by(benchmarks[answer["benchmark"]]),
            }
        )
    store.publish("grades", name, rows, replace=True)
    return sum(row["correct"] for row in rows)


def _graded(
    answers: list[dict[str, Any]], benchmarks: Mapping[str, Benchmark], problems: Mapping[str, Problem]
) -> Iterator[tuple[dict[str, Any], Grade]]:
    """Each answer with its grade; a part is of one trace set, so of one grader."""
    for grader in dict.fromkeys(benchmarks[a["benchmark"]].grader for a in answers):
        some = [a for a in answers if benchmarks[a["benchmark"]].grader == grader]
        asked = [a for a in some if a["answer_finish"] != TOO_LONG]
        stated = {a["problem_id"]: _as_stated(benchmarks[a["benchmark"]], problems[a["problem_id"]]) for a in asked}
        grades = iter(grade_many(grader, [(a["answer_text"], stated[a["problem_id"]], a["answer_finish"] == "length") for a in asked]))
        for answer in some:
            too_long = answer["answer_finish"] == TOO_LONG
            yield answer, Grade(False, 0.0, "too_long", None, None) if too_long else next(grades)


def graded_by(benchmark: Benchmark) -> str:
    """The column `grader_version`: the grader, and the threshold where the benchmark states one."""
    stated = "" if benchmark.correct_from is None else f" from {benchmark.correct_from:g}"
    return grader_version(benchmark.grader) + stated


def _as_stated(benchmark: Benchmark, problem: Problem) -> Problem:
    """The problem with the threshold that its benchmark states by now: it needs no new answer."""
    if benchmark.correct_from is None:
        return problem
    return replace(problem, metadata=json.dumps({**json.loads(problem.metadata), "correct_from": benchmark.correct_from}))


def grade_all(store: Store, benchmarks: Mapping[str, Benchmark]) -> int:
    """Grade every part of answers again, in place of its grades; problems come from the results folder. Returns how many answers."""
    problems, count = read_problems(store), 0
    for path in store.parts("answers"):
        grade_part(store, path.stem, benchmarks, problems)
        count += store.read_part("grades", path.stem, ["correct"]).num_rows
    return count


def read_problems(store: Store) -> dict[str, Problem]:
    """All problems of a results folder, by id."""
    columns = ["problem_id", "cluster_id", "question", "answer", "difficulty", "choices", "metadata"]
    rows = store.read("problems", columns).to_pylist()
    return {row["problem_id"]: Problem(**{**row, "choices": tuple(row["choices"])}) for row in rows}


def publish_problems(store: Store, benchmark: Benchmark, problems: tuple[Problem, ...]) -> None:
    """Keep what was asked, so that anybody can grade again; only problems that are not there yet."""
    there = store.read("problems").to_pylist()  # every column: damage is only found in what is read, and grading needs them all
    known = {row["problem_id"] for row in there if row["benchmark"] == benchmark.name}
    new = [p for p in problems if p.problem_id not in known]
    columns = ("problem_id", "cluster_id", "difficulty", "question", "answer", "choices", "metadata")
    rows = [{"benchmark": benchmark.name, "skill": benchmark.skill, **{c: getattr(p, c) for c in columns}} for p in new]
    if new:
        store.publish("problems", f"{benchmark.name}-{digest([p.problem_id for p in new])}", rows)
