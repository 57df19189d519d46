"""From rows to conclusions: curves hold what they say, tables keep their declarations, sentences their numbers."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from upath import UPath

import made
from skills_made import LAWS, Law
from thinkscale import schema
from thinkscale.advice import beyond_samples
from thinkscale.calibration import calibration, confident_before_onset
from thinkscale.coverage import CHOSEN, coverage
from thinkscale.curves import About, SkillCurve, skill_curves
from thinkscale.emergence import emergence, findings, loss_law
from thinkscale.emergence_plots import emergence_over_size
from thinkscale.summarize import summarize
from thinkscale.thresholds import thresholds
from thinkscale.tidy import complete

WORLD = made.World(models=tuple(made.MODELS), benchmarks=("sums",), budgets=(0, 8, 24, 64), num_problems=40, num_samples=4)
ABOUT = {name: About("nano", 2e7, 100 * size**-0.4) for name, size in made.MODELS.items()}


def curves_of(graded: pd.DataFrame, about: dict[str, About] | None = None, chance: float = 0.1) -> list[SkillCurve]:
    level = {str(b): chance for b in graded["benchmark"].unique()}
    summary = summarize(graded, made.shapes(WORLD) if "trace_set_id" in graded else {}, level, draws=20)
    return skill_curves(graded, summary, level, ABOUT if about is None else about)


def rows_of(laws: dict[str, Law], seed: int = 0) -> pd.DataFrame:
    """Graded rows, as somebody else would give them, of skills with known laws; partial credit and the gold answer's log-probability."""
    parts = []
    for name, law in laws.items():
        x, accuracy, nll = law.answers(seed, "gold_logprob")
        _, _, partial = law.answers(seed, "partial")
        n = law.samples
        for i, place in enumerate(x):
            right = np.arange(n)[None, :] < np.round(accuracy[:, i] * n)[:, None]
            # Partial credit goes with the mean of the problem; wrong answers carry what the right ones leave of it.
            left = (partial.value[:, i] * n - right.sum(1)) / np.maximum(n - right.sum(1), 1)
            named = {"model": f"m{i}", "params": int(1e4 * 10**place), "benchmark": name, "gold_tokens": law.tokens}
            ids = {"problem_id": np.repeat(np.arange(len(accuracy)), n), "sample_index": np.tile(np.arange(n), len(accuracy))}
            told = {"gold_logprob": np.repeat(-nll.value[:, i] * law.tokens, n), "partial": np.where(right, 1.0, left[:, None]).ravel()}
            told["brier"] = np.repeat(nll.value[:, i] / 5, n)  # any loss: the less, the better
            parts.append(pd.DataFrame({**named, **ids, **told, "correct": right.ravel()}))
    return complete(pd.concat(parts, ignore_index=True))


STILL = {name: dataclasses.replace(LAWS[name], noise=0.02) for name in ("smooth, two tokens", "mirage, 10 tokens", "emergent, middle")}


@pytest.fixture(scope="module")
def judged() -> dict[str, pd.DataFrame]:
    """The emergence table of three skills with known laws, by each granular metric; and by none."""
    rows = rows_of(STILL)
    names = ["brier", "gold_logprob", "partial", "none"]
    without = {name: names[:i] for i, name in enumerate(names)}
    return {name: emergence(curves_of(rows.drop(columns=c), {}, chance=0.0), 300) for name, c in without.items()}


@pytest.mark.parametrize("granular", ["brier", "gold_logprob", "partial", "none"])
def test_skills_of_others_get_their_labels_from_rows(judged: dict[str, pd.DataFrame], granular: str) -> None:
    found = judged[granular].set_index("benchmark")
    labels = {"smooth, two tokens": "smooth", "mirage, 10 tokens": "mirage", "emergent, middle": "emergent"}
    if granular == "none":
        labels = {name: label if label == "smooth" else "apparent emergence (metric not checked)" for name, label in labels.items()}
    assert found["label"].to_dict() == labels
    assert set(found["granular"]) == {granular} and set(found["axis"]) == {"size"} and set(found["at"]) == {"budget=0"}
    emergent = found.loc["emergent, middle"]
    assert 1e5 < emergent["onset_low"] <= emergent["onset"] <= emergent["onset_high"] <= 1e6  # the loss turns down at 100,000
    assert 1e5 < emergent["leaves_chance"] < emergent["onset"]
    assert (found["p_bh"].dropna() >= found["p"].dropna() - 1e-12).all()


def test_a_brier_score_is_a_loss_that_falls_as_accuracy_rises() -> None:
    rows = rows_of({"mirage, 10 tokens": STILL["mirage, 10 tokens"]})
    (curve,) = [c for c in curves_of(rows, {}, chance=0.0) if c.facts["axis"] == "size"]
    assert [g.name for g in curve.granular] == ["brier", "gold_logprob", "partial"]
    brier = curve.granular[0]
    assert not brier.closeness and (np.diff(brier.value.mean(axis=0)) < 0).all() and (np.diff(curve.accuracy.mean(axis=0)) >= 0).all()
    assert brier.level(np.full((1, len(brier.value)), 1 / len(brier.value)))[0] == pytest.approx(np.log(brier.value.mean(axis=0)))


def test_a_skill_that_accelerates_is_concave_in_pass_until_space(judged: dict[str, pd.DataFrame]) -> None:
    found = judged["none"].set_index("benchmark")
    smooth = found.loc["smooth, two tokens"]
    assert smooth["curvature_low"] <= 0.35 and smooth["curvature_high"] >= -0.35


def test_curves_run_over_size_thinking_samples_and_training() -> None:
    graded = made.graded(WORLD)
    curves = curves_of(graded)
    whole = [c for c in curves if c.facts["slice"] == "all"]
    count = pd.Series([c.facts["axis"] for c in whole]).value_counts().to_dict()
    assert count == {"size": 4, "thinking": 7, "samples": 28}
    (one,) = [c for c in whole if c.facts["axis"] == "size" and c.facts["thinking_budget"] == 24]
    assert one.places["params"].tolist() == sorted(made.MODELS.values()) and one.x.tolist() == one.places["params"].tolist()
    for i, model in enumerate(one.places["model"]):
        mine = graded[(graded["model"] == model) & (graded["thinking_budget"] == 24)]
        expected = mine.groupby("problem_id", observed=True)["correct"].mean()
        assert one.accuracy[:, i] == pytest.approx(expected.loc[one.problems["problem_id"]].to_numpy())
    assert one.granular == ()  # partial credit that is all or nothing is not granular
    for curve in curves:
        assert (np.diff(curve.x) > 0).all() and not np.isnan(curve.accuracy).any()


def test_checkpoints_stand_in_the_training_curve_and_only_the_last_in_the_size_curve() -> None:
    graded = made.graded(WORLD)
    names = list(made.MODELS)
    # Let three of the models be earlier checkpoints of the fourth.
    size = made.MODELS[names[3]]
    graded = graded.assign(params=graded["params"].where(~graded["model"].isin(names[:4]), size))
    graded = graded.assign(params_active=graded["params"])
    about = {name: About("nano", 1e6 * 2**i if i < 4 else 8e6) for i, name in enumerate(names)}
    curves = [c for c in curves_of(graded, about) if c.facts["slice"] == "all"]
    training = [c for c in curves if c.facts["axis"] == "training"]
    assert sorted(c.facts["thinking_budget"] for c in training) == [0, 8, 24, 64]
    assert all(c.places["model"].tolist() == names[:4] and c.x.tolist() == [1e6, 2e6, 4e6, 8e6] for c in training)
    assert {c.facts["at"] for c in training} == {f"model={names[3]}, budget={b}" for b in (0, 8, 24, 64)}
    assert all(c.places["model"].tolist() == names[3:] for c in curves if c.facts["axis"] == "size")
    table = thresholds(curves, 100)
    longer = table[table["bought"] == "train longer"]
    assert set(longer["unit"]) == {"training_tokens", "training_flops"}
    wide = longer.pivot_table(index=["at", "level"], columns="unit", values="threshold")
    inside = wide[(wide["training_tokens"] > 0) & np.isfinite(wide["training_tokens"])]
    assert len(inside) and (inside["training_flops"] / inside["training_tokens"]).to_numpy() == pytest.approx(
        np.full(len(inside), 6.0 * size)
    )


def test_problems_that_a_model_lacks_leave_all_places() -> None:
    graded = made.graded(WORLD)
    missing = (graded["model"] == "nano-50k") & (graded["problem_id"] == "sums-0003")
    curves = [c for c in curves_of(graded[~missing]) if c.facts["axis"] == "size" and c.facts["slice"] == "all"]
    assert all(len(c.problems) == 39 and "sums-0003" not in set(c.problems["problem_id"]) for c in curves)


def test_families_never_mix() -> None:
    about = {name: About("a" if i % 2 else "b") for i, name in enumerate(made.MODELS)}
    curves = [c for c in curves_of(made.graded(WORLD), about) if c.facts["axis"] == "size" and c.facts["slice"] == "all"]
    assert {(c.facts["family"], len(c.x)) for c in curves} == {("a", 3), ("b", 4)}


def test_thresholds_are_where_the_accuracy_is() -> None:
    table = thresholds(curves_of(made.graded(WORLD)), 200)
    assert table["accuracy"].round(6).isin([0.19, 0.55]).all()
    bigger = table[(table["bought"] == "bigger") & (table["slice"] == "all") & (table["level"] == "half") & (table["at"] == "budget=0")]
    assert set(bigger["unit"]) == {"params", "training_flops", "cost_flops"}
    (row,) = bigger[bigger["unit"] == "params"].itertuples()
    assert row.low <= row.threshold <= row.high and row.smallest < row.threshold < row.largest
    truth = {m: made.truth(WORLD, 0, m, 0).mean() for m in made.MODELS}
    sizes, values = np.array(list(made.MODELS.values())), np.array(list(truth.values()))
    known = 10 ** np.interp(0.55, values, np.log10(sizes))
    assert row.low <= known <= row.high
    more = table[table["bought"] == "sample more"]
    assert set(more["metric"]) == {"maj@k"} and set(more["unit"]) == {"cost_flops"} and set(more["slice"]) == {"all"}
    assert ((table["threshold"] == 0) | (table["threshold"] >= table["smallest"] * 0.999)).all()
    assert (table[np.isinf(table["threshold"])]["share_never"] > 0.2).all()


def test_a_curve_that_falls_back_is_called_a_poor_fit() -> None:
    graded = made.graded(dataclasses.replace(WORLD, budgets=(0,)))
    right = graded["model"].isin(["nano-50k", "nano-1m"])
    relearned = graded.assign(correct=right, correct_unforced=right, answer_class=np.where(right, "gold", "w0"))
    curves = curves_of(relearned)
    table = emergence(curves, 100)
    assert (table["fit_r2"].dropna() < 0.9).all() and "poor fit" in findings(table, curves)[0].text


def test_few_sizes_give_an_empty_table_with_all_its_columns() -> None:
    curves = curves_of(made.graded(made.World(models=("nano-12k", "nano-1m"), benchmarks=("sums",), budgets=(0, 8), num_samples=2)))
    assert curves == [] and findings(emergence(curves, 50), curves) == []
    assert list(emergence(curves, 50).columns) == schema.EMERGENCE.names
    assert list(thresholds(curves, 50).columns) == schema.THRESHOLDS.names


@pytest.mark.parametrize("flat", [0.0, 1.0], ids=["nobody can", "all can"])
def test_all_wrong_and_all_right_are_said_and_drawn(flat: float, tmp_path: object) -> None:
    curves = curves_of(made.graded(dataclasses.replace(WORLD, flat=flat, num_problems=10)))
    table = emergence(curves, 100)
    sized = table[(table["axis"] == "size") & (table["slice"] == "all")]
    assert (sized["onset"] == (np.inf if flat == 0 else 0)).all()
    assert set(sized["label"]) == ({"inconclusive"} if flat == 0 else {"smooth"})
    assert (sized["why"] == ("below floor" if flat == 0 else "")).all()
    said = findings(table, curves)
    assert ("no onset up to the largest size" if flat == 0 else "at the smallest size already") in said[0].text
    path = emergence_over_size(table, curves, UPath(str(tmp_path)) / "figure.png")
    assert path is not None and imread(str(path)).shape[0] > 300


def test_findings_hold_the_number_the_interval_and_the_row_they_are_from(tmp_path: object) -> None:
    curves = curves_of(made.graded(WORLD))
    table = emergence(curves, 200)
    skills = findings(table, curves)
    assert [f.row["at"] for f in skills] == ["budget=0", "budget=64"]
    for found in skills:
        (row,) = table.loc[np.logical_and.reduce([table[name] == value for name, value in found.row.items()])].to_dict("records")
        assert (found.value, found.low, found.high) == (row["onset"], row["onset_low"], row["onset_high"])
        assert row["label"] in found.text
    again = emergence(curves, 200)
    pd.testing.assert_frame_equal(table, again)
    path = emergence_over_size(table, curves, UPath(str(tmp_path)) / "figure.png", "Title")
    assert path is not None and imread(str(path)).shape[1] > 400


def test_sentences_of_several_prompts_and_families_say_which_they_are_of() -> None:
    one = made.graded(WORLD).astype({"cell_id": str, "prompt": str})
    graded = pd.concat([one, one.assign(cell_id=one["cell_id"] + "b", prompt="few-shot=2")])
    emerged = emergence(curves_of(graded), 50)
    agreed, covered = calibration(graded, 50), coverage(graded[graded["thinking_budget"] == 0], 50)
    said = [*findings(emerged, curves_of(graded)), *confident_before_onset(agreed, emerged), *beyond_samples(covered)]
    said = [f.text for f in said if f.row != {"law": CHOSEN}]
    assert len(said) >= 7 and all(text.startswith(("(question) sums, ", "(few-shot=2) sums, ")) for text in said), said
    apart = [one.assign(cell_id=one["cell_id"] + family, model=one["model"].astype(str) + family) for family in "ab"]
    about = {f"{name}{family}": About(family) for name in made.MODELS for family in "ab"}
    tidy = complete(pd.concat(apart)[["model", "params", "problem_id", "sample_index", "correct", "thinking_budget"]])
    curves = curves_of(tidy, about)
    assert {f.text[:4] for f in findings(emergence(curves, 50), curves)} == {"(a) ", "(b) "}


def test_the_loss_law_is_found_with_its_interval_and_needs_three_sizes() -> None:
    size = np.array([1e4, 3e4, 1e5, 3e5, 1e6])
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(5))
    law = loss_law(size, 30 * size**-0.3 * noise)
    assert law is not None and law.low < 0.3 < law.high and law.sizes == 5 and law.r2 > 0.98
    assert loss_law(size, np.array([1, np.nan, np.nan, 0.5, 0])) is None
