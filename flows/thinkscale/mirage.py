"""Emergent, mirage or smooth? The decision rule on one set of outputs, graded twice: pass or fail, and by a granular metric.

Why: exact match turns a steady gain per token into a jump (Schaeffer, Miranda, Koyejo 2023, arXiv:2304.15004), so a kink in accuracy counts
as emergence only where a granular metric of the same answers has one too, beyond the scatter from model to model.
What it does not do: decide with fewer than six places on the axis, or over less than 1.5 decades. Where there is no granular metric the
strongest label is "apparent emergence (metric not checked)".

The rule, on bootstrap draws of problems:
A  signal: best accuracy more than 0.05 above chance (2.5 % quantile), and it does not fall by 0.1 on its way; otherwise nothing is said.
B  apparent kink: the slope of accuracy over log size rises, to more than three times what it was (places past the ceiling are left out);
   or half of the whole rise lies between two neighbours, not the first two.
C  granular kink: G = log loss bends down by more than its mean slope, and a sup-F test of bend against line, whose null has the scatter
   of models in it, gives p < 0.05 after Benjamini-Hochberg over all skills. No kink: the bend is smaller than the mean slope.
D  forecast: accuracy of the largest from its granular loss (link fitted on the others) within 5 points, and its loss on the others' line.
`mirage` = B, no kink and no sup-F in C, D. `emergent` = B and both of C. `smooth` = no B. A label is adopted at 0.9 of the draws.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from thinkscale.inference import ALPHA, Floats, Resampling, benjamini_hochberg, generator
from thinkscale.onset import SIGNAL, hinge, rising

Label = Literal["smooth", "mirage", "emergent", "apparent emergence (metric not checked)", "inconclusive"]
Bools = NDArray[np.bool_]

SIZES, DECADES, ADOPTED = 6, 1.5, 0.9
STEEPER = 3.0
STEP = 0.5
FALLEN = 0.1
WITHIN = 0.05
_FLAT = 1e-9
"""A slope that changes by less is rounding: of the same accuracies everywhere, which another processor sums otherwise."""
_NULL_DRAWS = 4000
_SEEN = 5
"""Problems with any loss that a size needs for its granular mean to say something."""
_LINKS = np.geomspace(0.05, 200.0, 160)


@dataclass(frozen=True)
class Granular:
    """A granular metric of the answers that accuracy grades pass or fail."""

    name: str
    value: Floats
    """Problems × sizes: a loss of at least 0, or closeness in [0, 1]."""
    closeness: bool = False

    def level(self, weights: Floats) -> Floats:
        """G: log of the mean loss (of closeness: of -log of its mean), a row for each row of weights."""
        mean = weights @ self.value
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(np.maximum(-np.log(mean), 0) if self.closeness else mean))

    def seen(self) -> Bools:
        """Sizes at which enough problems have a loss, and not all of them a boundless one."""
        lossy = self.value < 1 if self.closeness else self.value > 0
        known = self.value.any(axis=0) if self.closeness else np.isfinite(self.value).all(axis=0)
        return np.asarray((lossy.sum(axis=0) >= _SEEN) & known)

    def linked(self) -> Floats:
        """Probability of passing that each strength of the link gives: links × problems × sizes."""
        if self.closeness:
            return np.asarray(self.value[None] ** _LINKS[:, None, None])
        return np.asarray(np.exp(-self.value[None] * _LINKS[:, None, None]))


class Evidence(NamedTuple):
    """What the rule looks at; arrays have a number for each bootstrap draw."""

    refusal: str
    """Why nothing can be said; empty otherwise."""
    kink: Bools
    """B."""
    checked: str
    """Empty, or why there is no granular side."""
    bends: Bools
    """C: bends down by more than the mean slope."""
    straight: Bools
    """C: bends by less than the mean slope either way."""
    relative: Floats
    """Change of the granular slope over the mean slope; -1: twice as steep by so much."""
    p: float
    """Of the sup-F test."""
    linked: Bools
    """D: accuracy at the largest forecast within 5 points."""
    on_line: bool
    """D: the largest's loss lies in the others' prediction interval."""


class Verdict(NamedTuple):
    """The label, and the share of bootstrap draws that each label got."""

    label: Label
    why: str
    smooth: float
    mirage: float
    emergent: float
    p_adjusted: float


_NOBODY = np.zeros(0, dtype=bool)


def evidence(x: Floats, accuracy: Floats, floor: float, draws: Resampling, granular: Granular | None) -> Evidence:
    """Weigh one skill along one axis.

    Args:
        x: log10 of size (or of test-time FLOPs at one size), rising.
        accuracy: problems × sizes, each the mean over samples.
        floor: accuracy of guessing.
        draws: bootstrap draws of these problems.
        granular: None where there is none.
    """
    refusal = _refusal(x, accuracy, floor, draws)
    if refusal:
        return Evidence(refusal, _NOBODY, "", _NOBODY, _NOBODY, np.zeros(0), float("nan"), _NOBODY, False)
    mean, means = accuracy.mean(axis=0), draws.weights @ accuracy
    used = rising(mean, floor)
    bend = hinge(x[:used], means[:, :used])
    kink = (bend.change > _FLAT) & (bend.before + bend.change > STEEPER * np.maximum(bend.before, 0))
    # A curve that has risen and levelled off within a few sizes hides its kink from a hinge, which sees the levelling off
    steps = np.diff(means, axis=1)
    kink |= (steps[:, 1:].max(axis=1) > STEP * (means.max(axis=1) - means[:, 0])) & (steps[:, 1:].max(axis=1) > SIGNAL)
    seen = np.zeros(len(x), bool) if granular is None else granular.seen()
    if granular is None or seen.sum() < SIZES:
        unchecked = f"{granular.name} says nothing at all but {seen.sum()} places" if granular else "no granular metric"
        return Evidence("", kink, unchecked, _NOBODY, _NOBODY, np.zeros(0), float("nan"), _NOBODY, False)
    part = Granular(granular.name, granular.value[:, seen], granular.closeness)
    fitted = hinge(x[seen], np.nan_to_num(part.level(draws.weights), neginf=-50.0, posinf=50.0))
    relative = fitted.change / np.maximum(np.abs(fitted.line), 1e-9)
    level = part.level(np.full((1, len(accuracy)), 1 / len(accuracy)))
    p = sup_f_p(tuple(x[seen] - x[seen][0]), float(hinge(x[seen], level).sup_f[0]))
    linked = _forecast(part, accuracy[:, seen], floor, draws.weights)
    return Evidence("", kink, "", relative < -1, np.abs(relative) < 1, relative, p, linked, _on_line(x[seen], level[0]))


def _refusal(x: Floats, accuracy: Floats, floor: float, draws: Resampling) -> str:
    if len(x) < SIZES:
        return f"{len(x)} places on the axis, {SIZES} are needed"
    if x[-1] - x[0] < DECADES:
        return f"{x[-1] - x[0]:.1f} decades, {DECADES} are needed"
    means = draws.weights @ accuracy
    if np.quantile(means.max(axis=1) - floor, ALPHA / 2) <= SIGNAL:
        return "below floor"
    fallen = (np.maximum.accumulate(means, axis=1) - means).max(axis=1)
    if np.quantile(fallen, ALPHA / 2) > FALLEN:
        return f"accuracy falls by {np.median(fallen):.0%} on its way: not one curve"
    return ""


def judge(found: list[Evidence]) -> list[Verdict]:
    """A verdict for each skill; the sup-F p-values are adjusted over all of them (Benjamini-Hochberg)."""
    adjusted = benjamini_hochberg([e.p for e in found])
    return [_verdict(e, float(p)) for e, p in zip(found, adjusted, strict=True)]


def _verdict(e: Evidence, p: float) -> Verdict:
    if e.refusal:
        return Verdict("inconclusive", e.refusal, *(float("nan"),) * 3, p)
    smooth = float(1 - e.kink.mean())
    if e.checked:
        if smooth >= ADOPTED:
            return Verdict("smooth", "", smooth, float("nan"), float("nan"), p)
        if 1 - smooth >= 1 - ALPHA / 2:
            return Verdict("apparent emergence (metric not checked)", e.checked, smooth, float("nan"), float("nan"), p)
        return Verdict("inconclusive", f"a kink in accuracy in {1 - smooth:.0%} of the draws; {e.checked}", smooth, np.nan, np.nan, p)
    bends = bool(p < ALPHA) and np.quantile(e.relative, 1 - ALPHA / 2) < 0
    emergent = float((e.kink & e.bends).mean()) if bends else 0.0
    mirage = float((e.kink & e.straight & e.linked).mean()) if p >= ALPHA and e.on_line else 0.0
    for label, share in (("smooth", smooth), ("mirage", mirage), ("emergent", emergent)):
        if share >= ADOPTED:
            return Verdict(label, "", smooth, mirage, emergent, p)  # type: ignore[arg-type]
    return Verdict("inconclusive", _why(e, p, smooth), smooth, mirage, emergent, p)


def _why(e: Evidence, p: float, smooth: float) -> str:
    """The first thing that stands in the way of a label."""
    if smooth > 1 - ADOPTED:
        return f"a kink in accuracy in {1 - smooth:.0%} of the draws"
    if p < ALPHA:
        return f"the granular metric bends (p = {p:.2g}), beyond its mean slope in {e.bends.mean():.0%} of the draws"
    if e.straight.mean() < ADOPTED:
        return f"the granular metric may bend: p = {p:.2g}, straight in {e.straight.mean():.0%} of the draws"
    return "accuracy of the largest does not follow from the granular metric" if e.on_line else "the largest is off the others' line"


@cache
def _null(x: tuple[float, ...]) -> Floats:
    """Sup-F where a line is true. It depends on the places alone: the scatter's size cancels."""
    noise = generator(0, "sup-F").standard_normal((_NULL_DRAWS, len(x)))
    return np.sort(hinge(np.array(x), noise).sup_f)


def sup_f_p(x: tuple[float, ...], found: float) -> float:
    """Chance of a sup-F of at least `found` at these places from models that scatter around a straight line."""
    null = _null(x)
    return float((1 + len(null) - np.searchsorted(null, found)) / (1 + len(null)))


def _forecast(part: Granular, accuracy: Floats, floor: float, weights: Floats) -> Bools:
    """Accuracy = floor + (1 - floor) * mean over problems of exp(-link * loss): fitted on all but the largest, is it right there?"""
    links, problems, sizes = (linked := part.linked()).shape
    passed = (weights @ linked.transpose(1, 0, 2).reshape(problems, -1)).reshape(len(weights), links, sizes)
    wanted = weights @ accuracy
    error = floor + (1 - floor) * passed - wanted[:, None, :]
    best = np.argmin((error[:, :, :-1] ** 2).sum(axis=2), axis=1)
    return np.asarray(np.abs(error[np.arange(len(weights)), best, -1]) <= WITHIN)


def _on_line(x: Floats, level: Floats) -> bool:
    """Is the last level inside the 95 % prediction interval of the line through the others?"""
    n = len(x) - 1
    slope, start = np.polyfit(x[:-1], level[:-1], 1)
    scatter = np.sqrt(((level[:-1] - start - slope * x[:-1]) ** 2).sum() / (n - 2))
    away = x[-1] - x[:-1].mean()
    reach = stdtrit(n - 2, 1 - ALPHA / 2) * scatter * np.sqrt(1 + 1 / n + away**2 / ((x[:-1] - x[:-1].mean()) ** 2).sum())
    return bool(abs(level[-1] - start - slope * x[-1]) <= reach + 1e-9)
