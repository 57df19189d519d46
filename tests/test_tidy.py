"""Tables that others made: five columns are enough, what is not given is not guessed."""

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale.compare import compare
from thinkscale.estimators import best_of_k, maj_at_k, pass_at_k
from thinkscale.summarize import summarize
from thinkscale.tidy import TableError, complete

MODELS = {"nano-12k": 12_000, "nano-200k": 200_000}


def minimal(problems: int = 20, n: int = 8, seed: int = 0) -> pd.DataFrame:
    """The documented minimum, and nothing more."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, (model, params) in enumerate(MODELS.items()):
        right = rng.random((problems, n)) < rng.beta(1 + i, 1.5, problems)[:, None]
        problem = np.repeat([f"p{p:03d}" for p in range(problems)], n)
        index = np.tile(np.arange(n), problems)
        named = {"model": model, "params": params, "problem_id": problem, "sample_index": index, "correct": right.ravel()}
        parts.append(pd.DataFrame(named))
    return pd.concat(parts, ignore_index=True)


def summary_of(frame: pd.DataFrame) -> pd.DataFrame:
    return summarize(complete(frame), {m: made.shape(m) for m in MODELS}, {"all": 0.0}, draws=100)


def test_five_columns_give_pass_at_k_and_nothing_that_was_not_said() -> None:
    frame = minimal()
    table = summary_of(frame).set_index(["model", "metric", "k"])
    for model in MODELS:
        c = frame[frame["model"] == model].groupby("problem_id")["correct"].sum().to_numpy()
        for k in (1, 2, 4, 8):
            assert table.loc[(model, "pass@k", k), "value"] == pytest.approx(pass_at_k(8, c, k).mean())
    assert table.xs("maj@k", level="metric")["value"].isna().all()
    assert table[["cost_flops", "cost_tokens", "cost_steps", "mean_thinking_tokens"]].isna().all().all()
    assert not table["frontier"].any()


def test_without_tokens_no_shape_is_needed() -> None:
    frame = minimal()
    pd.testing.assert_frame_equal(summarize(complete(frame), {}, {"all": 0.0}, draws=100), summary_of(frame))


def test_the_order_of_rows_does_not_matter() -> None:
    frame = minimal()
    pd.testing.assert_frame_equal(summary_of(frame), summary_of(frame.sample(frac=1, random_state=0)))


def test_answers_of_one_class_vote_together() -> None:
    frame = minimal()
    frame["answer"] = np.where(frame["correct"], np.where(frame["sample_index"] % 2, "1/2", "0.5"), "7")
    frame.loc[frame["sample_index"] == 3, ["answer", "correct"]] = [None, False]
    graded = complete(frame, same=lambda a, b: {a, b} == {"1/2", "0.5"})
    table = summarize(graded, {m: made.shape(m) for m in MODELS}, {"all": 0.0}, draws=100).set_index(["model", "metric", "k"])
    mine = frame[frame["model"] == "nano-12k"]
    gold = mine.groupby("problem_id")["correct"].sum().to_numpy()
    truth = maj_at_k(gold, (7 - gold)[:, None], np.ones(len(gold)), [4]).mean()
    assert table.loc[("nano-12k", "maj@k", 4), "value"] == pytest.approx(truth)
    assert table.loc[("nano-12k", "maj@k", 4), "share_no_answer"] == 1 / 8


def test_a_score_chooses_the_best_and_weighs_the_vote() -> None:
    frame = minimal()
    rng = np.random.default_rng(1)
    frame = frame.assign(answer=np.where(frame["correct"], "g", "w"), verifier_score=rng.random(len(frame)), answer_logprob=0.0)
    table = summary_of(frame).set_index(["model", "metric", "k"])
    mine = frame[frame["model"] == "nano-12k"]
    at = np.unique(mine["problem_id"], return_inverse=True)[1]
    truth = best_of_k(mine["correct"], mine["verifier_score"], at, [4]).mean()
    assert table.loc[("nano-12k", "best@k by verifier_score", 4), "value"] == pytest.approx(truth)
    # All samples equally likely: the best is any of them, and the weighted vote is the plain one.
    assert table.loc[("nano-12k", "best@k by answer_logprob", 4), "value"] == pytest.approx(mine["correct"].mean())
    plain, weighted = (table.loc[("nano-12k", m, 4), "value"] for m in ("maj@k", "vote@k by answer_logprob"))
    assert weighted == pytest.approx(plain)
    assert (table["draw_error"].dropna() == 0).all()


def test_a_problem_with_a_sample_without_score_is_not_scored() -> None:
    frame = minimal().assign(verifier_score=0.5)
    frame.loc[3, "verifier_score"] = np.nan
    table = summary_of(frame).set_index(["model", "metric", "k"])
    assert np.isnan(table.loc[("nano-12k", "best@k by verifier_score", 2), "value"])
    assert not np.isnan(table.loc[("nano-200k", "best@k by verifier_score", 2), "value"])


def test_with_tokens_there_are_costs_and_comparisons() -> None:
    frame = minimal().assign(prompt_tokens=20, completion_tokens=lambda f: 5 + f["sample_index"])
    graded = complete(frame)
    table = summary_of(frame)
    assert table["cost_flops"].notna().all() and table["frontier"].any()
    one = table.set_index(["model", "metric", "k"]).loc["nano-12k"]
    assert one.loc[("pass@k", 1), "cost_steps"] == 8.5 and one.loc[("pass@k", 8), "cost_steps"] == 12
    assert set(compare(graded, table, draws=50)["small_model"]) <= {"nano-12k"}


def test_costs_that_are_not_known_compare_nothing() -> None:
    frame = minimal()
    assert compare(complete(frame), summary_of(frame), draws=50).empty


@pytest.mark.parametrize("column", ["model", "params", "problem_id", "sample_index", "correct"])
def test_a_missing_column_is_named_with_what_was_found(column: str) -> None:
    with pytest.raises(TableError, match=f"'{column}' is missing.*found: "):
        complete(minimal().drop(columns=column))


def test_correct_that_is_neither_right_nor_wrong_is_named() -> None:
    with pytest.raises(TableError, match=r"found 0\.5"):
        complete(minimal().assign(correct=0.5))


def test_a_sample_that_is_there_twice_is_named() -> None:
    frame = minimal()
    with pytest.raises(TableError, match="there twice"):
        summary_of(pd.concat([frame, frame.iloc[[5]]]))


def test_problems_with_fewer_samples_make_larger_k_undefined_never_flattering() -> None:
    frame = minimal()
    few = frame.drop(frame[(frame["problem_id"] == "p000") & (frame["sample_index"] > 2)].index)
    table = summary_of(few).set_index(["model", "metric", "k"])
    assert table.loc[("nano-12k", "pass@k", 2), "value"] > 0 and np.isnan(table.loc[("nano-12k", "pass@k", 4), "value"])


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong_have_honest_intervals(right: bool) -> None:
    row = summary_of(minimal().assign(correct=right)).set_index("metric").loc["pass@k"].iloc[0]
    assert row["value"] == right and 0.1 < row["high"] - row["low"] < 0.2
    assert np.isnan(row["share_within"])


def test_one_problem_says_nothing_about_others() -> None:
    row = summary_of(minimal(problems=1)).set_index("metric").loc["pass@k"].iloc[0]
    assert row["high"] - row["low"] > 0.9
