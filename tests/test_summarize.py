import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import made
from thinkscale import cost, schema
from thinkscale.curves import skill_curves
from thinkscale.forecast import by_size
from thinkscale.measure import measure, setting_name
from thinkscale.summarize import TableError, summarize, typed

WORLD = made.World(models=("nano-12k", "nano-200k"), benchmarks=("sums",), budgets=(0, 16), num_problems=12, num_samples=4)


def summary_of(graded: pd.DataFrame) -> pd.DataFrame:
    return summarize(graded, made.shapes(WORLD), made.chance(WORLD), draws=200)


def golden() -> pd.DataFrame:
    """Four samples of three problems: always right; right twice, once wrong, once silent; never right."""
    graded = made.graded(made.World(("nano-12k",), ("sums",), budgets=(16,), num_problems=3, num_samples=4, difficulties=(1.0,)))
    answers = ["g", "g", "g", "g", "g", "g", "x", None, "x", "y", "y", "z"]
    tokens = np.tile([4, 8, 16, 16], 3).astype(np.int32)
    return graded.assign(
        correct=[a == "g" for a in answers],
        correct_unforced=[a == "g" and t < 16 for a, t in zip(answers, tokens, strict=True)],
        extracted_answer=pd.Series(answers, dtype="str"),
        answer_class=pd.Series(answers, dtype="str"),
        ended=pd.Categorical(np.where(tokens == 16, "cut", "closed")),
        prompt_tokens=np.repeat([10, 20, 30], 4),
        thinking_tokens=tokens,
        injected_tokens=1,
        answer_tokens=2,
        completion_tokens=tokens + 3,
    )


# Worked out by hand: maj@2 of (2 right, 1 wrong, 1 silent) is (1 + 1/2 + 1/2 + 1 + 1 + 0) / 6 = 2/3.
GOLDEN = {
    ("pass@k", 1): (1 + 1 / 2 + 0) / 3,
    ("pass@k", 2): (1 + 5 / 6 + 0) / 3,
    ("pass@k", 4): (1 + 1 + 0) / 3,
    ("maj@k", 1): (1 + 1 / 2 + 0) / 3,
    ("maj@k", 2): (1 + 2 / 3 + 0) / 3,
    ("maj@k", 4): (1 + 1 + 0) / 3,
    ("unforced pass@k", 1): (1 / 2 + 1 / 2 + 0) / 3,
    ("unforced pass@k", 2): (5 / 6 + 5 / 6 + 0) / 3,
    ("unforced pass@k", 4): (1 + 1 + 0) / 3,
}


def test_guessing_is_right_as_often_as_each_difficulty_lets_it() -> None:
    world = made.World(benchmarks=("sums",), num_problems=40, difficulties=(2.0, 2.0, 3.0, 5.0), flat=0.2)
    graded = made.graded(world)
    chance = {"sums": {2.0: 0.25, 3.0: 0.125, 5.0: 0.03125}}
    summary = summarize(graded, made.shapes(world), chance, draws=100)
    expected = {"all": (2 * 0.25 + 0.125 + 0.03125) / 4, "difficulty=2": 0.25, "difficulty=3": 0.125, "difficulty=5": 0.03125}
    assert summary.groupby("slice")["chance"].agg(["min", "max"]).T.to_dict("list") == {s: [c, c] for s, c in expected.items()}
    floors = {c.facts["slice"]: c.facts["chance"] for c in skill_curves(graded, summary, chance, {})}
    assert floors == expected
    (first, *_) = by_size(graded, chance, pd.DataFrame({"family": [], "training_tokens": [], "bits_per_byte": []}), 50)
    assert first.floor(2) == pytest.approx((2 * (1 - 0.75**2) + (1 - 0.875**2) + (1 - 0.96875**2)) / 4)
    with pytest.raises(TableError, match="not given for difficulty 5, only for 2, 3"):
        summarize(graded, made.shapes(world), {"sums": {2.0: 0.25, 3.0: 0.1}})


@pytest.mark.parametrize(("ended", "share"), [("closed", 1), ("eos", 1), ("cut", 0), ("off", 0), ("too_long", 0)])
def test_thinking_that_was_not_begun_was_not_closed_either(ended: str, share: float) -> None:
    assert summary_of(golden().assign(ended=ended))["share_closed"].eq(share).all()


def test_a_setting_is_named_alike_whether_its_table_has_gaps_or_not() -> None:
    assert setting_name("m", "cut", 16.0, "maj@k", 4.0) == setting_name("m", "cut", 16, "maj@k", 4) == "m budget=16 maj@4"
    assert setting_name("m", "cut", 1_048_576.0, "pass@k", 1.0) == "m budget=1048576"


def test_the_golden_summary_does_not_move() -> None:
    table = summary_of(golden()).set_index(["metric", "k"])
    assert table["value"].to_dict() == pytest.approx(GOLDEN)
    row = table.loc[("maj@k", 2)]
    # A resample of three problems is all zeros with probability 1/27 > 2.5 %, and all ones likewise.
    assert (row["low"], row["high"]) == (0.0, 1.0)
    assert (row["num_problems"], row["num_samples"], row["chance"], row["slice"]) == (3, 4, 0.1, "all")
    assert row["cost_tokens"] == 2 * (11 + 3)
    assert row["cost_prompt_tokens"] == 20
    assert row["mean_thinking_tokens"] == 11
    assert row["share_closed"] == 0.5
    assert row["share_no_answer"] == pytest.approx(1 / 12)
    assert list(table.loc[table["frontier"]].index) == [
        ("maj@k", 1),
        ("maj@k", 2),
        ("maj@k", 4),
        *(("pass@k", k) for k in (1, 2, 4)),
        *(("unforced pass@k", k) for k in (1, 2, 4)),
    ]


def test_a_point_costs_one_prompt_and_k_completions() -> None:
    table = summary_of(golden()).set_index(["metric", "k"])
    shape = made.shape("nano-12k")
    prefill = np.mean([cost.prefill_flops(shape, p) for p in (10, 20, 30)])
    decode = np.mean([cost.decode_flops(shape, p, t + 3) for p in (10, 20, 30) for t in (4, 8, 16, 16)])
    for metric, k in GOLDEN:
        row = table.loc[(metric, k)]
        assert row["cost_prefill_flops"] == pytest.approx(prefill)
        assert row["cost_decode_flops"] == pytest.approx(k * decode)
        assert row["cost_flops"] == pytest.approx(prefill + k * decode)
        read = np.mean([cost.kv_bytes_read(shape, p, t + 3) for p in (10, 20, 30) for t in (4, 8, 16, 16)])
        assert row["cost_kv_bytes"] == pytest.approx(k * read)
        longest = np.mean([max(s) for s in itertools.combinations((7, 11, 19, 19), k)])
        assert row["cost_steps"] == pytest.approx(longest)


def test_the_summary_has_exactly_the_declared_columns_types_and_key() -> None:
    table = summary_of(made.graded(WORLD))
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    assert arrow.column_names == schema.SUMMARY.names
    assert [t if t != pa.large_string() else pa.string() for t in arrow.schema.types] == schema.SUMMARY.arrow.types
    assert not table.duplicated(list(schema.SUMMARY.key)).any()
    assert (table["low"] <= table["value"] + 1e-9).all() and (table["value"] <= table["high"] + 1e-9).all()


def test_every_difficulty_is_a_slice_and_the_slices_add_up() -> None:
    table = summary_of(made.graded(WORLD))
    assert sorted(table["slice"].unique()) == ["all", "difficulty=2", "difficulty=4"]
    one = table[(table["metric"] == "maj@k") & (table["k"] == 4)].pivot_table(index="cell_id", columns="slice", values="value")
    assert one["all"].to_numpy() == pytest.approx(((one["difficulty=2"] + one["difficulty=4"]) / 2).to_numpy())


@pytest.mark.parametrize(("level", "name"), [(1.0000001, "1.0000001"), (1.5, "1.5"), (1234567.0, "1234567")])
def test_difficulties_that_differ_a_little_are_slices_of_other_names(level: float, name: str) -> None:
    graded = made.graded(WORLD)
    table = summary_of(graded.assign(difficulty=graded["difficulty"].where(graded["difficulty"] == 2, level).where(lambda d: d != 2, 1)))
    assert sorted(table["slice"].unique()) == sorted(["all", "difficulty=1", f"difficulty={name}"])


def test_one_difficulty_is_no_slice() -> None:
    assert summary_of(golden())["slice"].unique().tolist() == ["all"]


def test_values_are_near_the_known_truth() -> None:
    world = made.World(models=("nano-50k",), benchmarks=("sums",), budgets=(16,), num_problems=300, num_samples=32)
    row = summarize(made.graded(world), made.shapes(world), made.chance(world)).set_index(["slice", "metric", "k"])
    p = made.truth(world, 0, "nano-50k", 16)
    assert row.loc[("all", "pass@k", 1), "value"] == pytest.approx(p.mean(), abs=0.02)
    assert row.loc[("all", "pass@k", 8), "value"] == pytest.approx((1 - (1 - p) ** 8).mean(), abs=0.02)


def test_the_error_budget_says_what_more_samples_would_lessen() -> None:
    world = made.World(models=("nano-50k",), benchmarks=("sums",), budgets=(16,), num_problems=300, num_samples=8)
    row = summarize(made.graded(world), made.shapes(world), made.chance(world)).set_index(["slice", "metric", "k"])
    p = made.truth(world, 0, "nano-50k", 16)
    noise = np.mean(p * (1 - p)) / 8
    assert row.loc[("all", "pass@k", 1), "share_within"] == pytest.approx(noise / (noise + p.var()), abs=0.05)
    assert row["share_within"].dropna().between(0, 1).all()
    assert row.xs("maj@k", level="metric")["share_within"].isna().all()  # no unbiased variance of a vote is known to us
    assert np.isnan(row.loc[("all", "pass@k", 8), "share_within"])  # 2k > n
    assert (row["draw_error"] == 0).all()


def test_the_order_of_rows_does_not_matter() -> None:
    graded = made.graded(WORLD)
    pd.testing.assert_frame_equal(summary_of(graded), summary_of(graded.sample(frac=1, random_state=0)))


def test_categories_without_rows_do_not_matter() -> None:
    graded = made.graded(WORLD)
    few = graded[graded["model"] == "nano-12k"]
    plain = few.astype({c: str for c in few.columns[few.dtypes == "category"]})
    pd.testing.assert_frame_equal(summary_of(few), summary_of(plain))


def test_the_input_is_left_alone() -> None:
    graded = made.graded(WORLD)
    before = graded.copy()
    summary_of(graded)
    pd.testing.assert_frame_equal(graded, before)


def test_a_problem_with_too_few_samples_makes_the_point_undefined_and_stays_in_the_denominator() -> None:
    graded = made.graded(WORLD)
    lost = (graded["problem_id"] == "sums-0000") & (graded["sample_index"] == 3) & (graded["thinking_budget"] == 16)
    short = graded[~lost]
    table = summary_of(short)
    hit = table[(table["thinking_budget"] == 16) & (table["slice"] == "all")]
    assert hit["k"].drop_duplicates().tolist() == [1, 2, 3, 4]
    assert hit.loc[hit["k"] == 4, ["value", "low", "high"]].isna().all(axis=None)
    assert hit.loc[hit["k"] <= 3, "value"].notna().all()
    assert (hit["num_problems"] == 12).all() and (hit["num_samples"] == 3).all()
    assert not hit.loc[hit["k"] == 4, "frontier"].any()
    other = table[(table["thinking_budget"] == 16) & (table["slice"] == "difficulty=4")]
    assert other["value"].notna()[other["k"] <= 4].all()


def test_samples_that_are_no_power_of_two_are_used_to_the_last() -> None:
    world = made.World(models=("nano-12k",), benchmarks=("sums",), budgets=(0,), num_problems=4, num_samples=12)
    assert sorted({p.k for c in measure(made.graded(world)) for p in c.points}) == [1, 2, 4, 8, 12]


def test_the_frontier_is_what_nothing_beats() -> None:
    table = summary_of(made.graded(WORLD))
    for _, group in table.groupby(["benchmark", "slice"]):
        rows = group.to_dict("records")
        for row in rows:
            rivals = [r for r in rows if family(r) == family(row)]
            beaten = any(
                r["cost_flops"] <= row["cost_flops"]
                and r["value"] >= row["value"] - 1e-12
                and (r["cost_flops"] < row["cost_flops"] or r["value"] > row["value"] + 1e-12)
                for r in rivals
            )
            assert row["frontier"] == (not beaten), row


def family(row: dict[str, object]) -> str:
    if row["metric"] == "unforced pass@k":
        return "unforced"
    return "oracle" if row["metric"] == "pass@k" and row["k"] != 1 else "deployable"


def at(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Put a value into row 5."""

    def change(graded: pd.DataFrame) -> pd.DataFrame:
        changed = graded.astype({column: object})
        changed.loc[5, column] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda g: pd.concat([g, g.iloc[[7]]]), ("sums-nano-12k-0", "sums-0001", "sample 3", "there twice")),
        (at("thinking_tokens", 99), ("thinking_tokens 99 over thinking_budget 0", "sums-0001", "sample 1")),
        (at("completion_tokens", 500), ("completion_tokens 500 is not", "sums-0001")),
        (at("difficulty", 3.5), ("problem_id sums sums-0001 has difficulty", "3.5")),
        (at("params", 13), ("cell_id sums-nano-12k-0 has params", "13")),
        (at("problem_id", None), ("problem_id is null", "sample 1")),
        (lambda g: g.drop(columns="correct"), ("column 'correct' is missing",)),
        (lambda g: g.iloc[:0], ("no rows",)),
        (lambda g: g.assign(answer_class=None), ("correct without an answer_class",)),
        (lambda g: g.assign(answer_class="7"), ("answer_class '7' is right", "wrong in another sample")),
    ],
)
def test_rows_that_contradict_each_other_are_named(break_it: Callable[[pd.DataFrame], pd.DataFrame], words: tuple[str, ...]) -> None:
    with pytest.raises(TableError) as error:
        summary_of(break_it(made.graded(WORLD)))
    assert all(word in str(error.value) for word in words), error.value


def test_the_digits_that_are_right_are_a_granular_metric_of_number_answers() -> None:
    graded, rng = made.graded(WORLD), np.random.default_rng(1)
    error = pd.Series(np.where(graded["correct"], -16.0, rng.normal(-2, 3, len(graded)).clip(-16)), index=graded.index)
    silent = graded["extracted_answer"].isna()
    assert silent.any()
    frame = graded.assign(grader_version="number-2", log10_error=error.mask(silent))
    table = summary_of(frame)
    found = table[(table["metric"] == "-log10_error / 16") & (table["slice"] == "all")].set_index("cell_id")
    for cell, rows in frame.groupby("cell_id", observed=True):
        by_hand = []
        for _, answers in rows.groupby("problem_id", observed=True):
            by_hand.append(sum(0 if math.isnan(e) else min(max(-e, 0), 16) / 16 for e in answers["log10_error"]) / len(answers))
        assert found.loc[cell, "value"] == pytest.approx(sum(by_hand) / len(by_hand))
        assert found.loc[cell, "low"] <= found.loc[cell, "value"] <= found.loc[cell, "high"] and found.loc[cell, "k"] == 1
    assert len(found) == graded["cell_id"].nunique() and not found["frontier"].any()


def test_where_no_number_is_asked_for_or_its_error_is_not_known_there_is_no_such_metric() -> None:
    graded = made.graded(WORLD)
    other = summary_of(graded.assign(grader_version="exact-1", log10_error=np.nan))
    assert not other["metric"].eq("-log10_error / 16").any()
    before = graded.assign(grader_version="number-1", log10_error=np.nan)  # graded before errors were kept, and not again since
    unknown = summary_of(before)
    assert unknown.loc[unknown["metric"].eq("-log10_error / 16"), "value"].isna().all()


def test_a_model_without_a_shape_is_named_with_its_nearest() -> None:
    with pytest.raises(TableError, match=r"no shape given for model 'nano-12k'.*Did you mean 'nano-12'"):
        summarize(made.graded(WORLD), {"nano-12": made.shape("nano-12k"), "nano-200k": made.shape("nano-200k")}, made.chance(WORLD))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("num_problems", None, "num_problems is null in row {'cell_id'"),
        ("k", 1.5, "k is not int32"),
        ("model", 3, "model is not string"),
    ],
)
def test_a_summary_that_breaks_its_declaration_is_named(column: str, value: object, words: str) -> None:
    table = summary_of(golden()).astype({column: object})
    table.loc[2, column] = value
    with pytest.raises(TableError) as error:
        typed(table, schema.SUMMARY)
    assert words in str(error.value)
