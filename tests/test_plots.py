from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

import made
from thinkscale.plots import accuracy_vs_flops, accuracy_vs_size, human
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


@pytest.mark.parametrize(("count", "text"), [(950, "950"), (12_000, "12k"), (1_234_567, "1.23M"), (8.19e9, "8.19B"), (3.2e10, "32B")])
def test_sizes_are_written_short(count: float, text: str) -> None:
    assert human(count) == text
