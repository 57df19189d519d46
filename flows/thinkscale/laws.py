"""The scaling table: the laws that a family's losses and errors follow, each with intervals and judged by a size that it did not see.

Why: "loss is a smooth power law of size" is a claim about numbers that stand beside it: exponent, scatter, AICc against the other laws, and
what the law makes of the largest size when that is left out.
What it does not do: choose a law. With few points AICc cannot tell them apart, and is null.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thinkscale import schema
from thinkscale.allocation import CHINCHILLA, KAPLAN
from thinkscale.forecast import Sizes
from thinkscale.inference import Floats, quantiles
from thinkscale.scaling import OFFSET, POWER, Fit, Law, fit, fit_error, uncertainty
from thinkscale.summarize import typed

JOINT = "params and training_tokens"
_ERROR_POINTS = 4  # three parameters, and a point that could disagree


def scaling_table(models: pd.DataFrame, skills: list[Sizes], draws: int = 1000, seed: int | str = 0) -> pd.DataFrame:
    """The scaling table (`schema.SCALING`). A law is fitted where at least one point more than its parameters is left without the largest.

    Args:
        models: indexed by name, with columns `family`, `params`, `training_tokens` and `bits_per_byte` (NaN where unknown).
        skills: from `forecast.by_size`.
        draws: of the parametric bootstrap of losses; errors use the skills' own draws of problems.
        seed: fixes them.
    """
    known = models[models["bits_per_byte"].notna() & models["training_tokens"].notna()]
    rows = []
    for family, runs in known.groupby("family", sort=True):
        for among, against, part, laws in _sets(runs.sort_values(["params", "training_tokens"])):
            for law in laws:
                if len(part) - int(np.count_nonzero(_unseen(part, against))) > len(law.parameters):
                    rows.append({"family": family, "among": among, "against": against, **_loss_row(law, part, against, draws, seed)})
    rows += [_error_row(sizes) for sizes in skills if np.isfinite(sizes.loss).all() and len(sizes.models) > _ERROR_POINTS]
    frame = pd.DataFrame(rows, columns=schema.SCALING.names)
    return typed(frame.astype({"thinking_budget": "Int64", "covered": "boolean"}), schema.SCALING)


def _sets(runs: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame, tuple[Law, ...]]]:
    """What is fitted together: the sizes at their longest training, each size's checkpoints, all."""
    grown = runs.drop_duplicates("params", keep="last")
    yield "sizes", "params", grown, (POWER, OFFSET)
    for _, one in runs.groupby("params", sort=True):
        if len(one) > 1:
            yield str(one.index[-1]), "training_tokens", one, (POWER, OFFSET)
    if len(runs) > len(grown):
        yield "all", JOINT, runs, (CHINCHILLA, KAPLAN)


def _unseen(part: pd.DataFrame, against: str) -> NDArray[np.bool_]:
    """What is held out: the longest training of one size, or all of the largest size."""
    column = "training_tokens" if against == "training_tokens" else "params"
    return np.asarray(part[column] == part[column].max())


def _variables(part: pd.DataFrame, against: str) -> tuple[Floats, ...]:
    return tuple(part[c].to_numpy(float) for c in (["params", "training_tokens"] if against == JOINT else [against]))


def _loss_row(law: Law, part: pd.DataFrame, against: str, draws: int, seed: int | str) -> dict[str, Any]:
    x, loss, unseen = _variables(part, against), part["bits_per_byte"].to_numpy(float), _unseen(part, against)
    found = fit(law, x, loss)
    row = {"quantity": "bits_per_byte", "law": law.name, "num_points": len(loss), "aicc": found.aicc}
    row["scatter"] = float(np.sqrt(found.objective / len(loss)))
    values, spread = _named(law, found.theta[None]), _named(law, uncertainty(found, x, x, draws, seed).theta)
    for name, value in values.items():
        row[name] = float(value[0])
        row |= _ends(name, spread[name])
    earlier: Fit = fit(law, tuple(v[~unseen] for v in x), loss[~unseen])
    largest = tuple(v[-1:] for v in x)
    ahead = uncertainty(earlier, tuple(v[~unseen] for v in x), largest, draws, seed).predicted[:, 0]
    return row | _judged(str(part.index[-1]), float(loss[-1]), float(earlier(*largest)[0]), ahead)


def _named(law: Law, theta: Floats) -> dict[str, Floats]:
    """Parameters as the table names them."""
    at = {name: theta[:, i] for i, name in enumerate(law.parameters)}
    if law is KAPLAN:
        return {"exponent": at["ratio"] * at["alpha_d"], "exponent_tokens": at["alpha_d"]}
    named = {"exponent": at["alpha"]}
    if "beta" in at:
        named["exponent_tokens"] = at["beta"]
    if "e" in at:
        named["offset"] = np.exp(at["e"])
    return named


def _error_row(sizes: Sizes) -> dict[str, Any]:
    """The law from loss to error over the sizes; its intervals are over problems, with the losses as they are."""
    share = sizes.right / sizes.samples
    error = 1 - np.vstack([share.mean(axis=0), sizes.draw.weights @ share])
    found, earlier = fit_error(sizes.loss, error), fit_error(sizes.loss[:-1], error[:, :-1])
    residual = error[0] - (found.worst[0] - found.k[0] * np.exp(-found.gamma[0] * sizes.loss))
    row = {c: v for c, v in sizes.facts.items() if c in schema.SCALING.names}
    row |= {"quantity": "error", "against": "bits_per_byte", "law": "exponential", "num_points": len(sizes.models)}
    row["among"] = "sizes, " + " ".join(str(row[c]) for c in ("benchmark", "prompt", "route", "sampling", "thinking_budget"))
    row |= {"exponent": float(found.gamma[0]), **_ends("exponent", found.gamma[1:])}
    row |= {"offset": float(found.worst[0]), **_ends("offset", found.worst[1:]), "scatter": float(np.sqrt((residual**2).mean()))}
    ahead = np.clip(earlier(sizes.loss[-1]), 0.0, 1.0)  # the exponential does not know that an error is a share
    return row | _judged(sizes.models[-1], float(error[0, -1]), float(ahead[0]), ahead[1:])


def _ends(name: str, spread: Floats) -> dict[str, float]:
    low, high = quantiles(spread[None])
    return {f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}


def _judged(model: str, value: float, predicted: float, ahead: Floats) -> dict[str, Any]:
    ends = _ends("predicted", ahead)
    covered = None if np.isnan(ends["predicted_low"]) else ends["predicted_low"] <= value <= ends["predicted_high"]
    return {"held_out": model, "held_out_value": value, "predicted": predicted, **ends, "covered": covered}
