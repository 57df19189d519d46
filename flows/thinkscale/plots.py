"""The figures: accuracy against FLOPs per problem and against model size, and forecasts of the largest size beside what it did.

Why: which route buys accuracy is read off one picture: along a line the same model thinks longer or samples more, across lines it grows.
What it does not do: compute anything; every value, interval and flag is the summary's. Uses no display (Agg).
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from upath import UPath

from thinkscale.files import put
from thinkscale.measure import thinking_name
from thinkscale.routes import is_greedy, way
from thinkscale.summarize import deployable

_COLUMNS = {1: 1, 2: 2, 4: 2}  # of panels; 3 for all other numbers
_PANEL, _LONE_PANEL = (4.3, 3.5), (6.4, 4.4)  # inches
_GREY = "0.55"
_LINE = ["model", "prompt", "way", "sampling"]
_DASHED, _DOTTED = (0, (4, 2)), (0, (1, 1.5))
_DASHES: Any = ("-", "--", ":", "-.", (0, (6, 1, 1, 1)), (0, (1, 3)))
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def accuracy_vs_flops(summary: pd.DataFrame, path: UPath, title: str = "") -> UPath:
    """Draw accuracy against FLOPs per problem, a panel per benchmark and a colour per model size, and write it as PNG.

    Solid: one sample, along the thinking budgets or levels of effort. Dashed: majority vote of k samples at the largest. Dotted: at the
    smallest.
    Black edge: on the frontier of all points that need no oracle, also those of budgets and k that no line shows.
    """
    shown = _shown(summary)
    colours = _colours(shown, "params")
    with plt.rc_context(STYLE):
        figure, panels = _panels(shown, title)
        for axes, (benchmark, points) in zip(panels, shown.groupby("benchmark", sort=True), strict=True):
            for params, model in _lines(points):
                _draw_model(axes, model, colours[params])
            _draw_frontier(axes, points, colours)
            _finish(axes, points, str(benchmark), "FLOPs per problem")
        figure.supylabel("accuracy", fontsize=9)
        models = shown.drop_duplicates("params").sort_values("params")
        named = zip(models["params"], models["model"], strict=True)
        sizes = [Line2D([], [], color=colours[params], lw=2.2, label=f"{model} ({human(params)})") for params, model in named]
        _legend(figure, sizes, _style_handles(shown))
        return save(figure, path)


def accuracy_vs_size(summary: pd.DataFrame, path: UPath, title: str = "") -> UPath:
    """Draw one sample's accuracy against parameters, a panel per benchmark, and write it as PNG.

    A line per thinking budget or level of effort; where there are several prompts, or a greedy reference, one for each of them, too.
    """
    shown = _shown(summary)
    shown = shown[shown["k"] == 1]
    thinking = _thinking(shown)
    colours = dict(zip(thinking, _scale(len(thinking)), strict=True))
    variants = {name: _DASHES[i % len(_DASHES)] for i, name in enumerate(sorted(shown["variant"].unique()))}
    with plt.rc_context(STYLE):
        figure, panels = _panels(shown, title)
        for axes, (benchmark, points) in zip(panels, shown.groupby("benchmark", sort=True), strict=True):
            lines = list(points.sort_values(["thinking_level", "params"]).groupby(["thinking", "variant"], sort=False))
            for place, ((name, variant), line) in enumerate(lines):
                # Side by side, or the bars of the lines hide one another.
                moved = line["params"] * 1.02 ** (place - (len(lines) - 1) / 2)
                _bars(axes, moved, line, colours[str(name)], 1.0)
                axes.plot(moved, line["value"], ls=variants[variant], marker="o", color=colours[str(name)], ms=4, lw=1.6)
            _finish(axes, points, str(benchmark), "parameters")
        figure.supylabel("accuracy of one sample", fontsize=9)
        handles = [Line2D([], [], color=c, marker="o", ms=4, lw=1.6, label=f"thinking {name}") for name, c in colours.items()]
        dashes = [Line2D([], [], color="0.3", ls=ls, lw=1.6, label=name) for name, ls in variants.items()]
        _legend(figure, handles, [*(dashes if len(dashes) > 1 else []), _CHANCE, _INTERVAL])
        return save(figure, path)


def forecasts(forecast: pd.DataFrame, path: UPath, title: str = "") -> list[UPath]:
    """Draw what each method foretold of the largest size, alone left out, at each thinking budget; a panel per benchmark, as PNG.

    Black: what it did. A method without a forecast has no mark. No figure where there is nothing to forecast from.
    """
    shown = forecast[(forecast["k"] == 1) & (forecast["left_out"] == 1) & forecast["predicted"].notna()]
    if shown.empty:
        return []
    shown = _named(shown)
    shown["place"] = shown["thinking"] + (("\n" + shown["variant"]) if len(shown["variant"].unique()) > 1 else "")
    colours: dict[str, Any] = {_DONE: "black"}
    colours |= {str(method): plt.get_cmap("tab10")(i) for i, method in enumerate(shown["method"].unique())}
    with plt.rc_context(STYLE):
        figure, panels = _panels(shown, title)
        for axes, (benchmark, points) in zip(panels, shown.groupby("benchmark", sort=True), strict=True):
            places = _places(points)
            for place, (method, colour) in enumerate(colours.items()):
                _draw_forecast(axes, points, method, (colour, 0.13 * (place - (len(colours) - 1) / 2)))
            axes.set_xticks(range(len(places)), [name.removeprefix("budget ") for name in places])
            axes.set_title(f"{benchmark}: {points['model'].iloc[0]} from {points['num_sizes'].max()} smaller sizes", fontsize=9.5)
            axes.set_xlabel("thinking budget" if all(name.startswith("budget") for name in places) else "thinking")
            axes.set_ylim(-0.02, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.supylabel("accuracy of one sample", fontsize=9)
        _legend(figure, [Line2D([], [], color=c, marker="o", ms=4, lw=1.4, label=m) for m, c in colours.items()], [_SURE])
        return [save(figure, path)]


_DONE = "what it does"
_SURE = Line2D([], [], color=_GREY, lw=1, marker="|", ms=8, ls="", label="95 % interval; pale: too wide to be a forecast")


def _places(points: pd.DataFrame) -> list[str]:
    return list(points.sort_values(["thinking_budget", "place"])["place"].unique())


def _draw_forecast(axes: Axes, points: pd.DataFrame, method: str, look: tuple[Any, float]) -> None:
    done = method == _DONE
    rows = points.drop_duplicates("place") if done else points[points["method"] == method]
    value, low, high = ("observed", "observed_low", "observed_high") if done else ("predicted", "low", "high")
    places = _places(points)
    x = pd.Series([places.index(name) + look[1] for name in rows["place"]], index=rows.index, dtype=float)
    sure = (rows["outcome"] == "forecast") | done
    for kept, alpha in ((rows[sure], 1.0), (rows[~sure], 0.3)):
        axes.vlines(x[kept.index], kept[low], kept[high], color=look[0], lw=1.4, alpha=alpha)
        axes.scatter(x[kept.index], kept[value], color=[look[0]], s=14, alpha=alpha, zorder=3)


_CHANCE = Line2D([], [], color=_GREY, lw=1, ls=(0, (4, 3)), label="guessing")
_INTERVAL = Line2D([], [], color="0.3", lw=1, marker="|", ms=8, ls="", label="95 % interval over problems")


def _shown(summary: pd.DataFrame) -> pd.DataFrame:
    shown = deployable(summary[summary["slice"] == "all"])
    if shown.empty:
        raise ValueError("plots: the summary has no point of slice 'all' with a value; nothing to draw.")
    return _named(shown)


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """With the columns `way`, `thinking` (`budget 16`, `effort low`) and `variant`: the prompt, the way where there are several, greedy."""
    pairs = zip(rows["route"].astype(str), rows["thinking_budget"], strict=True)
    thinking = [thinking_name(route, budget).replace("=", " ", 1) for route, budget in pairs]
    greedy = rows["sampling"].astype(str).map(is_greedy).map({True: ", greedy", False: ""})
    ways = rows["route"].astype(str).map(way)
    variant = rows["prompt"].astype(str) + (", " + ways if len(ways.unique()) > 1 else "") + greedy
    return rows.assign(way=ways, thinking=thinking, variant=variant)


def _thinking(shown: pd.DataFrame) -> list[str]:
    """The names of thinking asked for, the least first."""
    return [str(name) for name in shown.groupby("thinking")["thinking_level"].mean().sort_values(kind="stable").index]


def _lines(points: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    groups = [(int(group["params"].iloc[0]), group) for _, group in points.groupby(_LINE, sort=True)]
    return sorted(groups, key=lambda g: g[0])


def _draw_model(axes: Axes, model: pd.DataFrame, colour: Any) -> None:
    single = model[model["k"] == 1].sort_values("thinking_level")
    votes = model[(model["k"] == 1) | (model["metric"] == "maj@k")].sort_values("k")  # choices by a score are on the frontier, if anywhere
    for level, style in {single["thinking_level"].min(): _DOTTED, single["thinking_level"].max(): _DASHED}.items():
        line = votes[votes["thinking_level"] == level]
        _bars(axes, line["cost_flops"], line[line["k"] > 1], colour, 0.35)
        axes.plot(line["cost_flops"], line["value"], ls=style, color=colour, lw=1.0, marker=".", ms=3.5, zorder=2)
    _bars(axes, single["cost_flops"], single, colour, 0.8)
    axes.plot(single["cost_flops"], single["value"], "-o", color=colour, lw=1.8, ms=4.2, zorder=3)


def _bars(axes: Axes, x: pd.Series, line: pd.DataFrame, colour: Any, alpha: float) -> None:
    axes.vlines(x.loc[line.index], line["low"], line["high"], color=colour, lw=1.0, alpha=alpha, zorder=1)


def _draw_frontier(axes: Axes, points: pd.DataFrame, colours: dict[Any, Any]) -> None:
    frontier = points[points["frontier"]].sort_values("cost_flops")
    x, y = [*frontier["cost_flops"], points["cost_flops"].max()], [*frontier["value"], frontier["value"].max()]
    axes.step(x, y, where="post", color="black", lw=0.8, alpha=0.8, zorder=1.5)
    axes.scatter(x[:-1], y[:-1], s=20, color=[colours[p] for p in frontier["params"]], edgecolors="black", linewidths=0.9, zorder=5)


def _style_handles(shown: pd.DataFrame) -> list[Line2D]:
    thinking, k = _thinking(shown), int(shown["k"].max())
    grey = "0.3"
    said = ", ".join([thinking[0], *(name.removeprefix("budget ") for name in thinking[1:])])
    handles = [Line2D([], [], color=grey, lw=1.8, marker="o", ms=4.5, label=f"one sample, thinking {said}")]
    for name, style in {thinking[0]: _DOTTED, thinking[-1]: _DASHED}.items():
        if k > 1:
            label = f"vote of up to {k} samples, {name}"
            handles.append(Line2D([], [], color=grey, lw=1.0, ls=style, marker=".", ms=3.5, label=label))
    frontier = Line2D([], [], color="black", lw=0.8, marker="o", mfc="0.8", ms=4.5, mew=0.9, label="frontier of all budgets and votes")
    return [*handles, frontier, _INTERVAL, _CHANCE]


def _panels(shown: pd.DataFrame, title: str) -> tuple[Figure, list[Axes]]:
    count = shown["benchmark"].nunique()
    columns = _COLUMNS.get(count, 3)
    rows = -(-count // columns)
    width, height = _LONE_PANEL if count == 1 else _PANEL
    size = (width * columns + 1.8, height * rows + 1.0)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axes in grid.flat[count:]:
        axes.remove()
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, list(grid.flat[:count])


def _finish(axes: Axes, points: pd.DataFrame, benchmark: str, x: str) -> None:
    skill = points["skill"].iloc[0]
    name = benchmark if skill == benchmark else f"{benchmark}: {skill}"
    axes.set_title(f"{name} ({points['num_problems'].max():,} problems)", fontsize=9.5)
    axes.axhline(points["chance"].iloc[0], color=_GREY, lw=1, ls=(0, (4, 3)), zorder=0)
    axes.set_xlabel(x)
    log_scale(axes)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def log_scale(axes: Axes) -> None:
    """A logarithmic axis of what is drawn already, with labels that do not run into each other: powers of ten, more where few."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 100 * low else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _colours(shown: pd.DataFrame, column: str) -> dict[Any, Any]:
    """A sequential colour for each value in order: light is small, dark is large."""
    values = sorted(shown[column].unique())
    return dict(zip(values, _scale(len(values)), strict=True))


def _scale(count: int) -> list[Any]:
    scale = Normalize(0, max(1, count - 1))
    return [plt.get_cmap("viridis_r")(0.1 + 0.85 * scale(i)) for i in range(count)]


def _legend(figure: Figure, colours: Sequence[Line2D], styles: Sequence[Line2D]) -> None:
    figure.legend(handles=colours, loc="outside right center", fontsize=8.5)
    figure.legend(handles=styles, loc="outside lower center", ncols=max(1, int(figure.get_figwidth() // 3.1)), fontsize=8.5)


def human(count: float) -> str:
    """1,234,567 -> `1.23M`."""
    if count >= 1e15:
        return f"{count:.3g}".replace("e+", "e")
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:g}"


def save(figure: Figure, path: UPath) -> UPath:
    """Write the figure as PNG and close it."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=160, format="png")
    plt.close(figure)
    put(path, picture.getvalue())
    return path
