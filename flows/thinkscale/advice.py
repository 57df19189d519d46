"""What to do, in sentences: what to buy next, how to reach a target, how to split a budget; where the advice turns on what is paid.

Why: as in `findings`; these sentences advise where those compare.
What it does not do: compute anything that is not in a table (see `purchase`, `targets`, `split`).
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from thinkscale import schema
from thinkscale.axes import AXES
from thinkscale.findings import Finding
from thinkscale.regions import SURE
from thinkscale.routes import is_greedy


class Advice(NamedTuple):
    """The likeliest best step from a point."""

    what: str
    """A route, or `nothing`."""
    share: float
    """Of the bootstrap's draws."""

    @property
    def sure(self) -> bool:
        """Worth saying without a doubt."""
        return self.share >= SURE


def worth_buying(table: pd.DataFrame) -> list[Finding]:
    """What to buy next, of FLOPs, from one answer at the smallest thinking budget; runs of sizes with the same advice share a sentence.

    Args:
        table: from `purchase.purchases`.
    """
    known = table[
        (table["slice"] == "all") & (table["k"] == 1) & table["share_best"].notna() & ~table["sampling"].map(is_greedy).astype(bool)
    ]
    said = []
    for _, rows in known.groupby(["benchmark", "prompt", "route"], sort=True):
        rows = rows[rows["thinking_budget"] == rows["thinking_budget"].min()]
        starts = [
            {str(axis): steps for axis, steps in g.groupby("axis")} for _, g in rows.groupby(["params", "model", "cell_id"], sort=True)
        ]
        starts = [axes for axes in starts if "flops" in axes]
        for run in _runs(starts, [(_advice(axes["flops"]).what, _advice(axes["flops"]).sure) for axes in starts]):
            said.append(_purchase(run[0], str(run[-1]["flops"]["model"].iloc[0])))
    return said


def _runs(items: Sequence[Any], keys: Sequence[Hashable]) -> list[list[Any]]:
    """Neighbours with equal keys together."""
    runs: list[list[Any]] = []
    for i, item in enumerate(items):
        if i and keys[i] == keys[i - 1]:
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _advice(rows: pd.DataFrame) -> Advice:
    """Of the steps from one point on one axis."""
    shares = {"nothing": float(rows["share_nothing"].iloc[0]), **dict(zip(rows["bought"], rows["share_best"].astype(float), strict=True))}
    best = max(shares, key=lambda name: shares[name])
    return Advice(best, shares[best])


def _purchase(axes: dict[str, pd.DataFrame], last: str) -> Finding:
    """The sentence of a run of sizes, with the numbers of its smallest."""
    advice, steps = _advice(axes["flops"]), axes["flops"].sort_values("share_best", ascending=False).to_dict("records")
    row = next((step for step in steps if step["bought"] == advice.what), steps[0])
    told = f"no purchase is shown to be the best ({advice.what} in {advice.share:.1%} of draws)"
    if advice.what == "nothing":
        told = f"no purchase is shown to gain (none does in {advice.share:.1%} of draws)"
    elif advice.sure:
        told = f"{advice.what} is the best next purchase (in {advice.share:.1%} of draws)"
    whom = row["model"] if row["model"] == last else f"{row['model']} to {last}"
    ends = {"bigger": row["to_model"], "think longer": f"budget={row['to_thinking_budget']}", "sample more": f"maj@{row['to_k']}"}
    text = f"{row['benchmark']}, one answer of {whom} at budget {row['thinking_budget']}: {told}; from {row['model']} on to "
    text += f"{ends[row['bought']]} {_points(row['gain'], row['low'], row['high'])} for {row['cost_ratio']:.3g} × the FLOPs"
    others = {axis: _advice(axes[axis]) for axis in AXES if axis in axes}
    turned = [f"{other.what} by {AXES[axis]}" for axis, other in others.items() if advice.sure and other.sure and other.what != advice.what]
    text += f". Not so on every axis of cost: {', '.join(turned)}" if turned else ""
    return Finding(text + ".", row["gain"], row["low"], row["high"], "purchase", {name: row[name] for name in schema.PURCHASE.key})


def _points(gain: float, low: float, high: float) -> str:
    return f"{100 * gain:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
