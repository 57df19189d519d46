"""A skill along one axis: size, thinking at one size, samples that vote, training; with granular metrics of the same answers.

Why: onset, emergence and thresholds ask the same question of different axes; here rows become curves over the same problems once.
What it does not do: fit or judge anything (see `onset`, `mirage`), or mix families, prompts, routes or samplings in one curve.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from thinkscale import cost
from thinkscale.inference import Floats, Pools, Resampling
from thinkscale.measure import Cell, Point, guessed, measure, shared, slices
from thinkscale.mirage import Granular
from thinkscale.sources import Chance
from thinkscale.tidy import refuse

Axis = Literal["size", "thinking", "samples", "training"]
_GRANULAR = ("brier", "gold_logprob", "partial")
"""Optional columns, the most telling first: a Brier score knows the wrong choices too, a gold answer's log-probability only its own."""
_RANGE = {"gold_logprob": (-np.inf, 0.0), "gold_tokens": (1, np.inf), "brier": (0.0, 2.0), "partial": (0.0, 1.0)}
_CONDITIONS = ("prompt", "route", "sampling")


class About(NamedTuple):
    """What the catalogue knows of a model beyond its rows."""

    family: str = "all"
    """Sizes of different families never stand in one curve."""
    training_tokens: float | None = None
    bits_per_byte: float | None = None


@dataclass(frozen=True)
class SkillCurve:
    """One skill along one axis, in rising order."""

    facts: dict[str, Any]
    """benchmark, skill, slice, prompt, route, sampling, family, axis, chance; model and thinking_budget are None where they vary,
    `at` names those that do not."""
    places: pd.DataFrame
    """A row for each place: model, params, training_tokens, training_flops, thinking_budget, k, cost_flops, bits_per_byte."""
    accuracy: Floats
    """Problems × places."""
    granular: tuple[Granular, ...]
    problems: pd.DataFrame
    """problem_id and cluster_id."""

    @property
    def x(self) -> Floats:
        """Place on the axis: parameters, FLOPs per problem, or tokens of training."""
        name = {"size": "params", "training": "training_tokens"}.get(self.facts["axis"], "cost_flops")
        return self.places[name].to_numpy(dtype=np.float64)

    def draw(self, pools: Pools) -> Resampling:
        """The bootstrap draws of these problems, shared by all that is said of them."""
        name = f"{self.facts['benchmark']} {self.facts['slice']}"
        return pools.get(name, self.problems["problem_id"].tolist(), self.problems["cluster_id"].tolist())


def skill_curves(
    graded: pd.DataFrame, summary: pd.DataFrame, chance: Mapping[str, Chance], about: Mapping[str, About], seed: int | str = 0
) -> list[SkillCurve]:
    """Every curve with at least three places at which all of the same problems (two clusters at least) have an accuracy.

    Over size and over thinking, accuracy is one sample's (pass@1); over samples it is maj@k, of whole benchmarks alone. Of models of one
    size in a family, checkpoints of a training, the size curve takes the one trained longest; the training curve takes all.

    Args:
        graded: one row per answer. `gold_logprob` with `gold_tokens` (log-probability of the gold answer, after the model's own thinking),
            `brier` and `partial` are used where they are there.
        summary: from `summarize` of the same rows; gives the costs.
        chance: accuracy of guessing, of each benchmark; or of each of its difficulties.
        about: of each model; one that is absent is taken to be of family "all", of unknown training.
        seed: fixes the subsets of weighted votes.
    Raises: TableError where a granular metric is out of its range.
    """
    for name, (low, high) in _RANGE.items():
        if name in graded:
            refuse(graded, (graded[name] < low) | (graded[name] > high), f"{name} must lie in [{low:g}, {high:g}], found {{{name}}}")
    rows = graded
    if "gold_logprob" in graded and "gold_tokens" in graded:
        rows = graded.assign(gold_logprob=-graded["gold_logprob"] / graded["gold_tokens"])  # the loss a token, so that lengths compare
    names = tuple(name for name in _GRANULAR if name in rows and (name != "gold_logprob" or "gold_tokens" in rows))
    costs = {(r.cell_id, r.slice, r.metric, r.k): r.cost_flops for r in summary.itertuples()}
    groups: dict[tuple[Any, ...], list[tuple[Cell, Point, dict[str, Any]]]] = {}
    for cell, slice_ in slices(measure(rows, names, seed)):
        part = Cell(cell.facts, cell.problems[slice_.rows].reset_index(drop=True), cell.points, cell.estimates[slice_.rows])
        for axis, point, fixed in _axes(part, about.get(cell.facts["model"], About())):
            if axis == "samples" and slice_.name != "all":
                continue  # as many as all the others together
            place = _place(part, point, costs, slice_.name, about.get(cell.facts["model"], About()))
            key = (cell.facts["benchmark"], slice_.name, *(cell.facts[c] for c in _CONDITIONS), place["family"], axis, *fixed)
            groups.setdefault(key, []).append((part, point, place))
    curves = [_curve(key, members, names, chance[key[0]]) for key, members in groups.items()]
    return [c for c in curves if c is not None]


def _axes(cell: Cell, about: About) -> Iterator[tuple[Axis, Point, tuple[Any, ...]]]:
    """The axes on which a cell's points stand, each with what is held fixed there: (model, thinking budget)."""
    model, budget = cell.facts["model"], int(cell.facts["thinking_budget"])
    single = Point("pass@k", 1)
    yield "size", single, (None, budget)
    yield "thinking", single, (model, None)
    if about.training_tokens is not None:
        yield "training", single, (f"{cell.facts['params']}", budget)
    for point in cell.points:
        if point.metric == "maj@k":
            yield "samples", point, (model, budget)


def _place(cell: Cell, point: Point, costs: Mapping[tuple[Any, ...], Any], slice_: str, about: About) -> dict[str, Any]:
    tokens = np.nan if about.training_tokens is None else float(about.training_tokens)
    return {
        **{name: cell.facts[name] for name in ("skill", "model", "params", "thinking_budget")},
        **{
            "family": about.family,
            "k": point.k,
            "training_tokens": tokens,
            "training_flops": float(cost.training_flops(cell.facts["params_active"], tokens)),
        },
        "cost_flops": float(costs.get((cell.facts["cell_id"], slice_, *point), np.nan)),
        "bits_per_byte": np.nan if about.bits_per_byte is None else about.bits_per_byte,
    }


def _curve(
    key: tuple[Any, ...], members: list[tuple[Cell, Point, dict[str, Any]]], names: tuple[str, ...], chance: Chance
) -> SkillCurve | None:
    """A curve over the problems that all places have; places without an accuracy or a place on the axis are left out."""
    axis = key[6]
    by = {"size": "params", "training": "training_tokens"}.get(axis, "cost_flops")
    members = [m for m in members if np.isfinite(m[2][by]) and m[2][by] > 0 and not np.isnan(_column(m[0], m[1])).any()]
    members = sorted(members, key=lambda m: (m[2][by], np.nan_to_num(m[2]["training_tokens"]), m[2]["model"]))
    last = {m[2][by]: m for m in members}  # of equal places the one trained longest
    members = list(last.values())
    if len(members) < 3:
        return None
    problems, at = shared([cell for cell, _, _ in members])
    if problems["cluster_id"].nunique() < 2:
        return None
    accuracy = np.column_stack([_column(cell, point)[i] for (cell, point, _), i in zip(members, at, strict=True)])
    granular = []
    for name in names if axis != "samples" else ():
        value = np.column_stack([cell.problems[name].to_numpy(float)[i] for (cell, _, _), i in zip(members, at, strict=True)])
        if not np.isnan(value).any() and not np.array_equal(value, accuracy):  # all or nothing is not granular
            granular.append(Granular(name, value, closeness=name == "partial"))
    places = pd.DataFrame([place for _, _, place in members])
    named = ("benchmark", "slice", *_CONDITIONS, "family", "axis", "model", "thinking_budget")
    facts = {
        **dict(zip(named, key, strict=True)),
        "skill": places["skill"].iloc[0],
        "chance": guessed(chance, problems["difficulty"]),
    }
    facts["model"] = places["model"].iloc[-1] if axis == "training" else facts["model"]
    held = {"model": facts["model"], "budget": facts["thinking_budget"]}
    facts["at"] = ", ".join(f"{name}={value}" for name, value in held.items() if value is not None)
    return SkillCurve(facts, places, accuracy, tuple(granular), problems[["problem_id", "cluster_id"]].reset_index(drop=True))


def _column(cell: Cell, point: Point) -> Floats:
    return np.asarray(cell.estimates[:, cell.points.index(point)])
