"""What to do, in sentences: what to buy next, what a target costs, how to split a budget, what more samples would find.

Why: as in `findings`; these sentences advise where those compare.
What it does not do: compute anything that is not in a table (see `purchase`, `targets`, `split`, `coverage`).
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from thinkscale import schema
from thinkscale.axes import AXES
from thinkscale.coverage import CHOSEN
from thinkscale.findings import Finding, told_apart
from thinkscale.measure import setting_name, thinking_name
from thinkscale.regions import SURE
from thinkscale.routes import is_greedy, way

HALF = 0.5
WORTH_SAYING = 0.02
"""Of all problems: less that more samples would find is not said."""


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

    Where the best purchase is sure only when one looks further along the routes, or is another one there, that is said, too.

    Args:
        table: from `purchase.purchases`.
    """
    told = table[(table["slice"] == "all") & (table["k"] == 1) & table["share_best"].notna()]
    told = told[~told["sampling"].map(is_greedy).astype(bool)].assign(way=told["route"].map(way))
    said = []
    for _, rows in told.groupby(["benchmark", "prompt", "way"], sort=True):
        rows = rows[rows["thinking_level"] == rows["thinking_level"].min()]
        near, far = [], []
        for _, start in rows.groupby(["params", "model", "cell_id"], sort=True):
            axes = {(str(reach), str(axis)): steps for (reach, axis), steps in start.groupby(["reach", "axis"])}
            if ("next", "flops") in axes:
                near.append({axis: steps for (reach, axis), steps in axes.items() if reach == "next"})
                far.append({axis: steps for (reach, axis), steps in axes.items() if reach == "further"})
        here, there = ([_advice(each["flops"]) if each else Advice("", 0.0) for each in side] for side in (near, far))
        more = [b.sure and b.what != "nothing" and (b.what != a.what or not a.sure) for a, b in zip(here, there, strict=True)]
        for starts, keys in ((near, [(a.what, a.sure) for a in here]), (far, [(b.what, m) for b, m in zip(there, more, strict=True)])):
            for run in _runs(list(zip(starts, keys, strict=True)), keys):
                if starts is near or run[0][1][1]:
                    found = _purchase(run[0][0], str(run[-1][0]["flops"]["model"].iloc[0]))
                    said.append(found._replace(text=told_apart(rows.iloc[0], told, "way") + found.text))
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
        told = f"{advice.what} is the best {'next ' if row['reach'] == 'next' else ''}purchase (in {advice.share:.1%} of draws)"
    whom = row["model"] if row["model"] == last else f"{row['model']} to {last}"
    ends = {
        "bigger": row["to_model"],
        "think longer": thinking_name(row["to_route"], row["to_thinking_budget"]),
        "sample more": f"maj@{row['to_k']:.0f}",
    }
    looking = "" if row["reach"] == "next" else ", looking further along each route"
    at = thinking_name(row["route"], row["thinking_budget"]).replace("=", " ")
    text = f"{row['benchmark']}, one answer of {whom} at {at}{looking}: {told}; from {row['model']} on to "
    text += f"{ends[row['bought']]} {_points(row['gain'], row['low'], row['high'])} for {row['cost_ratio']:.3g} × the FLOPs"
    others = {axis: _advice(axes[axis]) for axis in AXES if axis in axes}
    turned = [f"{other.what} by {AXES[axis]}" for axis, other in others.items() if advice.sure and other.sure and other.what != advice.what]
    text += f". Not so on every axis of cost: {', '.join(turned)}" if turned else ""
    return Finding(text + ".", row["gain"], row["low"], row["high"], "purchase", {name: row[name] for name in schema.PURCHASE.key})


def cheapest_ways(table: pd.DataFrame) -> list[Finding]:
    """What a target accuracy costs in FLOPs, over all problems: the first at or above one half that is reached, and the highest.

    Args:
        table: from `targets.targets`.
    """
    said = []
    for benchmark, rows in table[table["slice"] == "all"].groupby("benchmark", sort=True):
        flops = rows[rows["axis"] == "flops"].sort_values("target")
        reached = flops[flops["cell_id"].notna()].to_dict("records")
        said += [_unreached(str(benchmark), row) for row in flops.head(1).to_dict("records") if not reached]
        wanted = dict.fromkeys(row["target"] for row in reached if row["target"] >= HALF)
        for row in [row for row in reached if row["target"] in [*list(wanted)[:1], reached[-1]["target"]]]:
            others = rows[(rows["target"] == row["target"]) & (rows["axis"] != "flops")]
            said.append(_cheapest(row, {r["axis"]: r for r in others.to_dict("records")}))
    return said


def _unreached(benchmark: str, row: dict[Hashable, Any]) -> Finding:
    text = f"{benchmark}: no setting is right in {row['target']:.0%} of its answers, nor in {row['share_never']:.1%} of the draws."
    return Finding(text, math.nan, math.nan, math.nan, "targets", {str(name): row[name] for name in schema.TARGETS.key})


def _cheapest(row: dict[Hashable, Any], others: dict[str, dict[Hashable, Any]]) -> Finding:
    name = row["setting"]
    text = f"{row['benchmark']}: {row['target']:.0%} right costs least with {name} "
    text += f"({row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]), {row['cost']:.3g} FLOPs per problem "
    text += f"[{row['cost_low']:.3g}, {row['cost_high']:.3g}]; it is the cheapest in {row['share_cheapest']:.1%} of draws, "
    text += f"a setting of {row['model']} in {row['share_model']:.1%}"
    text += f", nobody is there in {row['share_never']:.1%}" if row["share_never"] else ""
    text += (
        f"; what half of the problems choose is right in {row['held_out']:.1%} of the others'" if row["held_out"] < row["target"] else ""
    )
    text += f"; there in 95 % of draws: {row['safe']} for {row['safe_cost']:.3g}" if row["safe"] not in ("", name) else ""
    turned = [f"{r['model']} by {AXES[axis]}" for axis in AXES if (r := others.get(axis)) and r["model"] != row["model"]]
    text += f". Not so on every axis of cost: {', '.join(turned)}" if turned else ""
    where = {str(c): row[c] for c in schema.TARGETS.key}
    return Finding(text + ".", row["cost"], row["cost_low"], row["cost_high"], "targets", where)


def how_to_split(table: pd.DataFrame) -> list[Finding]:
    """One long thought or several short ones, for the tokens of one sample at the largest thinking budget and for the largest budget.

    Runs of sizes of which the same is true share a sentence, with the numbers of the smallest.

    Args:
        table: from `split.splits`.
    """
    said = []
    for (benchmark, _, _), rows in table[(table["slice"] == "all") & (table["axis"] == "tokens")].groupby(["benchmark", "prompt", "route"]):
        models = [group.sort_values("budget").to_dict("records") for _, group in rows.groupby(["params", "model", "sampling"], sort=True)]
        at_one = [next(row for row in each if row["longest"] == 1) for each in models]
        pairs = [(one, each[-1]) for one, each in zip(at_one, models, strict=True)]
        for run in _runs(pairs, [(_votes(one["share_votes"]), most["low"] > 0) for one, most in pairs]):
            found = _split(str(benchmark), run[0], str(run[-1][0]["model"]))
            said.append(found._replace(text=told_apart(run[0][0], table) + found.text))
    return said


def _votes(share: float) -> str:
    if share >= SURE:
        return "several shorter thoughts are the best split"
    return "one thought is the best split" if share <= 1 - SURE else "neither one thought nor several shorter ones are shown to be better"


def _split(benchmark: str, of: tuple[dict[Hashable, Any], dict[Hashable, Any]], last: str) -> Finding:
    """The sentence of a run of sizes. `of` its smallest: the rows of one sample's cost, and of the largest budget."""
    one, most = of
    whom = one["model"] if one["model"] == last else f"{one['model']} to {last}"
    best, much = (row["setting"] for row in of)
    text = f"{benchmark}, {whom}, for the tokens of one sample at the largest thinking budget: {_votes(one['share_votes'])} "
    text += f"(several in {one['share_votes']:.1%} of draws; {best} "
    text += f"{one['held_out']:.1%} [{one['held_out_low']:.1%}, {one['held_out_high']:.1%}]); for {most['longest']:.3g} times as many "
    text += f"{much} is, in {most['share_best']:.1%} of draws: {_points(most['difference'], most['low'], most['high'])} over one thought."
    where = {str(c): most[c] for c in schema.SPLIT.key}
    return Finding(text, most["difference"], most["low"], most["high"], "split", where)


def beyond_samples(table: pd.DataFrame) -> list[Finding]:
    """What four times the samples would find, by the law that AIC chose: of each benchmark the biggest model's smallest budget that has
    something left to find and a forecast; and how well the laws did on samples that they had not seen.

    Args:
        table: from `coverage.coverage`.
    """
    said = []
    chosen = table[table["law"] == CHOSEN]
    for _, rows in chosen.sort_values(["params", "thinking_budget"], ascending=[False, True]).groupby("benchmark", sort=True):
        for cell_id in rows["cell_id"].unique():
            mine = rows[rows["cell_id"] == cell_id]
            seen = {row["k"]: row for row in mine[mine["num_samples"] == mine["num_samples"].max()].to_dict("records")}
            now, then = (seen[times * min(seen)] for times in (1, 4))
            if then["outcome"] == "forecast" and then["value"] - now["observed"] >= WORTH_SAYING:
                left_out = mine[mine["num_samples"] < mine["num_samples"].max()].to_dict("records")
                found = _beyond(now, then, left_out)
                said.append(found._replace(text=told_apart(mine.iloc[0], rows) + found.text))
                break
    return said + _checked(table[(table["num_samples"] < table["k"]) & table["error"].notna()])


def _beyond(now: dict[Hashable, Any], then: dict[Hashable, Any], left_out: list[dict[Hashable, Any]]) -> Finding:
    text = f"{now['benchmark']}, {setting_name(now['model'], now['route'], now['thinking_budget'], 'pass@k', 1)}: "
    text += f"{now['observed']:.1%} of the problems are solved at least once in {now['k']} samples; in {then['k']} it would be "
    text += f"{then['value']:.1%} [{then['low']:.1%}, {then['high']:.1%}], by a beta-binomial"
    text += f"{' with problems beyond the model' if then['zero'] > 0 else ''} (an oracle's bound: somebody must know which is right)"
    for row in left_out:
        if row["outcome"] == "forecast":
            text += f"; fitted to {row['num_samples']} samples it missed the other {row['k']}'s {row['observed']:.1%} by "
            text += _points(row["error"], row["error_low"], row["error_high"])
    return Finding(text + ".", then["value"], then["low"], then["high"], "coverage", {str(c): then[c] for c in schema.COVERAGE.key})


def _checked(told: pd.DataFrame) -> list[Finding]:
    """One sentence on all the checks."""
    parts, errors = [], {}
    for law, rows in told.groupby("law", sort=True):
        held = ((rows["error_low"] <= 0) & (rows["error_high"] >= 0)).sum()
        errors[law] = float(rows["error"].abs().mean())
        parts.append(f"{law} {100 * errors[law]:.1f} points (interval holds 0 in {held} of {len(rows)} cells)")
    if not parts:
        return []
    text = f"Fitted to a quarter of the samples, laws missed the coverage of the other three quarters by, on average: {', '.join(parts)}."
    return [Finding(text, errors.get(CHOSEN, math.nan), math.nan, math.nan, "coverage", {"law": CHOSEN})]


def _points(gain: float, low: float, high: float) -> str:
    return f"{100 * gain:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
