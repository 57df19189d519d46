"""At equal compute: does a smaller model that thinks more beat a bigger one that thinks less? Every pair, the named claims, a short table.

Why: two intervals side by side hide what pairing shows; here every difference is taken problem by problem, over the same draws of problems.
What it does not do: correct `compare` for the number of pairs (it lists them all; claims are named before the data are drawn, and the
short table chooses on one half of the problems and scores on the other), or use metrics that need an oracle.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from thinkscale import inference, schema
from thinkscale.axes import known_axes
from thinkscale.config import Claim, PointRef
from thinkscale.inference import Floats, Interval, Pools, Resampling
from thinkscale.measure import Cell, Point, measure, setting_names, slice_name, slices
from thinkscale.routes import is_greedy
from thinkscale.summarize import deployable, typed

_ROUNDING = 1e-12
_CHUNK = 1000  # pairs at once: 1,000 × 1,000 draws are 8 MB
_SHOWN = ("cell_id", "model", "params", "route", "thinking_budget", "metric", "k", "cost_flops", "cost_tokens")
_DIFFERENCE = (-1.0, 1.0)
ROUTES = ("think longer", "sample more", "both")
HEADLINE_ROWS = 12
_NONE = "no smaller setting is as cheap"
_VERDICT = {"smaller, thinking more": "smaller", "bigger": "bigger", "no difference shown": "not shown", _NONE: "none is as cheap"}


class ClaimError(ValueError):
    """A claim names a point that is there more than once."""


class _Side(NamedTuple):
    """One side of a claim."""

    cell_id: str | None
    """None: nothing was answered there."""
    problems: pd.DataFrame
    """value and cluster_id of each problem, by problem id."""


class _Pairs(NamedTuple):
    """Row numbers in a frame of points."""

    small: NDArray[np.int64]
    big: NDArray[np.int64]


def compare(graded: pd.DataFrame, summary: pd.DataFrame, draws: int = 1000, seed: int = 0, axis: str = "flops") -> pd.DataFrame:
    """The comparison table (`schema.COMPARISON`).

    One row per benchmark, slice and pair: a smaller model that is asked to think more (`thinking_level`) or has more samples (and neither
    smaller), against a bigger model that costs at least as much per problem. Metrics that need no oracle: pass@1 and maj@k. Values and
    differences are over the problems that both sides answered; costs are the summary's.

    Args:
        graded: one row per answer.
        summary: from `summarize` of the same rows.
        draws: bootstrap draws.
        seed: fixes them.
        axis: of cost, on which the smaller model must be as cheap (see `axes.AXES`).
    """
    parts: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell, slice_ in slices(measure(graded, seed=seed)):
        kept = Cell(cell.facts, cell.problems[slice_.rows].reset_index(drop=True), cell.points, cell.estimates[slice_.rows])
        parts.setdefault((cell.facts["benchmark"], slice_.name), {})[cell.facts["cell_id"]] = kept
    pools = Pools(draws, seed)
    tables = []
    shown = _paid(deployable(summary), axis)
    for (benchmark, name), cells in sorted(parts.items()):
        points = shown[(shown["benchmark"] == benchmark) & (shown["slice"] == name)].reset_index(drop=True)
        tables += _table(points, _pairs(points), cells, pools, f"{benchmark} {name}")
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=schema.COMPARISON.names)
    return typed(table.sort_values(list(schema.COMPARISON.key)), schema.COMPARISON)


def _paid(points: pd.DataFrame, axis: str) -> pd.DataFrame:
    """With the column `paid`: the cost on an axis. Raises ValueError where the summary has none on it."""
    if f"cost_{axis}" not in points:
        raise ValueError(f"no cost on the axis '{axis}': this summary has {', '.join(known_axes(points))}. See axes.priced for more.")
    return points.assign(paid=points[f"cost_{axis}"], paid_axis=axis)


def _pairs(points: pd.DataFrame) -> _Pairs:
    params, level, k, cost = (points[c].to_numpy()[:, None] for c in ("params", "thinking_level", "k", "paid"))
    more = (level >= level.T) & (k >= k.T) & ((level > level.T) | (k > k.T))
    prompt, greedy = points["prompt"].astype(str).to_numpy()[:, None], _greedy(points).to_numpy()[:, None]
    alike = (prompt == prompt.T) & (greedy == greedy.T)  # samplings may be each model's own, but greedy is another law
    return _Pairs(*np.nonzero((params < params.T) & more & (cost <= cost.T) & alike))


def _greedy(points: pd.DataFrame) -> pd.Series:
    return points["sampling"].astype(str).map(is_greedy).astype(bool)


def _table(points: pd.DataFrame, pairs: _Pairs, cells: dict[str, Cell], pools: Pools, name: str) -> list[pd.DataFrame]:
    """Rows of one benchmark and slice; pairs are grouped by the sets of problems of their sides, mostly one."""
    groups: dict[str, int] = {}
    ids = {c: "\n".join(cells[c].problems["problem_id"]) for c in points["cell_id"].unique()}
    group = np.array([groups.setdefault(ids[c], len(groups)) for c in points["cell_id"]], np.int64)
    tables = []
    for a, b in sorted(set(zip(group[pairs.small], group[pairs.big], strict=True))):
        mine = np.flatnonzero((group[pairs.small] == a) & (group[pairs.big] == b))
        first, second = (cells[points["cell_id"].iloc[side[mine[0]]]].problems for side in pairs)
        problems = first[first["problem_id"].isin(second["problem_id"])].reset_index(drop=True)
        if len(problems):
            values = _values(points[np.isin(group, (a, b))], cells, problems)
            tables += _differences(points, _Pairs(pairs.small[mine], pairs.big[mine]), values, _pool(pools, name, problems))
    return tables


def _pool(pools: Pools, name: str, problems: pd.DataFrame) -> Resampling:
    return pools.get(name, problems["problem_id"].tolist(), problems["cluster_id"].tolist())


def _differences(points: pd.DataFrame, pairs: _Pairs, values: pd.DataFrame, draws: Resampling) -> list[pd.DataFrame]:
    """Rows of pairs whose sides are columns of `values`, all over the same problems."""
    numbers, labels = values.to_numpy(), values.columns.to_numpy()
    means, replicates = numbers.mean(axis=0), numbers.T @ draws.weights.T
    tables = []
    for start in range(0, len(pairs.small), _CHUNK):
        some = _Pairs(pairs.small[start : start + _CHUNK], pairs.big[start : start + _CHUNK])
        small, big = (np.searchsorted(labels, side) for side in some)  # labels are in order: `_values` keeps that of the points
        ends = inference.quantiles(replicates[small] - replicates[big])
        ends = inference.agreeing(numbers[:, small] - numbers[:, big], ends, draws.cluster, _DIFFERENCE)
        tables.append(_columns(points, some, (means[small], means[big]), ends).assign(num_problems=len(values)))
    return tables


def _values(points: pd.DataFrame, cells: dict[str, Cell], problems: pd.DataFrame) -> pd.DataFrame:
    """Problems × points: each point's value for each of these problems; columns carry the points' row labels."""
    columns = {}
    rows_at = {c: pd.Index(cells[c].problems["problem_id"]).get_indexer(problems["problem_id"]) for c in points["cell_id"].unique()}
    for label, cell_id, metric, k in zip(points.index, points["cell_id"], points["metric"], points["k"], strict=True):
        columns[label] = cells[cell_id].estimates[rows_at[cell_id], cells[cell_id].points.index(Point(metric, k))]
    return pd.DataFrame(columns)


def _columns(points: pd.DataFrame, pairs: _Pairs, values: tuple[Floats, Floats], ends: Interval) -> pd.DataFrame:
    small, big = (points.iloc[rows].reset_index(drop=True) for rows in pairs)
    sides = [side[list(_SHOWN)].add_prefix(word) for side, word in ((small, "small_"), (big, "big_"))]
    difference = np.round(values[0] - values[1], 12)
    longer, more = small["thinking_level"] > big["thinking_level"], small["k"] > big["k"]
    return pd.concat([small[["benchmark", "skill", "slice"]], *sides], axis=1).assign(
        small_value=values[0],
        big_value=values[1],
        cost_ratio=small["paid"] / big["paid"],
        dearer_on=_dearer(points.iloc[pairs.small], points.iloc[pairs.big]),
        difference=difference,
        low=ends.low,
        high=ends.high,
        route_bought=np.select([longer & more, longer], ["both", "think longer"], "sample more"),
        winner=np.select([ends.low > 0, ends.high < 0], ["smaller, thinking more", "bigger"], "no difference shown"),
    )


def _dearer(small: pd.DataFrame, big: pd.DataFrame) -> list[str]:
    """For each pair the other axes of cost on which the smaller model is the dearer one: there the comparison is not at equal cost."""
    axes = [a for a in ("flops", "tokens", "steps", "kv_bytes") if a not in set(small["paid_axis"])]
    dear = [small[f"cost_{a}"].to_numpy() > big[f"cost_{a}"].to_numpy() * (1 + _ROUNDING) for a in axes]
    return [", ".join(a for a, is_dear in zip(axes, row, strict=True) if is_dear) for row in zip(*dear, strict=True)]


def claims(
    graded: pd.DataFrame, wanted: Sequence[Claim], draws: int = 2000, seed: int = 0, summary: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The claims table (`schema.CLAIMS`): each claim's paired difference over the problems that both sides answered.

    A claim whose side has no rows, or fewer samples than k, is `not shown`. `summary` gives what the sides cost; without it, costs are
    unknown.
    Raises: ClaimError where a side fits more than one cell.
    """
    if not wanted:
        return typed(pd.DataFrame(columns=schema.CLAIMS.names), schema.CLAIMS)
    cells, pools = measure(graded, seed=seed), Pools(draws, seed)
    rows = []
    for claim in wanted:
        sides = [_side(cells, claim, ref) for ref in (claim.better, claim.worse)]
        both = pd.concat([side.problems for side in sides], axis=1, join="inner", keys=["better", "worse"]).sort_index()
        values = both.xs("value", axis=1, level=1).to_numpy(dtype=np.float64)
        low = high = p = np.nan
        if len(both) and not np.isnan(values).any():
            problems = pd.DataFrame({"problem_id": both.index, "cluster_id": both["better"]["cluster_id"].to_numpy()})
            sample = _pool(pools, f"{claim.benchmark} {slice_name(claim.difficulty)}", problems)
            _, low, high, _, p = inference.paired_difference(values[:, 0], values[:, 1], sample)
        better, worse = values.mean(axis=0) if len(both) else (np.nan, np.nan)
        rows.append(
            {
                "claim": claim.name,
                "benchmark": claim.benchmark,
                "slice": slice_name(claim.difficulty),
                "better": point_name(claim.better),
                "worse": point_name(claim.worse),
                "better_value": better,
                "worse_value": worse,
                "difference": better - worse,
                "low": low,
                "high": high,
                "p": p,
                "num_problems": len(both),
                "cost_ratio": _flops(summary, sides[0], claim, claim.better) / _flops(summary, sides[1], claim, claim.worse),
                "verdict": "holds" if low > 0 else "refuted" if high < 0 else "not shown",
            }
        )
    table = pd.DataFrame(rows)
    return typed(table.assign(p_holm=inference.holm(table["p"])), schema.CLAIMS)


def _flops(summary: pd.DataFrame | None, side: _Side, claim: Claim, ref: PointRef) -> float:
    """What this side's own cell costs: prompts and routes of one model and budget cost unlike amounts."""
    if summary is None:
        return float("nan")
    wanted = {"cell_id": side.cell_id, "slice": slice_name(claim.difficulty), "metric": ref.metric, "k": ref.k}
    found = summary.loc[np.logical_and.reduce([summary[c] == v for c, v in wanted.items()]), "cost_flops"]
    return float(found.iloc[0]) if len(found) else float("nan")


def point_name(ref: PointRef) -> str:
    """`model budget=64 maj@16`."""
    among = "".join(f" {name}" for name in (ref.route, ref.prompt) if name is not None)
    return f"{ref.model} budget={ref.thinking_budget} {ref.metric.replace('@k', f'@{ref.k}')}{among}"


def _side(cells: list[Cell], claim: Claim, ref: PointRef) -> _Side:
    """The one cell that a side of a claim means. Raises ClaimError where it fits several."""
    wanted = {"benchmark": claim.benchmark, "model": ref.model, "thinking_budget": ref.thinking_budget}
    wanted |= {key: value for key, value in (("route", ref.route), ("prompt", ref.prompt)) if value is not None}
    fit = [c for c in cells if all(c.facts[key] == value for key, value in wanted.items())]
    found = [c for c in fit if not is_greedy(str(c.facts["sampling"]))] or fit  # a greedy reference beside what is sampled is not meant
    if len(found) > 1:
        names = ", ".join(f"{c.facts['cell_id']} (prompt {c.facts['prompt']}, {c.facts['route']}, {c.facts['sampling']})" for c in found)
        raise ClaimError(
            f"claims.{claim.name}: {point_name(ref)} fits {len(found)} cells: {names}. Say `prompt` or `route`, or keep one sampling."
        )
    if not found:
        return _Side(None, pd.DataFrame({"value": np.zeros(0), "cluster_id": pd.Series([], dtype=str)}, index=pd.Index([], dtype=str)))
    (cell,) = found
    point = Point(ref.metric, ref.k)
    values = cell.estimates[:, cell.points.index(point)] if point in cell.points else np.full(len(cell.problems), np.nan)
    side = pd.DataFrame({"value": values, "cluster_id": cell.problems["cluster_id"].to_numpy()}, index=cell.problems["problem_id"])
    asked = slice(None) if claim.difficulty is None else cell.problems["difficulty"].to_numpy() == claim.difficulty
    return _Side(cell.facts["cell_id"], side.loc[asked])


def headline(
    graded: pd.DataFrame, summary: pd.DataFrame, draws: int = 2000, seed: int = 0, axes: Sequence[str] = ("flops",)
) -> pd.DataFrame:
    """For each benchmark, axis of cost and route: a smaller model's best setting against the biggest one's answer at its least budget.

    Winner's curse: the best of many settings looks better on the problems that chose it than it is. So the problems (clusters) are split
    in two halves by the seed; the setting is chosen on each half, the cheaper one where two are equal, and scored on the other half.
    `difference` is the mean over all problems, each scored with the setting that the other half chose; its interval is over problems,
    given the two choices. Settings that cost more than the reference on the axis are no candidates. Route `any` chooses among all of them.
    """
    cells = {c.facts["cell_id"]: c for c in measure(graded, seed=seed)}
    pools = Pools(draws, seed)
    rows: list[dict[str, Any]] = []
    for benchmark, points in deployable(summary[summary["slice"] == "all"]).groupby("benchmark", sort=True):
        points = points.reset_index(drop=True).assign(setting=setting_names)
        single = points[(points["k"] == 1) & (points["params"] == points["params"].max())]
        reference = int(single.assign(greedy=_greedy(single)).sort_values(["greedy", "thinking_level", "cost_flops"]).index[0])
        for axis in axes:
            points = _paid(points, axis)
            pairs = _pairs(points)
            candidates = points.loc[pairs.small[pairs.big == reference]]
            longer, more = candidates["thinking_level"] > points.loc[reference, "thinking_level"], candidates["k"] > 1
            for route, mine in (("think longer", ~more), ("sample more", ~longer), ("both", longer & more), ("any", longer | more)):
                row = _crossfit(points.loc[[reference]], candidates[mine].sort_values("paid"), cells, pools, seed)
                rows.append({"benchmark": benchmark, "route": route, "axis": axis, **row})
    return typed(pd.DataFrame(rows, columns=schema.HEADLINE.names), schema.HEADLINE)


def _crossfit(reference: pd.DataFrame, fits: pd.DataFrame, cells: dict[str, Cell], pools: Pools, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        **{"skill": reference["skill"].iloc[0], "big": reference["setting"].iloc[0], "big_value": reference["value"].iloc[0]},
        **{"small": "", "small_value": np.nan},
        **{"cost_ratio": np.nan, "difference": np.nan, "low": np.nan, "high": np.nan, "num_problems": 0, "winner": _NONE},
    }
    problems = cells[reference["cell_id"].iloc[0]].problems
    for cell_id in fits["cell_id"].unique():
        problems = problems[problems["problem_id"].isin(cells[cell_id].problems["problem_id"])]
    clusters = problems["cluster_id"].unique()
    if fits.empty or len(clusters) < 2:
        return row
    values = _values(fits, cells, problems)[fits.index].to_numpy()
    big = _values(reference, cells, problems).to_numpy()[:, 0]
    shuffled = np.random.default_rng([seed, 1]).permutation(np.sort(clusters.astype(str)))
    half = problems["cluster_id"].isin(shuffled[: len(shuffled) // 2]).to_numpy()
    chosen = [int(np.argmax(np.round(values[h].mean(axis=0), 12))) for h in (half, ~half)]
    small = np.where(half, values[:, chosen[1]], values[:, chosen[0]])
    sample = _pool(pools, f"{reference['benchmark'].iloc[0]} headline", problems)
    (low,), (high,) = inference.interval((small - big)[:, None], sample, _DIFFERENCE)
    winner = "smaller, thinking more" if low > 0 else "bigger" if high < 0 else "no difference shown"
    share = half.mean() * np.array([0, 1]) + (~half).mean() * np.array([1, 0])
    ratio = float(fits["paid"].to_numpy()[chosen] @ share / reference["paid"].iloc[0])
    names = " or\n".join(dict.fromkeys(fits["setting"].iloc[c] for c in chosen))
    row |= {"small": names, "small_value": small.mean(), "big_value": big.mean(), "cost_ratio": ratio}
    return row | {"difference": (small - big).mean(), "low": low, "high": high, "num_problems": len(problems), "winner": winner}


def comparison_table(best: pd.DataFrame) -> Table:
    """A short table of `headline` by FLOPs: a row per skill and route; one per skill where those were over 12. Fits 100 columns."""
    best = best[best["axis"] == "flops"]
    routes = best[best["route"] != "any"]
    shown = routes if len(routes) <= HEADLINE_ROWS else best[best["route"] == "any"].head(HEADLINE_ROWS)
    caption = (
        "Only settings that cost at most as much as the bigger model (cost: share of its FLOPs per problem). Each was chosen on one half "
        "of the problems and scored on the other, both ways (two settings: the halves chose differently). Difference in points, 95 % "
        "interval paired by problem; 'not shown': it holds 0."
    )
    table = Table(title="A smaller model that thinks more, or a bigger one?", caption=caption, caption_justify="left", title_justify="left")
    for name, justify in (("skill, route", "left"), ("model, setting", "left"), ("right", "right"), ("cost", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("difference", justify="right")
    table.add_column("winner")
    for benchmark, rows in shown.groupby("benchmark", sort=True):
        one = rows.iloc[0]
        table.add_section()
        table.add_row(f"[bold]{benchmark}", f"[bold]{one['big']}", f"[bold]{one['big_value']:.1%}", "[bold]1", "", "")
        for row in rows.to_dict("records"):
            numbers = ("", "", "")
            if row["num_problems"]:
                numbers = (f"{row['small_value']:.1%}", f"{row['cost_ratio']:.2f}", _points(row["difference"], row["low"], row["high"]))
            table.add_row(f"  {row['route']}", row["small"] or "-", *numbers, _VERDICT[row["winner"]])
    return table


def _points(difference: float, low: float, high: float) -> str:
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
