"""Agreement as confidence: by hand, unbiased for the answer's probability, indifferent to order, honest without answers."""

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale import schema
from thinkscale.calibration import agreement, calibration, confident_before_onset
from thinkscale.tidy import complete


def rows(answers: list[list[str | None]], gold: str = "g") -> pd.DataFrame:
    """A cell: each problem's answers."""
    told = [(p, i, a, a == gold) for p, group in enumerate(answers) for i, a in enumerate(group)]
    frame = pd.DataFrame(told, columns=["problem_id", "sample_index", "answer_class", "correct"])
    return complete(frame.assign(model="m", params=10))


def test_agreement_leaves_the_sample_itself_out() -> None:
    found = agreement(np.array([0, 0, 0, 0, 1, 1]), pd.Series(["a", "a", "b", None, None, None]))
    assert found.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 0, 0])


def test_by_hand() -> None:
    (row,) = calibration(rows([["g"] * 4, ["x"] * 4, ["x", "x", "x", "g"], [None, "x", "y", "g"]]), 200).to_dict("records")
    assert row["accuracy"] == pytest.approx((4 + 0 + 1 + 1) / 16)
    assert row["confidence"] == pytest.approx((4 + 4 + 3 * 2 / 3) / 16)
    assert row["confident_wrong"] == pytest.approx((4 + 3) / 16)
    # Bins: confidence 1 (8 samples, 4 right), 2/3 (3, none right), 0 (5, of which 2 right).
    assert row["ece"] == pytest.approx((abs(8 - 4) + abs(2 - 0) + abs(0 - 2)) / 16)
    assert row["overconfidence"] == pytest.approx(row["confidence"] - row["accuracy"])
    assert (row["num_problems"], row["num_samples"]) == (4, 4)
    for name in ("overconfidence", "ece", "confident_wrong"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_confidence_is_unbiased_for_few_samples() -> None:
    """Sum of squared probabilities, the chance that two samples agree, whatever n."""
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.2])
    for n in (2, 3, 8):
        answers = rng.choice(["g", "x", "y"], p=p, size=(4000, n))
        found = agreement(np.repeat(np.arange(4000), n), pd.Series(answers.ravel()))
        assert found.mean() == pytest.approx((p**2).sum(), abs=0.015)


def test_samples_that_say_what_they_know_are_calibrated_and_one_mind_that_is_wrong_is_not() -> None:
    rng = np.random.default_rng(1)
    knows = [["g"] * 8 if rng.random() < 0.5 else [f"w{i}" for i in range(8)] for _ in range(300)]
    stubborn = [["g"] * 8 if rng.random() < 0.5 else ["w"] * 8 for _ in range(300)]
    honest, other = (calibration(rows(answers), 200).iloc[0] for answers in (knows, stubborn))
    assert honest["ece"] == 0 and honest["confident_wrong"] == 0
    assert other["ece_low"] > 0.4 and other["confident_wrong_low"] > 0.4 and other["overconfidence_low"] > 0.4


def test_order_does_not_matter_and_every_cell_has_its_row() -> None:
    world = made.World(models=("nano-12k", "nano-1m"), benchmarks=("a", "b"), budgets=(0, 16), num_problems=12, num_samples=4)
    graded = made.graded(world)
    table = calibration(graded, 100)
    pd.testing.assert_frame_equal(table, calibration(graded.sample(frac=1, random_state=0), 100))
    assert sorted(table["cell_id"]) == sorted(graded["cell_id"].unique().astype(str))
    accuracy = graded.groupby("cell_id", observed=True)["correct"].mean()
    assert table.set_index("cell_id")["accuracy"].to_dict() == pytest.approx({str(k): v for k, v in accuracy.items()})


def test_one_sample_or_no_answers_tell_nothing() -> None:
    assert calibration(rows([["g"], ["x"]]), 50).empty
    assert calibration(rows([["g"], ["x", "x"], ["g", "x"]]), 50)["num_problems"].tolist() == [2]
    empty = calibration(rows([["g", "x"]]).drop(columns="answer_class"), 50)
    assert empty.empty and list(empty.columns) == schema.CALIBRATION.names


def test_who_is_most_often_wrong_and_of_one_mind_is_said_with_its_row() -> None:
    sizes = {"small": (10, ["a", "b", "c", "d"]), "middle": (100, ["x"] * 4), "large": (1000, ["g"] * 4)}
    parts = [rows([answers] * 6).assign(model=name, params=n, cell_id=name) for name, (n, answers) in sizes.items()]
    table = calibration(pd.concat(parts, ignore_index=True), 100)
    known = {"benchmark": "all", "prompt": "given", "route": "given", "sampling": "given", "thinking_budget": 0, "family": "all"}
    for onset, side in ((300.0, "below"), (50.0, "above")):
        emerged = pd.DataFrame([{**known, "axis": "size", "slice": "all", "onset": onset}])
        (said,) = confident_before_onset(table, emerged)
        assert f"middle, {side} the onset" in said.text and said.value == 1.0 and said.row == {"cell_id": "middle"}
    (none,) = confident_before_onset(table[table["model"] != "middle"], emerged)
    assert "no model is shown to be wrong and of one mind" in none.text and none.value == 0
