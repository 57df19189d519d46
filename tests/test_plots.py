import itertools
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.image import imread

import made
from thinkscale.plots import accuracy_vs_flops, accuracy_vs_size, human, log_scale
from thinkscale.summarize import summarize


def summary_of(world: made.World) -> pd.DataFrame:
    return summarize(made.graded(world), made.shapes(world), made.chance(world), draws=50)


@pytest.mark.parametrize("draw", [accuracy_vs_flops, accuracy_vs_size])
@pytest.mark.parametrize(
    "world",
    [
        made.World(num_problems=10),
        made.World(models=("nano-12k",), benchmarks=("a",), budgets=(0,), num_problems=3, num_samples=1),
        made.World(benchmarks=("a", "b", "c", "d"), budgets=(16,), num_problems=5, num_samples=2),
    ],
    ids=["many", "one point", "two rows of panels"],
)
def test_a_figure_is_drawn_for_any_shape_of_experiment(draw: object, world: made.World, tmp_path: Path) -> None:
    summary = summary_of(world)
    before = summary.copy()
    path = draw(summary, tmp_path / "plots" / "figure.png", "Title")  # type: ignore[operator]
    picture = imread(path)
    assert path == tmp_path / "plots" / "figure.png"
    assert picture.shape[0] > 300 and picture.shape[1] > 600
    assert picture[:, :, :3].std() > 0.01
    pd.testing.assert_frame_equal(summary, before)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    summary = summary_of(made.World(models=("nano-12k",), benchmarks=("a",), budgets=(0,), num_problems=3, num_samples=1))
    with pytest.raises(ValueError, match="no point of slice 'all'"):
        accuracy_vs_flops(summary[summary["slice"] != "all"], tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("count", "text"), [(950, "950"), (12_000, "12k"), (1_234_567, "1.23M"), (8.19e9, "8.19B"), (3.2e10, "32B"), (3e15, "3e15")]
)
def test_sizes_are_written_short(count: float, text: str) -> None:
    assert human(count) == text


@pytest.mark.parametrize("low", [1.1, 2e4, 7e14], ids=str)
@pytest.mark.parametrize("decades", [0.5, 1.2, 1.65, 1.99, 2.1, 3, 6])
def test_labels_of_a_logarithmic_axis_are_some_and_do_not_run_into_each_other(low: float, decades: float) -> None:
    figure, axes = plt.subplots(figsize=(3.6, 2))
    try:
        axes.plot([low, low * 10**decades], [0, 1])
        log_scale(axes)
        figure.canvas.draw()
        left, right = axes.get_xlim()
        labels = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        seen = [label.get_window_extent() for at, label in labels if left <= at <= right]
        assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))
        assert len(seen) >= 2 and all(a.x1 < b.x0 for a, b in itertools.pairwise(seen))
    finally:
        plt.close(figure)
