"""Levels of effort are thinking asked for: the same answers, asked for by levels in place of budgets, lead to the same tables."""

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale import plots
from thinkscale.advice import cheapest_ways, how_to_split, worth_buying
from thinkscale.boards import boards
from thinkscale.compare import compare, headline
from thinkscale.exchange import exchange_rates, overall_rate
from thinkscale.printed import rates_table
from thinkscale.purchase import purchases
from thinkscale.routes import way
from thinkscale.split import splits
from thinkscale.summarize import deployable, summarize
from thinkscale.targets import targets

WORLD = made.World(models=("nano-50k", "nano-200k", "nano-450k"), benchmarks=("sums",), budgets=(0, 16, 64), num_samples=4)
NAMES = {0: "none", 16: "low", 64: "high"}
DRAWS = 50


def by_levels(graded: pd.DataFrame) -> pd.DataFrame:
    """The same answers, of a model that was told a level each and was cut at 64."""
    levels = "effort=" + graded["thinking_budget"].map(NAMES)
    return graded.assign(route=levels, thinking_budget=np.int32(64))


class Told:
    """What is concluded from answers."""

    def __init__(self, graded: pd.DataFrame) -> None:
        self.summary = summarize(graded, made.shapes(WORLD), made.chance(WORLD), draws=DRAWS)
        found = boards(graded, deployable(self.summary), DRAWS)
        self.tables = {
            "comparison": compare(graded, self.summary, DRAWS),
            "headline": headline(graded, self.summary, DRAWS),
            "rates": exchange_rates(graded, self.summary, DRAWS),
            "overall": overall_rate(graded, self.summary, DRAWS),
            "targets": targets(found),
            "purchase": purchases(found, {}),
            "split": splits(found),
        }


@pytest.fixture(scope="module")
def both() -> tuple[Told, Told]:
    graded = made.graded(WORLD)
    return Told(graded), Told(by_levels(graded))


def test_a_level_counts_as_the_thinking_that_it_makes_models_spend(both: tuple[Told, Told]) -> None:
    budgets, levels = (told.summary for told in both)
    assert (budgets["thinking_level"] == budgets["thinking_budget"]).all()
    single = levels[(levels["slice"] == "all") & (levels["metric"] == "pass@k") & (levels["k"] == 1)]
    expected = single.groupby("route")["mean_thinking_tokens"].mean()
    assert expected["effort=none"] == 0 < expected["effort=low"] < expected["effort=high"]
    assert (levels["thinking_level"] == levels["route"].map(expected)).all()  # one number for all sizes and slices


WORDS = ("thinking_budget", "thinking_level", "route", "setting", "safe", "small", "big", "thinking_route")


@pytest.mark.parametrize("name", ["comparison", "headline", "rates", "overall", "targets", "split"])
def test_every_comparison_is_that_of_budgets(both: tuple[Told, Told], name: str) -> None:
    budgets, levels = (told.tables[name] for told in both)
    assert len(budgets) and list(budgets.columns) == list(levels.columns)
    named = [c for c in budgets if c in WORDS or c.endswith(("_route", "thinking_budget", "_budget_low", "_budget_high"))]
    kept = [c for c in named if c == "route" and name in ("headline", "rates", "overall")]  # what is bought there
    columns = [c for c in budgets if c not in named or c in kept]
    order = [c for c in columns if not pd.api.types.is_float_dtype(budgets[c])]
    left, right = (table[columns].sort_values([*order, *columns]).reset_index(drop=True) for table in (budgets, levels))
    pd.testing.assert_frame_equal(left, right)


def test_longer_thinking_is_bought_from_level_to_level(both: tuple[Told, Told]) -> None:
    longer = both[1].tables["purchase"].query("bought == 'think longer' and reach == 'next'")
    steps = set(zip(longer["route"], longer["to_route"], strict=True))
    assert steps == {("effort=none", "effort=low"), ("effort=low", "effort=high")}
    assert (longer["model"] == longer["to_model"]).all() and (longer["thinking_budget"] == 64).all()
    grown = both[1].tables["purchase"].query("bought == 'bigger'")
    assert len(grown) and (grown["route"] == grown["to_route"]).all()


def test_levels_are_named_wherever_settings_are(both: tuple[Told, Told]) -> None:
    tables = both[1].tables
    said = [f.text for f in (*worth_buying(tables["purchase"]), *cheapest_ways(tables["targets"]), *how_to_split(tables["split"]))]
    said += [
        str(cell) for name, column in (("headline", "small"), ("headline", "big"), ("targets", "safe")) for cell in tables[name][column]
    ]
    assert any("effort=high" in text for text in said) and not any("budget=64" in text or "budget 64" in text for text in said)
    rates = rates_table(tables["overall"]).columns[1].cells
    assert set(rates) == {"think longer", *(f"sample more (effort={name})" for name in NAMES.values())}


def test_prompts_and_greedy_answers_are_named_where_there_are_several() -> None:
    graded = made.graded(WORLD)
    greedy = graded[graded["sample_index"] == 0].assign(sampling="temperature=0,top_p=1,top_k=-1,min_p=0")
    shown = graded.assign(prompt="few-shot=2", cell_id=graded["cell_id"].astype(str) + "-shown")
    told = Told(pd.concat([graded, shown, greedy.assign(cell_id=greedy["cell_id"].astype(str) + "-greedy")])).tables
    names = {*told["headline"]["small"], *told["headline"]["big"], *told["targets"]["setting"], *told["targets"]["safe"]} - {""}
    assert all("(question" in name or "(few-shot=2" in name for name in names)
    assert not any("greedy" in name for name in told["headline"]["big"])  # sampled answers are compared with sampled ones


def test_levels_without_known_tokens_are_no_longer_than_one_another() -> None:
    graded = by_levels(made.graded(WORLD)).assign(thinking_tokens=np.nan, completion_tokens=np.nan)
    summary = summarize(graded, {}, made.chance(WORLD), draws=20)
    assert (summary["thinking_level"] == 64).all()


def test_the_way_of_a_level_keeps_its_tool() -> None:
    assert [way(r) for r in ("cut", "extend=2", "effort=low", "effort=low calculator=8", "effort=very low")] == [
        *("cut", "extend=2", "effort", "effort calculator=8", "effort")
    ]


def test_a_line_over_size_joins_answers_to_one_prompt_at_one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    graded = by_levels(made.graded(WORLD))
    other = graded.assign(prompt="few-shot=2", cell_id=graded["cell_id"].astype(str) + "-other")
    summary = summarize(pd.concat([graded, other]), made.shapes(WORLD), made.chance(WORLD), draws=20)
    monkeypatch.setattr(plots, "save", lambda figure, _: figure)
    (panel,) = plots.accuracy_vs_size(summary, None).axes  # type: ignore[arg-type, attr-defined]
    lines = [line for line in panel.lines if len(line.get_xdata()) > 2]
    assert len(lines) == 2 * len(NAMES) and all((np.diff(line.get_xdata()) > 0).all() for line in lines)
    (panel,) = plots.accuracy_vs_flops(summary, None).axes  # type: ignore[arg-type, attr-defined]
    single = [line for line in panel.lines if line.get_linewidth() == 1.8]
    assert len(single) == 2 * len(WORLD.models) and all((np.diff(line.get_xdata()) > 0).all() for line in single)
