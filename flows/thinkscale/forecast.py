"""Would the smaller sizes have told what the largest can do? Each skill's largest model, forecast from the others and scored.

Why: a curve through all sizes always looks as if it could have been foreseen. Here the largest size is left out (alone, or with the one
before it), several methods forecast it side by side, with intervals, and each is scored against "the same as the previous size".
What it does not do: choose the method that did best, or forecast where there is nothing to go on: "no forecast" is an outcome, with its
reason, and its row is there all the same.

Sources: PassUntil's space: Hu et al. 2023, arXiv:2310.03262. Link from loss: Gadre et al. 2024, arXiv:2403.08540. Beta-binomial: Schaeffer
et al. 2025, arXiv:2502.17578. CRPS: Gneiting and Raftery 2007.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from thinkscale import inference, scaling, schema
from thinkscale.betas import Beta, fit_beta
from thinkscale.estimators import pass_at_k
from thinkscale.inference import Floats, Pools, Resampling, generator
from thinkscale.measure import Cell, Point, guessing, measure, shared
from thinkscale.sources import Chance
from thinkscale.summarize import typed

PREVIOUS = "same as the previous size"
METHODS = (PREVIOUS, "PassUntil", "logit", "loss", "beta-binomial")
LEAST = 3
"""Sizes above chance that a line needs: with two it has no scatter, and so no interval."""
LEAST_FOR_OFFSET = 6
"""Sizes from which on AICc can tell an offset (three parameters and a scale)."""
WIDEST = 0.5
"""An interval that spans more than this share of what lies above chance is no forecast."""
_ONE_LADDER = ["benchmark", "prompt", "route", "sampling", "thinking_budget"]
_LINKS: dict[str, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    # Accuracy above chance, and back. In PassUntil's space exp(-c N^-a) is a line in log N.
    "PassUntil": (lambda u: -np.log(-np.log(u)), lambda z: np.exp(-np.exp(np.minimum(-z, 700.0)))),
    "logit": (lambda u: np.asarray(logit(u)), lambda z: np.asarray(expit(z))),
    "loss": (np.log, lambda z: np.minimum(np.exp(np.minimum(z, 1.0)), 1.0)),
}


class Sizes(NamedTuple):
    """One skill over the sizes of a family, smallest first, over the problems that all of them answered."""

    facts: dict[str, Any]
    models: list[str]
    params: Floats
    loss: Floats
    """Bits per byte; NaN where unknown."""
    right: Floats
    """Problems × sizes: right samples."""
    samples: Floats
    draw: Resampling
    chance: Floats
    """Of each problem."""

    def floor(self, k: int) -> float:
        """pass@k of guessing."""
        return float((1 - (1 - self.chance) ** k).mean())


class Forecast(NamedTuple):
    """What a method says of the largest size."""

    value: float
    draws: Floats
    reason: str = ""
    """Why there is no forecast; empty: there is one."""


def forecast(skills: list[Sizes], seed: int | str = 0) -> pd.DataFrame:
    """The forecast table (`schema.FORECAST`): skill × budget × k × sizes left out × method.

    Args:
        skills: from `by_size`.
        seed: fixes the draws of the sizes' scatter.
    """
    rows = [
        {**sizes.facts, **row}
        for sizes in skills
        for k in sorted({1, int(sizes.samples.min())})
        for left_out in (1, 2)
        for row in _rows(sizes, k, left_out, seed)
    ]
    return typed(pd.DataFrame(rows, columns=schema.FORECAST.names), schema.FORECAST)


def by_size(
    graded: pd.DataFrame, chance: Mapping[str, Chance], models: pd.DataFrame, draws: int = 1000, seed: int | str = 0
) -> list[Sizes]:
    """Each skill of each family at each budget, over at least two sizes.

    Args:
        graded: one row per answer.
        chance: accuracy of guessing, of each benchmark; or of each of its difficulties.
        models: indexed by name, with columns `family`, `training_tokens` and `bits_per_byte` (NaN where unknown). Of a family's models of
            one size, the one trained on most tokens counts: checkpoints are no sizes.
        draws: bootstrap draws.
        seed: fixes them.
    """
    ladders: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in measure(graded, seed=seed):
        family = str(models["family"].get(cell.facts["model"], "unknown"))
        ladders.setdefault((family, *(cell.facts[c] for c in _ONE_LADDER)), []).append(cell)
    pools, skills = Pools(draws, seed), []
    for (family, *_), cells in sorted(ladders.items(), key=lambda item: tuple(map(str, item[0]))):
        sizes = _grown(cells, models)
        problems, places = shared(sizes)
        if len(sizes) < 2 or problems["cluster_id"].nunique() < 2:
            continue
        share = np.column_stack([c.estimates[at, c.points.index(Point("pass@k", 1))] for c, at in zip(sizes, places, strict=True)])
        n = np.column_stack([c.problems["num_samples"].to_numpy(float)[at] for c, at in zip(sizes, places, strict=True)])
        benchmark, names = str(sizes[0].facts["benchmark"]), [str(c.facts["model"]) for c in sizes]
        draw = pools.get(f"{benchmark} all", problems["problem_id"].tolist(), problems["cluster_id"].tolist())
        loss = np.array([float(models["bits_per_byte"].get(m, np.nan)) for m in names])
        facts = {"family": family, "skill": sizes[0].facts["skill"], **{c: sizes[0].facts[c] for c in _ONE_LADDER}}
        params = np.array([c.facts["params"] for c in sizes], float)
        skills.append(Sizes(facts, names, params, loss, np.round(share * n), n, draw, guessing(chance[benchmark], problems["difficulty"])))
    return skills


def _grown(cells: list[Cell], models: pd.DataFrame) -> list[Cell]:
    """The longest trained model of each size, smallest first."""
    trained = {c.facts["model"]: np.nan_to_num(float(models["training_tokens"].get(c.facts["model"], np.nan))) for c in cells}
    last = {c.facts["params"]: c for c in sorted(cells, key=lambda c: (trained[c.facts["model"]], c.facts["model"]))}
    return [last[p] for p in sorted(last)]


def _rows(sizes: Sizes, k: int, left_out: int, seed: int | str) -> Iterator[dict[str, Any]]:
    values = pass_at_k(sizes.samples, sizes.right, k)
    means = np.vstack([values.mean(axis=0), sizes.draw.weights @ values])
    ends = inference.interval(values, sizes.draw)
    floor, seen = sizes.floor(k), len(sizes.models) - left_out
    observed = float(means[0, -1])
    about = {"metric": "pass@k", "k": k, "left_out": left_out, "model": sizes.models[-1], "params": int(sizes.params[-1])}
    about |= {"num_sizes": max(seen, 0), "chance": floor, "num_problems": len(values)}
    about |= {"observed": observed, "observed_low": ends.low[-1], "observed_high": ends.high[-1]}
    above = np.flatnonzero(ends.low[:seen] > floor)
    previous = float(means[0, seen - 1]) if seen > 0 else float("nan")
    for method in METHODS:
        if method == "beta-binomial" and k == 1:
            continue  # its mean is the logit's line again
        if seen < 1:
            told = _none("no smaller size")
        elif method == PREVIOUS:
            told = Forecast(previous, means[1:, seen - 1])
        else:
            told = _judged(_told(method, sizes, means, above, k, seed), floor)
        low, high = inference.quantiles(told.draws[None]) if len(told.draws) else (np.array([np.nan]), np.array([np.nan]))
        if method == PREVIOUS and seen > 0:
            low, high = ends.low[seen - 1 :], ends.high[seen - 1 :]  # the same, but honest where all problems agree
        # The previous size is a point, not a distribution: its CRPS is its distance.
        score = abs(told.value - observed) if method == PREVIOUS else crps(told.draws, observed)
        skill = 1 - score / abs(previous - observed) if abs(previous - observed) > 1e-12 else np.nan
        row = {"method": method, "predicted": told.value, "low": float(low[0]), "high": float(high[0])}
        row |= {"error": told.value - observed, "covered": None if np.isnan(low[0]) else bool(low[0] <= observed <= high[0])}
        yield {**about, **row, "crps": score, "skill_score": skill, "outcome": f"no forecast: {told.reason}" if told.reason else "forecast"}


def _none(reason: str) -> Forecast:
    return Forecast(float("nan"), np.empty(0), reason)


def _judged(told: Forecast, floor: float) -> Forecast:
    """A forecast that spans most of what is possible says nothing; its numbers stay."""
    if told.reason or not len(told.draws):
        return told
    low, high = (float(v[0]) for v in inference.quantiles(told.draws[None]))
    if high - low > WIDEST * (1 - floor):
        return told._replace(reason=f"the interval spans {(high - low) / (1 - floor):.0%} of what lies above chance")
    return told


def _told(method: str, sizes: Sizes, means: Floats, above: Any, k: int, seed: int | str) -> Forecast:
    """A line in the method's space through the sizes that are above chance, on to the largest one."""
    if len(above) < LEAST:
        return _none(f"{len(above)} of the smaller sizes above chance, a line needs {LEAST}")
    if np.ptp(means[:, above]) <= 0:
        return _none("all problems are right at all of them: a line through them knows no slope")
    floor, x = sizes.floor(k), np.log(sizes.params)
    rng = generator(seed, f"forecast {sizes.facts['benchmark']} {method}")
    if method == "beta-binomial":
        return _beta_binomial(sizes, above, k, rng)
    half = 0.5 / len(sizes.right) / float(sizes.samples.mean())  # of a sample: what lies between "all right" and "one wrong"
    link, back = _LINKS[method]
    z = link(np.clip((means[:, above] - floor) / (1 - floor), half, 1 - half))
    at, new = x[above], np.full(len(means), x[-1])
    if method == "loss":
        if np.isnan(sizes.loss[above]).any():
            return _none("the loss of a size is not known")
        at, new = sizes.loss[above], _loss(sizes, above, len(means), seed)
        if np.isnan(new).any():
            return _none("too few sizes for the law of the loss")
    line = _line(at, z, new, rng)
    return Forecast(float(floor + (1 - floor) * back(line[:1])[0]), floor + (1 - floor) * back(line[1:]))


def _line(x: Floats, z: Floats, new: Floats, rng: np.random.Generator) -> Floats:
    """The line through each row of z, at its `new`; rows after the first with the scatter of a new size, by Student's t.

    Problems (rows) and sizes (scatter about the line) are both drawn. The scatter holds the noise of the problems once more: the
    interval is rather too wide than too narrow.
    """
    middle, spread = x.mean(), float(((x - x.mean()) ** 2).sum())
    slope = (z - z.mean(axis=1, keepdims=True)) @ (x - middle) / spread
    ahead = z.mean(axis=1) + slope * (new - middle)
    freedom = len(x) - 2
    residual = z[0] - z[0].mean() - slope[0] * (x - middle)
    sigma = np.sqrt(float((residual**2).sum()) / freedom)
    noise = sigma * np.sqrt(1 + 1 / len(x) + (new - middle) ** 2 / spread) * rng.standard_t(freedom, len(z))
    return np.asarray(ahead + np.where(np.arange(len(z)) > 0, noise, 0.0))


def _loss(sizes: Sizes, above: Any, count: int, seed: int | str) -> Floats:
    """The largest size's loss, from the law of the smaller ones' (with an offset where AICc asks for it): a value and draws of it."""
    params, loss = sizes.params[above], sizes.loss[above]
    laws = [scaling.POWER, scaling.OFFSET] if len(loss) >= LEAST_FOR_OFFSET else [scaling.POWER]
    best = min((scaling.fit(law, (params,), loss) for law in laws), key=lambda found: found.aicc)
    draws = scaling.uncertainty(best, (params,), (sizes.params[-1:],), count - 1, seed).predicted[:, 0]
    return np.concatenate([best(sizes.params[-1:]), draws])


def _beta_binomial(sizes: Sizes, above: Any, k: int, rng: np.random.Generator) -> Forecast:
    """pass@k from the largest size's Beta of problems: its mean on a line of logits over size, its concentration the others' mean."""
    found = [fit_beta(sizes.right[:, i], sizes.samples[:, i], sizes.draw.weights) for i in above]
    mean, concentration = (np.column_stack([f[i] for f in found]) for i in (0, 1))
    x = np.log(sizes.params)
    m = _line(x[above], mean, np.full(len(mean), x[-1]), rng)
    value = Beta(m, concentration.mean(axis=1), np.zeros(len(m)), np.full(len(m), np.nan)).pass_at(k)
    return Forecast(float(value[0]), value[1:])


def crps(draws: Floats, observed: float) -> float:
    """Continuous ranked probability score of a distribution given by draws: its distance from what was observed, smaller is better."""
    n = len(draws)
    if not n:
        return float("nan")
    ordered = np.sort(draws)
    spread = float((ordered * (2 * np.arange(1, n + 1) - n - 1)).sum()) / n**2
    return float(np.abs(draws - observed).mean()) - spread
