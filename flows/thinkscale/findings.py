"""What an analysis found, in sentences: each with its number, the number's interval, and the table row that it is read from.

Why: tables answer whoever knows what to ask; the page says what they hold, so that a reader can go from a sentence to its row.
What it does not do: compute anything that is not in a table (see `emergence`, `foresight`, `compare`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from thinkscale.axes import AXES

_AHEAD = {"smaller, thinking more": "a smaller model", "bigger": "the biggest"}
_WINNERS = {"smaller": "a smaller model wins", "bigger": "the biggest model wins", "undecided": "neither is shown to win"}


class Finding(NamedTuple):
    """A statement in plain words, with its number, the number's interval, and the table row that it is read from."""

    text: str
    value: float
    low: float
    high: float
    table: str
    row: dict[str, Any]

    @property
    def source(self) -> str:
        """Where to look: table and key."""
        key = ", ".join(f"{name}={_short(value)}" for name, value in self.row.items())
        return f"{self.table}.parquet" + (f": {key}" if key else "")


def told_apart(row: Mapping[Any, Any], all_rows: pd.DataFrame, route: str = "route") -> str:
    """Family, prompt, route (of that column) and sampling of a row, those that vary among all of them: what begins its sentence."""
    varied = [str(row[name]) for name in ("family", "prompt", route, "sampling") if name in all_rows and len(set(all_rows[name])) > 1]
    return f"({', '.join(varied)}) " if varied else ""


def routes(best: pd.DataFrame) -> list[Finding]:
    """Which route bought accuracy on each skill, by FLOPs (see `compare.headline`)."""
    said = []
    for row in best[(best["num_problems"] > 0) & (best["axis"] == "flops")].to_dict("records"):
        what = "beats" if row["low"] > 0 else "loses to" if row["high"] < 0 else "is not shown to differ from"
        text = f"{row['benchmark']}, {row['route']}: {' '.join(row['small'].split())} {what} {row['big']}"
        text += f" at {row['cost_ratio']:.2g} of its FLOPs: {_points(row)}."
        where = {"benchmark": row["benchmark"], "route": row["route"], "axis": "flops"}
        said.append(Finding(text, row["difference"], row["low"], row["high"], "headline", where))
    return said


def turned(best: pd.DataFrame) -> list[Finding]:
    """Skills on which it depends on what is paid whether a smaller model beats the biggest one's single answer (route `any`)."""
    said = []
    for benchmark, rows in best[best["route"] == "any"].groupby("benchmark", sort=True):
        told = {row["axis"]: row for row in rows.to_dict("records")}
        by: dict[str, list[str]] = {}
        for axis in AXES:
            if axis in told:
                by.setdefault(told[axis]["winner"], []).append(axis)
        if len(by) > 1 and "flops" in told:
            parts = [f"{_AHEAD.get(winner, winner)} by {', '.join(AXES[axis] for axis in axes)}" for winner, axes in by.items()]
            text = f"{benchmark}, any route: who wins depends on what is paid: {'; '.join(parts)}."
            row = next(told[axis] for axis in AXES if axis in told and told[axis]["winner"] != told["flops"]["winner"])
            where = {"benchmark": benchmark, "route": "any", "axis": row["axis"]}
            said.append(Finding(text, row["difference"], row["low"], row["high"], "headline", where))
    return said


def won(regions: pd.DataFrame) -> list[Finding]:
    """Who wins where on the axis of compute (see `regions.win_regions`), over all problems of each benchmark.

    Another axis of cost has its sentence where not the same sides win somewhere on it.
    """
    said = []
    for benchmark, rows in regions[regions["slice"] == "all"].groupby("benchmark", sort=True):
        axes = {str(axis): group.sort_values("budget") for axis, group in rows.groupby("axis")}
        said += [_won(str(benchmark), axes["flops"], "flops")] if "flops" in axes else []
        for axis in [a for a in AXES if a != "flops" and a in axes and "flops" in axes]:
            if _sides(axes[axis]) != _sides(axes["flops"]):
                said.append(_won(str(benchmark), axes[axis], axis))
    return said


def _sides(group: pd.DataFrame) -> set[str]:
    return set(group["winner"]) - {"undecided"}


def _won(benchmark: str, group: pd.DataFrame, axis: str) -> Finding:
    runs = (group["winner"] != group["winner"].shift()).cumsum()
    parts = []
    for _, run in group.groupby(runs, sort=True):
        first, last = run.iloc[0], run.iloc[-1]
        where = f"at {last['budget']:.2g}" if len(run) == 1 else f"from {first['budget']:.2g} to {last['budget']:.2g}"
        parts.append(f"{_WINNERS[first['winner']]} {where}")
    last = group.iloc[-1]
    text = (
        f"{benchmark}: of budgets in {AXES[axis]} per problem, {', '.join(parts)}; at the largest, smaller less biggest: {_points(last)}."
    )
    row = {"benchmark": benchmark, "slice": "all", "axis": axis, "budget": float(last["budget"])}
    return Finding(text, float(last["difference"]), float(last["low"]), float(last["high"]), "regions", row)


def claimed(checked: pd.DataFrame) -> list[Finding]:
    """The comparisons that the YAML named beforehand."""
    said = []
    for row in checked.to_dict("records"):
        text = f"{row['claim']} ({row['benchmark']}): {row['verdict']}, {_points(row)}, on {row['num_problems']:.0f} problems"
        if not math.isnan(row["cost_ratio"]):
            text += f", at {row['cost_ratio']:.2g} × the FLOPs" + (": not compute-matched" if row["cost_ratio"] > 1 else "")
        said.append(Finding(text + ".", row["difference"], row["low"], row["high"], "claims", {"claim": row["claim"]}))
    return said


def _points(row: Any) -> str:
    found = f"{100 * row['difference']:+.1f} points [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return found + (", which holds no difference" if row["low"] <= 0 <= row["high"] else "")


def page(title: str, asks: str, sections: Mapping[str, Sequence[Finding]]) -> str:
    """The findings as Markdown, a section for each question."""
    lines = [f"# {title}: findings", "", asks, ""]
    for question, said in sections.items():
        told = [f"- {f.text}{_number(f)}  \n  `{f.source}`" for f in said] or ["Nothing to say."]
        lines += [f"## {question}", "", *told, ""]
    return "\n".join(lines)


def _number(finding: Finding) -> str:
    if math.isnan(finding.value):
        return ""
    interval = "" if math.isnan(finding.low) or math.isnan(finding.high) else f" [{_short(finding.low)}, {_short(finding.high)}]"
    return f" ({_short(finding.value)}{interval})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def saving(table: pd.DataFrame, graded: pd.DataFrame) -> list[Finding]:
    """What stopping early saved in each cell, which cells are not finished, and what is refused (see `adaptive.stopped`)."""
    said = []
    for row in table.to_dict("records"):
        text = f"{row['benchmark']}, {row['model']}, budget {row['thinking_budget']}: the vote at the stop is right on {row['value']:.1%} "
        text += f"[{row['low']:.1%}, {row['high']:.1%}] of {row['num_problems']} problems, after {row['mean_samples']:.1f} of "
        text += f"{row['num_samples']} samples on average ({row['saved_share']:.0%} saved) and {row['cost_flops']:.2g} FLOPs a problem."
        where = {"cell_id": row["cell_id"], "confidence": row["confidence"]}
        said.append(Finding(text, row["value"], row["low"], row["high"], "adaptive", where))
    nan = float("nan")
    open_ = graded[~graded["cell_id"].isin(list(table["cell_id"]))]
    for model, benchmark in sorted(set(zip(open_["model"].astype(str), open_["benchmark"].astype(str), strict=True))):
        text = f"{benchmark}, {model}: left out, since some of its problems still want samples, and those are the hard ones."
        said.append(Finding(text, nan, nan, nan, "adaptive", {}))
    text = "How many samples a problem has was decided by its answers: pass@k, maj@k, best-of-k, weighted votes, calibration, coverage, "
    text += "frontiers, exchange rates, emergence and forecasts are refused for such data. Take `stop` out of the YAML to draw the rest."
    return [*said, Finding(text, nan, nan, nan, "adaptive", {})]
