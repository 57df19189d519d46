"""How much of each route a skill takes: thresholds in parameters, training FLOPs, training tokens and test-time FLOPs.

Why: "typical scale thresholds" measured: the same level of the same skill, reached by size, by thinking, by voting or by training longer.
What it does not do: extrapolate, or assume a curve. A curve is its running maximum (a setting that does worse than a cheaper one is never
chosen) with straight lines between places in the logarithm of the unit; `inf` is beyond the last place, 0 before the first.
"""

from typing import Any

import numpy as np
import pandas as pd

from thinkscale import schema
from thinkscale.curves import SkillCurve
from thinkscale.exchange import reach
from thinkscale.inference import Pools
from thinkscale.summarize import typed

LEVELS = {"appears": 0.1, "half": 0.5}
"""Share of the way from chance to all right."""
UNITS = {
    "size": ("params", "training_flops", "cost_flops"),
    "thinking": ("cost_flops",),
    "samples": ("cost_flops",),
    "training": ("training_tokens", "training_flops"),
}
_FACTS = ("benchmark", "skill", "slice", "prompt", "route", "sampling", "family", "at", "model", "thinking_budget")
BOUGHT = {"size": "bigger", "thinking": "think longer", "samples": "sample more", "training": "train longer"}


def thresholds(curves: list[SkillCurve], draws: int = 1000, seed: int | str = 0) -> pd.DataFrame:
    """The thresholds table (`schema.THRESHOLDS`): one row per curve × level × unit that is known at all places.

    Args:
        curves: from `curves.skill_curves`.
        draws: bootstrap draws; the crossing is found in each of them.
        seed: fixes them.
    """
    pools = Pools(draws, seed)
    rows = [row for curve in curves for row in _rows(curve, pools)]
    return typed(pd.DataFrame(rows, columns=schema.THRESHOLDS.names).sort_values(list(schema.THRESHOLDS.key)), schema.THRESHOLDS)


def _rows(curve: SkillCurve, pools: Pools) -> list[dict[str, Any]]:
    draw, chance, rows = curve.draw(pools), curve.facts["chance"], []
    y = np.vstack([curve.accuracy.mean(axis=0), draw.weights @ curve.accuracy])
    facts = {name: curve.facts[name] for name in _FACTS}
    axis = curve.facts["axis"]
    for unit in UNITS[axis]:
        amount = curve.places[unit].to_numpy(dtype=np.float64)
        if not (np.isfinite(amount).all() and (amount > 0).all()):
            continue
        for name, share in LEVELS.items():
            level = chance + share * (1 - chance)
            found = reach(np.log10(amount), y, np.full(len(y), level))
            low, high = np.quantile(found[1:], [0.025, 0.975], method="closest_observation")
            rows.append(
                {
                    **{**facts, "bought": BOUGHT[axis], "metric": "maj@k" if axis == "samples" else "pass@k"},
                    **{"level": name, "accuracy": level, "unit": unit},
                    **{"threshold": 10.0 ** found[0], "low": 10.0**low, "high": 10.0**high},
                    **{"share_never": np.mean(found[1:] == np.inf), "share_already": np.mean(found[1:] == -np.inf)},
                    **{"smallest": amount[0], "largest": amount[-1], "num_places": len(amount), "num_problems": len(curve.problems)},
                }
            )
    return rows
