"""The figure of emergence: each skill over size with its fits and its onset, and the loss of the same models below, on one axis of size.

Why: whether a skill jumps while the loss falls smoothly is seen only where both stand over the same sizes.
What it does not do: judge; labels, onsets and intervals are the emergence table's, the fits are `onset`'s.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from upath import UPath

from thinkscale import onset
from thinkscale.curves import SkillCurve
from thinkscale.emergence import GOOD, loss_law, shown_over_size
from thinkscale.inference import Pools, interval
from thinkscale.plots import STYLE, human, log_scale, save

_DRAWS = 1000
_COLOURS = ("0.45", "tab:blue")  # smallest budget, largest budget
_LOSS = "tab:red"


def emergence_over_size(table: pd.DataFrame, curves: list[SkillCurve], path: UPath, title: str = "") -> UPath | None:
    """Draw accuracy over parameters at the smallest and the largest thinking budget, a column for each skill, and write it as PNG.

    Line: the sigmoid with chance as its floor, pale where it does not describe the curve. Dashed: the hinge with the same floor. Band:
    95 % interval of the onset. Below: held-out bits per byte with its power law, where it is known. None without a curve over size.

    Args:
        table: from `emergence.emergence`.
        curves: the curves that it was made from.
        path: where to.
        title: above the figure.
    """
    columns = list(shown_over_size(table, curves))
    if not columns:
        return None
    known = any(np.isfinite(curve.places["bits_per_byte"]).sum() >= 3 for _, pairs in columns for _, curve in pairs)
    rows = 2 if known else 1
    size = (3.6 * len(columns) + 0.6, 3.0 + 2.0 * known + 0.8)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, len(columns), figsize=size, squeeze=False, sharex="col", sharey="row", layout="constrained", height_ratios=[3, 2][:rows]
        )
        for column, (name, pairs) in enumerate(columns):
            for colour, (row, curve) in zip(_COLOURS[-len(pairs) :], pairs, strict=True):
                _skill(grid[0, column], row, curve, colour)
            _finish(grid[0, column], name, [row for row, _ in pairs])
            if known:
                _loss(grid[1, column], pairs[-1][1])
            log_scale(grid[-1, column])  # of the column: they share it
            grid[-1, column].set_xlabel("parameters")
        grid[0, 0].set_ylabel("accuracy of one sample")
        if known:
            grid[1, 0].set_ylabel("held-out bits per byte")
        if title:
            figure.suptitle(title, fontsize=11)
        figure.legend(handles=_handles(), loc="outside lower center", ncols=3, fontsize=8)
        return save(figure, path)


def _skill(axes: Axes, row: dict[str, Any], curve: SkillCurve, colour: str) -> None:
    mean, chance = curve.accuracy.mean(axis=0), curve.facts["chance"]
    ends = interval(curve.accuracy, curve.draw(Pools(_DRAWS, 0)))
    axes.vlines(curve.x, ends.low, ends.high, color=colour, lw=1)
    axes.plot(curve.x, mean, "o", color=colour, ms=4)
    x = np.log10(curve.x)
    fine = np.linspace(x[0], x[-1], 200)
    if np.isfinite(row["width"]):
        fitted = onset.sigmoid_at(fine, np.log10(row["onset"]), row["width"], row["ceiling"], chance)
        axes.plot(10**fine, fitted, color=colour, lw=1.4, alpha=1.0 if row["fit_r2"] >= GOOD else 0.3)
        low, high = np.clip([row["onset_low"], row["onset_high"]], curve.x[0], curve.x[-1])
        axes.axvspan(low, high, color=colour, alpha=0.12, lw=0)
    if 0 < row["leaves_chance"] < np.inf:
        used = onset.rising(mean, chance, onset.HALF)
        past = np.maximum(0, x[:used] - np.log10(row["leaves_chance"]))
        slope = float(past @ (mean[:used] - chance) / (past @ past))
        shown = fine[fine <= x[used - 1]]
        axes.plot(10**shown, chance + slope * np.maximum(0, shown - np.log10(row["leaves_chance"])), color=colour, lw=0.9, ls="--")
    axes.axhline(chance, color="0.55", lw=1, ls=":", zorder=0)


def _finish(axes: Axes, name: str, rows: list[dict[str, Any]]) -> None:
    axes.set_title(name, fontsize=9.5, pad=8 + 10 * len(rows))
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for place, (colour, row) in enumerate(zip(_COLOURS[-len(rows) :], rows, strict=True)):
        where = {np.inf: "no onset", 0.0: "there from the start"}.get(row["onset"], f"onset {human(row['onset'])}")
        text = f"{row['at']}: {where}, {row['label']}"
        axes.text(0, 1.02 + 0.05 * (len(rows) - 1 - place), text, transform=axes.transAxes, va="bottom", fontsize=7, color=colour)


def _loss(axes: Axes, curve: SkillCurve) -> None:
    size, loss = curve.x, curve.places["bits_per_byte"].to_numpy(float)
    axes.plot(size, loss, "s", color=_LOSS, ms=4)
    axes.set_yscale("log")
    law = loss_law(size, loss)
    if law is not None:
        axes.plot(size, law.scale * size**-law.exponent, color=_LOSS, lw=1.2)
        text = f"parameters^-{law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}], R² {law.r2:.2f}"
        axes.text(0.02, 0.05, text, transform=axes.transAxes, fontsize=7, color=_LOSS)


def _handles() -> list[Line2D]:
    low, high = _COLOURS
    return [
        Line2D([], [], color=low, marker="o", ms=4, ls="", label="smallest thinking budget"),
        Line2D([], [], color=high, marker="o", ms=4, ls="", label="largest thinking budget"),
        Line2D([], [], color="0.3", lw=1.4, label="sigmoid from chance"),
        Line2D([], [], color="0.3", lw=0.9, ls="--", label="hinge from chance, up to half of the rise"),
        Line2D([], [], color="0.3", lw=8, alpha=0.15, label="95 % interval of the onset"),
        Line2D([], [], color="0.55", lw=1, ls=":", label="guessing"),
    ]
