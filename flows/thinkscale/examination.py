"""How good the ladder's verifier is, on held-out problems: areas under the ROC curve, the best of four by its score, its model card.

Why: a verifier that was never tested off its training problems is a guess; the card says what was measured, with intervals over problems.
What it does not do: train it (see `verifier`), ask an engine.
"""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thinkscale.estimators import best_of_k
from thinkscale.inference import Interval, quantiles, resample
from thinkscale.problems import held_out_drafts
from thinkscale.teaching import FIRST
from thinkscale.verifier import FOLDER, THINKING, Reading, answered, checkpoint, fix_seed, scores

SEED = -2
"""Of the held-out problems: not those of the losses, nor of a benchmark."""
MODELS = ("10k", "21k", "46k", "100k", "215k", "464k")
PROBLEMS = 6
"""Of every level."""
SAMPLES = 4
DRAWS = 2000


def examination(problems: int = PROBLEMS, models: Sequence[str] = MODELS, budgets: Sequence[int] = (0, 10, THINKING)) -> list[Reading]:
    """Answers to held-out problems, so many of every level, which neither the ladder nor the verifier ever saw in training."""
    fix_seed(SEED)
    skills = [(g, level) for g in FIRST.skills.values() for level in g.levels]
    drawn = [(g, d) for g, level in skills for d in itertools.islice(held_out_drafts(g, level, SEED), problems) for _ in range(SAMPLES)]
    return [r for name in models for r in answered(checkpoint(name), name, drawn, [budgets] * len(drawn))]


class Measured(NamedTuple):
    """A number with its 95 % interval over problems."""

    value: float
    low: float
    high: float


def area(score: ArrayLike, right: ArrayLike, weight: ArrayLike | None = None) -> float:
    """P(a right answer's score is above a wrong one's), ties half: the area under the ROC curve (Hanley and McNeil 1982).

    Args: weight: how often each row counts. Returns: NaN where all rows are right, or wrong.
    """
    by, is_right = np.asarray(score, float), np.asarray(right, bool)
    times = np.ones(len(by)) if weight is None else np.asarray(weight, float)
    _, level = np.unique(by, return_inverse=True)
    good, bad = (np.bincount(level, weights=times * chosen, minlength=int(level.max(initial=0)) + 1) for chosen in (is_right, ~is_right))
    pairs = good.sum() * bad.sum()
    below = np.cumsum(bad) - bad
    return float((good * (below + bad / 2)).sum() / pairs) if pairs > 0 else float("nan")


def area_over_problems(score: ArrayLike, rows: Sequence[Reading], draws: int = DRAWS) -> Measured:
    """The area over all rows; the bootstrap draws problems with all their rows."""
    right, problems = np.array([r.right for r in rows]), [r.question for r in rows]
    names, at = np.unique(problems, return_inverse=True)
    drawn = resample(names.tolist(), draws, 0, "verifier")
    found = np.array([area(score, right, weights[at]) for weights in drawn.weights])
    return Measured(area(score, right), *_ends(quantiles(found[None, :])))


def area_within(score: ArrayLike, rows: Sequence[Reading], draws: int = DRAWS) -> Measured:
    """The same among answers of one model to one problem at one budget, where some are right and some wrong: what a best of k lives on.

    Cells are averaged within problems, then problems; those without such a cell do not count.
    """
    by, cells = np.asarray(score, float), dict[tuple[str, str, int], list[int]]()
    for i, row in enumerate(rows):
        cells.setdefault((row.question, row.model, row.budget), []).append(i)
    of_problem: dict[str, list[float]] = {}
    for (question, _, _), mine in cells.items():
        found = area(by[mine], [rows[i].right for i in mine])
        if not math.isnan(found):
            of_problem.setdefault(question, []).append(found)
    values = np.array([np.mean(areas) for areas in of_problem.values()])
    drawn = resample(list(of_problem), draws, 0, "verifier within")
    return Measured(float(values.mean()), *_ends(quantiles((drawn.weights @ values)[None, :])))


def _ends(found: Interval) -> tuple[float, float]:
    return float(found.low[0]), float(found.high[0])


def gain(score: ArrayLike, rows: Sequence[Reading], draws: int = DRAWS) -> Measured:
    """Accuracy of a cell's best sample by score minus that of one sample, paired: mean over cells within problems, then problems."""
    names, at = np.unique([f"{r.question}\n{r.model}\n{r.budget}" for r in rows], return_inverse=True)
    found = best_of_k([r.right for r in rows], score, at, [1, SAMPLES])
    questions, problem = np.unique([str(name).split("\n")[0] for name in names], return_inverse=True)
    values = np.bincount(problem, weights=found[:, 1] - found[:, 0]) / np.bincount(problem)
    drawn = resample(questions.tolist(), draws, 0, "verifier gain")
    return Measured(float(values.mean()), *_ends(quantiles((drawn.weights @ values)[None, :])))


def examine(folder: Path = FOLDER, rows: Sequence[Reading] = ()) -> Path:
    """Measure a trained verifier on held-out problems; writes `examination.json` and the model card. Returns the card.

    Args: rows: what it is asked; none: an `examination` is drawn.
    """
    rows = list(rows) or examination()
    said = scores(rows, folder)
    found: dict[str, Any] = {"problems": len({r.question for r in rows}), "answers": len(rows), "models": MODELS, "seed": SEED}
    for name, budget in (("all", None), *((str(b), b) for b in sorted({r.budget for r in rows}))):
        mine = [i for i, r in enumerate(rows) if budget in (None, r.budget)]
        some = [rows[i] for i in mine]
        measured = {"area": area_over_problems, "within": area_within, "gain": gain}
        found[name] = {what: [round(x, 4) for x in measure(said[mine], some)] for what, measure in measured.items()}
        found[name]["right"] = round(float(np.mean([r.right for r in some])), 4)
    (folder / "examination.json").write_text(json.dumps(found, indent=2) + "\n")
    return write_card(folder)


def write_card(folder: Path = FOLDER) -> Path:
    """Write the model card from what training and examination wrote."""
    trained, found = (json.loads((folder / f"{name}.json").read_text()) for name in ("training", "examination"))
    lines = []
    for budget in [key for key, value in found.items() if isinstance(value, dict)]:
        what = found[budget]
        numbers = (f"{what[name][0]:.3f} [{what[name][1]:.3f}, {what[name][2]:.3f}]" for name in ("area", "within"))
        points = f"{100 * what['gain'][0]:+.1f} [{100 * what['gain'][1]:+.1f}, {100 * what['gain'][2]:+.1f}]"
        lines.append(f"| {budget} | {what['right']:.1%} | {' | '.join(numbers)} | {points} |")
    told = {key: ", ".join(value) if isinstance(value, list) else value for key, value in trained.items()}
    path = folder / "README.md"
    path.write_text(
        CARD.format(
            **{**told, "table": "\n".join(lines), "samples": SAMPLES, "read": trained["answers"], "share": f"{trained['right']:.0%}"},
            **{"examined": ", ".join(found["models"]), "answered": found["answers"], "asked": found["problems"], "seed": found["seed"]},
        )
    )
    return path


CARD = """# The ladder's verifier: how likely an answer is right

A sequence classifier with one class (`LlamaForSequenceClassification`, the width of ladder-{start}, bf16), served by vLLM with
`--runner pooling`; in an experiment: `scorer: ladder-verifier`. Trained and measured by `python flows/train_ladder.py --verifier`.

| thinking budget | answers right | area under the ROC curve | the same within cells | best of {samples} minus one, points |
|---|--:|--:|--:|--:|
{table}

- **Measured** on {answered:,} answers of {examined} to {asked} held-out problems of sums, swaps and mapping (a tenth of all questions that
  neither the ladder nor the verifier is trained on; seed {seed}, no benchmark's). Intervals: 95 %, bootstrap over problems.
- **Area**: chance that a right answer scores above a wrong one, over models, problems and budgets together: much of it is telling hard
  problems and short thinking from easy and long. **Within cells**: among the {samples} answers of one model to one problem at one budget,
  some right and some wrong, which is what choosing lives on. **Best of {samples} minus one**: accuracy of the answer with the highest score
  minus that of one answer, over all cells, those where nothing can be gained included.
- **Trained** on {read:,} answers ({share} right) of {teachers} to training problems,
  each trace answered at a random budget and at the largest, {steps} steps of {batch}. The grader judges the last token, the worked solution
  every token before it. It starts from ladder-{start}.
- **Limits.** It tells hard problems and unfinished thinking, and is not shown to choose among answers of one cell: take it to see the path,
  not for accuracy. It knows the ladder's three skills and one way to think; of answers of other models its scores mean nothing. Of two runs
  measured on these same problems the smaller ships; the other (from ladder-215k, 600 steps of 96: area 0.835 [0.805, 0.861], within cells
  0.577 [0.505, 0.649], best of 4 minus one -0.9 [-2.1, +0.3]) learned its training answers better and these no better.
"""
