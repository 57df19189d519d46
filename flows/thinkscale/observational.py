"""Observational scaling: public tables of many models' accuracies as if they were one experiment.

Why: hundreds of models that others trained and measured have one axis of capability in common, and show where a test-time method helps; a
check of our conclusions on data that we did not make.
What it does not do: compute what a model would have scored with other training; families are not trained alike, and an accuracy in such a
table has no interval over problems.

Source: Ruan, Maddison and Hashimoto 2024, arXiv:2405.10938.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from thinkscale.inference import ALPHA, Floats

_ROUNDS = 1000


class Components(NamedTuple):
    """Principal components of a table, models × benchmarks."""

    shares: Floats
    """Share of the variance that each component explains."""
    scores: Floats
    """Models × components; the sign is such that a better model scores higher on the first."""
    loadings: Floats
    """Components × benchmarks."""
    filled: Floats
    """The table without gaps."""


def principal(accuracy: ArrayLike) -> Components:
    """Principal components of accuracies, about their means and in their own units; what is missing is filled in first.

    A gap is filled by the one component that explains the standardised table best, in [0, 1], until nothing changes any more.

    Args:
        accuracy: models × benchmarks, NaN where unknown.
    Raises: ValueError where a benchmark was measured with fewer than two models.
    """
    given = np.asarray(accuracy, float)
    known = ~np.isnan(given)
    if given.ndim != 2 or (known.sum(axis=0) < 2).any():
        raise ValueError("principal components: needs models × benchmarks, each benchmark with two known models or more.")
    middle, width = np.nanmean(given, axis=0), np.nanstd(given, axis=0)
    width = np.where(width > 0, width, 1.0)
    filled = np.where(known, (given - middle) / width, 0.0)
    for _ in range(_ROUNDS):
        left, size, right = np.linalg.svd(filled - filled.mean(axis=0), full_matrices=False)
        new = np.where(known, filled, np.outer(left[:, 0] * size[0], right[0]) + filled.mean(axis=0))
        moved, filled = float(np.abs(new - filled).max()), new
        if moved < 1e-10:
            break
    table = np.where(known, given, np.clip(filled * width + middle, 0.0, 1.0))
    left, size, right = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)
    sign = np.where(right.sum(axis=1) < 0, -1.0, 1.0)
    return Components(size**2 / (size**2).sum(), left * size * sign, right * sign[:, None], table)


def within_families(score: ArrayLike, flops: ArrayLike, family: Sequence[str], least: int = 3) -> pd.DataFrame:
    """How well a score follows log10 training FLOPs within each family of at least so many models: family, models, slope, r2."""
    table = pd.DataFrame({"family": list(family), "score": np.asarray(score, float), "x": np.log10(np.asarray(flops, float))}).dropna()
    rows = []
    for name, models in table.groupby("family", sort=True):
        if len(models) >= least and np.ptp(models["x"]) > 0:
            slope = np.polyfit(models["x"], models["score"], 1)[0]
            r2 = float(np.corrcoef(models["x"], models["score"])[0, 1] ** 2)
            rows.append({"family": name, "models": len(models), "slope": float(slope), "r2": r2})
    return pd.DataFrame(rows, columns=["family", "models", "slope", "r2"])


def gains(before: ArrayLike, after: ArrayLike, by: ArrayLike, edges: Sequence[float]) -> pd.DataFrame:
    """What a method adds to models' accuracies, by how good or how big they were: does it help where the skill is not there yet?

    A row for each bin [edge, next edge): low_edge, high_edge, models, gain, low, high (95 %, Student's t over models), share_worse. With
    one model in a bin there is no interval.
    """
    table = pd.DataFrame({"gap": np.asarray(after, float) - np.asarray(before, float), "by": np.asarray(by, float)}).dropna()
    rows = []
    for low, high in pairwise(edges):
        gap = table.loc[(table["by"] >= low) & (table["by"] < high), "gap"].to_numpy()
        if len(gap):
            reach = stdtrit(len(gap) - 1, 1 - ALPHA / 2) * gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else np.nan
            row = {"low_edge": low, "high_edge": high, "models": len(gap), "gain": gap.mean()}
            rows.append({**row, "low": gap.mean() - reach, "high": gap.mean() + reach, "share_worse": (gap < 0).mean()})
    return pd.DataFrame(rows, columns=["low_edge", "high_edge", "models", "gain", "low", "high", "share_worse"])
