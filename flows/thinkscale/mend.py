"""Puts a results folder in order before it is worked on or read: what killed runs and broken disks left.

Why: a torn part, an answer without its trace or without a grade must cost what it held and no more, never a whole run or analysis.
What it does not do: draw anything again (that is owed then), delete anything but grades and temporary files of dead writers.
"""

from collections.abc import Sequence

from thinkscale import files
from thinkscale.claims import FOLDER as CLAIMS
from thinkscale.grades import grade_part, publish_problems, read_problems
from thinkscale.plan import Study
from thinkscale.store import PARTS


def mend(study: Study, models: Sequence[str]) -> None:
    """Nothing rotten, nothing of these models orphaned, and what `settle` does: reads every byte of these models' parts.

    Raises: StoreError where the folder cannot be written to.
    """
    store, ours = study.store, {t.trace_set_id for model in models for t in study.trace_sets(model)}
    store.verify("samples", ours)
    store.verify("answers", ours)
    store.verify("forced", ours)
    store.verify("grades")
    store.verify("scores", ours)
    store.set_aside_orphans(ours)
    store.drop_scores()
    settle(study)


def settle(study: Study) -> None:
    """Nothing abandoned, nothing ungraded, every problem in `problems`."""
    store = study.store
    names = (*PARTS, "scores", "engine", "loss", "plots", CLAIMS) if files.is_local(store.root) else ()  # a put is whole by itself
    for folder in (store.root, *(store.root / name for name in names)):
        files.remove_abandoned(folder)
    for benchmark in study.config.benchmarks:
        publish_problems(store, study.known[benchmark], study.problems(benchmark))
    grade_ungraded(study)


def grade_ungraded(study: Study) -> int:
    """Grade the parts of answers that a killed run left without grades. Returns how many parts."""
    graded = {p.name for p in study.store.parts("grades")}
    left = [p.stem for p in study.store.parts("answers") if p.name not in graded]
    problems = read_problems(study.store) if left else {}
    for name in left:
        grade_part(study.store, name, study.known, problems)
    return len(left)
