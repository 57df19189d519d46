"""The whole report on odd tables: what is refused says why, what cannot be known is NaN or absent, counts say what was used.

Nothing may end in an error that does not name the table's fault, warn, or give a number that looks surer than the rows are.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import made
from thinkscale import power
from thinkscale.adaptive import adaptive
from thinkscale.advice import beyond_samples, cheapest_ways, how_to_split, worth_buying
from thinkscale.boards import boards
from thinkscale.calibration import calibration
from thinkscale.compare import claims, compare, comparison_table, headline
from thinkscale.compliance import compliance, compliance_table
from thinkscale.config import Claim, PointRef
from thinkscale.coverage import coverage
from thinkscale.curves import skill_curves
from thinkscale.emergence import emergence, findings
from thinkscale.exchange import NO_SPREAD, exchange_rates, overall_rate
from thinkscale.findings import claimed, routes, won
from thinkscale.foresight import foresee
from thinkscale.inference import interval, resample
from thinkscale.purchase import purchases
from thinkscale.regions import frontier_membership, win_regions
from thinkscale.split import splits
from thinkscale.summarize import deployable, summarize
from thinkscale.targets import targets
from thinkscale.thresholds import thresholds
from thinkscale.tidy import TableError, complete

NAMES = tuple(made.MODELS)
MIDDLE = "nano-50k"
TOKENS = ["prompt_tokens", "thinking_tokens", "injected_tokens", "answer_tokens", "completion_tokens"]
DRAWS = 40
CLAIMS = (
    Claim(
        name="small", benchmark="all", better=PointRef(model=MIDDLE, thinking_budget=0), worse=PointRef(model=NAMES[0], thinking_budget=0)
    ),
    Claim(
        name="beyond n",
        benchmark="all",
        better=PointRef(model=MIDDLE, thinking_budget=0, k=64),
        worse=PointRef(model=NAMES[0], thinking_budget=0),
    ),
)

Frame = pd.DataFrame
Report = dict[str, Any]


def answers(models: int = 7, problems: int = 8, n: int = 4) -> Frame:
    """Skill grows with size and thinking, as the tables of others have it: no cell ids, an answer in place of its class."""
    rng, parts = np.random.default_rng(0), []
    for i, name in enumerate(NAMES[:models]):
        for budget in (0, 16):
            right = (rng.random((problems, n)) < rng.beta(1 + i + budget / 16, 4, problems)[:, None]).ravel()
            thinking = rng.integers(0, budget + 1, len(right))
            rows = {"model": name, "params": made.MODELS[name], "thinking_budget": budget, "correct": right}
            rows |= {"problem_id": np.repeat([f"p{p}" for p in range(problems)], n), "sample_index": np.tile(np.arange(n), problems)}
            rows |= {"answer": np.where(right, "g", rng.choice(["w", "x"], len(right)))}
            rows |= {"partial": np.where(right, 1.0, rng.random(len(right)))}
            rows |= {"prompt_tokens": 20, "thinking_tokens": thinking, "injected_tokens": 1, "answer_tokens": 3}
            parts.append(pd.DataFrame(rows).assign(completion_tokens=thinking + 4))
    return pd.concat(parts, ignore_index=True)


def report(frame: Frame) -> Report:
    """Every analysis, in the order of the report; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graded, shapes, chance = complete(frame), {m: made.shape(m) for m in NAMES}, {"all": 0.1}
        summary = summarize(graded, shapes, chance, DRAWS)
        curves = skill_curves(graded, summary, chance, {})
        about = frame.drop_duplicates("model").set_index("model")[["params"]].assign(family="all", training_tokens=1e9)
        seen = foresee(graded, chance, about.assign(bits_per_byte=np.nan), DRAWS)
        all_points = boards(graded, deployable(summary), DRAWS)
        found: Report = {
            "summary": summary,
            "comparison": compare(graded, summary, DRAWS),
            "headline": headline(graded, summary, DRAWS),
            "claims": claims(graded, CLAIMS, DRAWS, 0, summary),
            "regions": win_regions(all_points),
            "membership": frontier_membership(graded, summary, DRAWS),
            "rates": exchange_rates(graded, summary, DRAWS),
            "overall": overall_rate(graded, summary, DRAWS),
            "emergence": emergence(curves, DRAWS),
            "thresholds": thresholds(curves, DRAWS),
            "calibration": calibration(graded, DRAWS),
            "compliance": compliance(graded),
            "forecast": seen.forecast,
            "purchase": purchases(all_points, {}),
            "targets": targets(all_points),
            "split": splits(all_points),
            "coverage": coverage(graded, DRAWS),
            "adaptive": adaptive(graded, shapes, draws=DRAWS),
        }
        found["said"] = [*routes(found["headline"]), *won(found["regions"]), *claimed(found["claims"]), *seen.findings]
        found["said"] += findings(found["emergence"], curves)
        found["said"] += [*worth_buying(found["purchase"]), *cheapest_ways(found["targets"]), *how_to_split(found["split"])]
        found["said"] += beyond_samples(found["coverage"])
        comparison_table(found["headline"]), compliance_table(found["compliance"])
        return found


def middle(frame: Frame) -> pd.Series:
    return frame["model"] == MIDDLE


def values(found: Report, **wanted: Any) -> Frame:
    """Rows of the summary."""
    table = found["summary"]
    return table[np.logical_and.reduce([table["k"] > 0, *(table[name] == value for name, value in wanted.items())])]


REFUSED: dict[str, tuple[Callable[[Frame], Frame], str]] = {
    "nothing": (lambda f: f.iloc[:0], "there are none"),
    "a sample twice": (lambda f: pd.concat([f, f.iloc[[5]]]), "there twice .*problem p1, sample 1"),
    "an unknown grade": (
        lambda f: f.assign(correct=f["correct"].astype(object).where(f.index != 3)),
        "correct must be .* found (nan|None)",
    ),
    "a grade in words": (lambda f: f.assign(correct=f["correct"].astype(str)), "found 'False'"),
    "a row without model": (lambda f: f.assign(model=f["model"].where(f.index != 3)), r"model is null in row 3 \(of 1\)"),
    "rows without problem": (lambda f: f.assign(problem_id=f["problem_id"].where(f.index > 3)), r"problem_id is null in row 0 \(of 4\)"),
    "rows without budget": (lambda f: f.assign(thinking_budget=f["thinking_budget"].where(~middle(f))), "thinking_budget is null"),
    "half a token of budget": (lambda f: f.assign(thinking_budget=f["thinking_budget"] + 0.5), "thinking_budget is not int32"),
    "sizes in words": (lambda f: f.assign(params=f["params"].astype(str)), "params must be numbers, found '12000'"),
    "a size of 0": (lambda f: f.assign(params=f["params"].where(~middle(f), 0)), "params must be above 0, found 0"),
    "two sizes of one model": (lambda f: f.assign(params=f["params"] + f["sample_index"]), "has params 12000 and 12001"),
    "a problem of no difficulty": (
        lambda f: f.assign(difficulty=1.0).assign(difficulty=lambda g: g["difficulty"].where(g.index != 3)),
        "null",
    ),
    "tokens that do not add up": (lambda f: f.assign(completion_tokens=99), "completion_tokens 99 is not"),
    "no prompt": (lambda f: f.assign(prompt_tokens=0), "prompt_tokens must be above 0"),
    "an answer right and wrong": (lambda f: f.assign(answer="g"), "'g' is right here and wrong"),
    "closeness above 1": (lambda f: f.assign(partial=3.0), r"partial must lie in \[0, 1\], found 3"),
    "no gold tokens": (lambda f: f.assign(gold_logprob=-1.0, gold_tokens=0), "gold_tokens must lie in .*found 0"),
    "a negative weight": (
        lambda f: f.assign(verifier_score=-0.5),
        "verifier_score is the weight of a vote, and must be at least 0, found -0.5",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_table_that_cannot_be_right_is_refused_in_words(fault: str) -> None:
    spoil, words = REFUSED[fault]
    with pytest.raises(TableError, match=words):
        report(spoil(answers()))


def test_the_report_on_a_whole_table_holds_every_part() -> None:
    found = report(answers())
    assert all(len(part) for part in found.values())
    claim = found["claims"].set_index("claim").loc["beyond n"]
    assert np.isnan(claim["difference"]) and claim["verdict"] == "not shown"
    assert (values(found)["k"] <= 4).all()


def test_a_missing_cell_is_a_place_less_and_no_pair() -> None:
    frame = answers()
    found = report(frame[~(middle(frame) & (frame["thinking_budget"] == 16))])
    assert found["emergence"].set_index("at")["num_places"].to_dict() == {"budget=0": 7, "budget=16": 6}
    assert not ((found["comparison"]["small_model"] == MIDDLE) & (found["comparison"]["small_thinking_budget"] == 16)).any()
    assert set(found["summary"]["num_problems"]) == {8}


def test_unequal_numbers_of_samples_make_k_undefined_where_one_problem_has_fewer() -> None:
    frame = answers()
    found = report(frame[~(middle(frame) & (frame["problem_id"] == "p3") & (frame["sample_index"] > 1))])
    few = values(found, model=MIDDLE)
    assert set(few["num_problems"]) == {8} and set(few["num_samples"]) == {2}
    assert few.loc[few["k"] == 4, ["value", "low", "high"]].isna().all().all()
    assert few.loc[few["k"] <= 2, "value"].notna().all()
    assert not ((found["comparison"]["small_model"] == MIDDLE) & (found["comparison"]["small_k"] == 4)).any()
    assert not found["membership"].merge(few[few["k"] == 4], on=["cell_id", "slice", "metric", "k"]).shape[0]


def test_a_model_without_some_problems_is_compared_on_those_it_has() -> None:
    frame = answers()
    found = report(frame[~(middle(frame) & frame["problem_id"].isin(["p1", "p2"]))])
    assert set(values(found, model=MIDDLE)["num_problems"]) == {6} and set(values(found, model=NAMES[0])["num_problems"]) == {8}
    pairs = found["comparison"]
    touched = (pairs["small_model"] == MIDDLE) | (pairs["big_model"] == MIDDLE)
    assert touched.any() and (pairs["num_problems"] == np.where(touched, 6, 8)).all()
    for part in ("emergence", "regions", "membership", "forecast"):  # of all models together
        assert set(found[part]["num_problems"]) == {6}, part
    assert found["claims"].set_index("claim").loc["small", "num_problems"] == 6
    rates = found["rates"]
    assert (rates["num_problems"] == np.where((rates["small_model"] == MIDDLE) | (rates["big_model"] == MIDDLE), 6, 8)).all()


def test_a_model_on_other_problems_is_compared_with_nobody() -> None:
    frame = answers()
    found = report(frame.assign(problem_id=np.where(middle(frame), "q", "p") + frame["problem_id"]))
    pairs = found["comparison"]
    assert not ((pairs["small_model"] == MIDDLE) | (pairs["big_model"] == MIDDLE)).any() and len(pairs)
    for part in ("emergence", "regions", "membership", "overall", "forecast"):
        assert found[part].empty, part
    assert set(found["claims"]["num_problems"]) == {0} and set(found["claims"]["verdict"]) == {"not shown"}


@pytest.mark.parametrize("right", [True, False])
def test_where_every_answer_is_right_or_every_one_wrong_no_number_is_surer_than_eight_problems(right: bool) -> None:
    found = report(answers().assign(correct=right, answer="g" if right else "w", partial=float(right)))
    points = found["summary"][found["summary"]["metric"] == "pass@k"]
    width = 1 - (0.025) ** (1 / 8)  # Clopper and Pearson's: 0.369
    assert (points["value"] == right).all() and (points["high"] - points["low"]).to_numpy() == pytest.approx(width)
    assert set(found["comparison"]["winner"]) == {"no difference shown"} and set(found["headline"]["winner"]) == {"no difference shown"}
    assert set(found["regions"]["winner"]) == {"undecided"}
    assert found["overall"][["eta", "low", "high", "r2"]].isna().all().all()
    assert found["rates"][["low", "high"]].isna().all().all() and set(found["rates"]["cheaper"]) <= {NO_SPREAD}
    assert (found["calibration"]["ece_high"] - found["calibration"]["ece_low"]).to_numpy() == pytest.approx(width)
    previous = found["forecast"]["method"] == "same as the previous size"
    assert found["forecast"].loc[~previous, "outcome"].str.startswith("no forecast").all()
    assert (found["forecast"].loc[previous, "high"] - found["forecast"].loc[previous, "low"] > 0.3).all()
    labels = set(zip(found["emergence"]["label"], found["emergence"]["why"], strict=True))
    assert labels == ({("smooth", "")} if right else {("inconclusive", "below floor")})


def test_one_size_is_compared_with_nothing() -> None:
    found = report(answers(models=1))
    for part in ("comparison", "regions", "rates", "overall", "emergence", "forecast"):
        assert found[part].empty, part
    assert set(found["headline"]["winner"]) == {"no smaller setting is as cheap"} and found["headline"]["difference"].isna().all()


def test_sizes_that_are_all_the_same_are_compared_with_nothing() -> None:
    found = report(answers().assign(params=1000))
    for part in ("comparison", "regions", "rates", "overall", "emergence", "forecast"):
        assert found[part].empty, part


@pytest.mark.parametrize("clusters", ["one problem", "one cluster"])
def test_one_problem_or_cluster_says_next_to_nothing(clusters: str) -> None:
    found = report(answers(problems=1) if clusters == "one problem" else answers().assign(cluster_id="passage"))
    known = found["summary"][found["summary"]["value"].notna()]
    assert (known["high"] - known["low"] > 0.97).all()
    assert set(found["comparison"]["winner"]) == {"no difference shown"}
    assert found["claims"].set_index("claim").loc["small", "verdict"] == "not shown"
    for part in ("regions", "membership", "rates", "overall", "emergence", "thresholds", "forecast"):
        assert found[part].empty, part
    assert set(found["headline"]["num_problems"]) == {0}


def test_one_sample_a_problem_has_no_votes_and_no_agreement() -> None:
    found = report(answers(n=1))
    assert set(found["summary"]["k"]) == {1} and found["summary"]["share_within"].isna().all()
    assert found["calibration"].empty
    assert set(found["overall"]["route"]) == {"think longer"}


def test_unknown_tokens_are_unknown_costs_and_nothing_is_cheaper() -> None:
    found = report(answers().drop(columns=TOKENS))
    costs = found["summary"].filter(like="cost_").drop(columns="cost_scorer_flops")  # no point here asks a scorer: that costs nothing
    assert costs.isna().all().all() and not found["summary"]["frontier"].any()
    assert found["summary"][["share_closed", "mean_thinking_tokens"]].isna().all().all()
    for part in ("comparison", "regions", "membership"):
        assert found[part].empty, part
    assert set(found["rates"]["cheaper"]) == {"break-even unknown"}
    unknown = ["median_spent", "p95_spent", "max_spent", "share_closed_early", "share_cut", "share_over"]
    assert found["compliance"][unknown].isna().all().all()
    assert found["claims"]["cost_ratio"].isna().all()


@pytest.mark.parametrize("rows", ["of a model", "of the biggest model", "of one answer"])
def test_unknown_tokens_of_some_rows_make_their_cells_unknown_and_no_others(rows: str) -> None:
    frame = answers().astype(dict.fromkeys(TOKENS, float))
    some = {"of a model": middle(frame), "of the biggest model": frame["model"] == NAMES[-1], "of one answer": frame.index == 5}[rows]
    frame.loc[some, TOKENS] = np.nan
    found = report(frame)
    unknown = set(frame[some].merge(found["summary"], on=["model", "thinking_budget"])["cell_id"])
    costs = found["summary"].set_index("cell_id")["cost_flops"].isna()
    assert set(costs[costs].index) == unknown and len(unknown) == (1 if rows == "of one answer" else 2)
    assert not unknown & {*found["comparison"]["small_cell_id"], *found["comparison"]["big_cell_id"], *found["membership"]["cell_id"]}
    assert found["regions"].empty == (rows == "of the biggest model")  # without its cost nobody can be matched to it
    assert set(found["compliance"].loc[found["compliance"]["max_spent"].isna(), "cell_id"]) == unknown


def test_accuracy_that_falls_with_size_is_called_no_curve() -> None:
    frame = answers(problems=30)
    second = frame["model"] == NAMES[-2]
    found = report(frame.assign(correct=frame["correct"] & ~second, answer=frame["answer"].where(~second, "w")))
    why = found["emergence"].loc[found["emergence"]["axis"] == "size", "why"]
    assert why.str.contains("falls by").all() and set(found["emergence"]["label"]) == {"inconclusive"}


def test_an_unknown_score_leaves_its_problems_mean_unknown() -> None:
    frame = answers().assign(verifier_score=0.5)
    frame.loc[3, "verifier_score"] = np.nan
    found = report(frame)
    scored = found["summary"]["metric"].str.contains("verifier_score")
    assert set(found["summary"].loc[found["summary"]["value"].isna(), "cell_id"]) == {complete(frame)["cell_id"].iloc[3]}
    assert scored.sum() and found["summary"].loc[~scored, "value"].notna().all()


@pytest.mark.parametrize("column", ["partial", "gold_logprob"])
def test_an_unknown_granular_value_is_no_granular_metric(column: str) -> None:
    frame = answers().drop(columns="partial").assign(gold_tokens=2, **{column: 0.5 if column == "partial" else -1.0})
    frame.loc[3, column] = np.nan
    found = report(frame)["emergence"].set_index("at")["granular"]
    assert found["budget=0"] == "none" and found["budget=16"] == column


KINDS: dict[str, Callable[[Frame], Frame]] = {
    "ids that are numbers": lambda f: f.assign(problem_id=f["problem_id"].str[1:].astype(int)),
    "sample names": lambda f: f.assign(sample_index="s" + f["sample_index"].astype(str)),
    "pandas' own types": lambda f: f.convert_dtypes(),
    "categories, some unused": lambda f: f.astype({"model": pd.CategoricalDtype([*NAMES, "none"]), "problem_id": "category"}),
    "another order and index": lambda f: f.sample(frac=1, random_state=1).set_index("params", drop=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_columns_and_their_order_change_no_number(kind: str) -> None:
    plain, other = (report(f)["summary"] for f in (answers(), KINDS[kind](answers())))
    pd.testing.assert_frame_equal(plain, other)


def test_pandas_own_null_is_an_unknown_token_count() -> None:
    frame = answers()
    frame.loc[5, TOKENS] = np.nan
    found = [report(f)["summary"] for f in (frame, frame.convert_dtypes())]
    pd.testing.assert_frame_equal(*found)
    assert found[0]["cost_flops"].isna().any()


def test_clusters_that_agree_are_as_unsure_as_that_many_problems() -> None:
    value = np.array([[1.0], [0.0], [0.0], [1.0], [1.0], [0.0]])  # each pair has a half: a bootstrap of pairs sees no spread
    found = interval(value, resample(["a", "a", "b", "b", "c", "c"], 100, 0))
    width = 1 - 0.025 ** (1 / 3)
    assert (found.low[0], found.high[0]) == pytest.approx(((1 - width) / 2, (1 - width) / 2 + width))


def test_no_problems_cannot_be_drawn_from() -> None:
    with pytest.raises(ValueError, match=r"no problems to draw from \(sums all\)"):
        resample([], 10, 0, "sums all")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: power.problems_needed(0.0, 4), "difference must be above 0, found 0"),
        (lambda: power.problems_needed(0.03, [1, 0]), "samples must be above 0, found 0"),
        (lambda: power.visible_difference(0, 4), "problems must be above 0"),
        (lambda: power.visible_difference(np.nan, 4), "problems must be above 0, found nan"),
        (lambda: power.measured_spread([1], [2], 4, 4), "same two problems or more"),
        (lambda: power.measured_spread([1, 2], [2, 3, 4], 4, 4), "same two problems or more"),
        (lambda: power.measured_spread([1, 5], [2, 3], 4, 4), "between 0 and the samples"),
        (lambda: power.measured_spread([1, 0], [1, 1], 1, 4), "one sample a problem"),
    ],
)
def test_power_of_nothing_is_refused(ask: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ask()
