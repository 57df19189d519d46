"""The page of findings: sentences agree with their intervals, and each has its row."""

import pandas as pd
import pytest

from thinkscale.findings import Finding, claimed, page, routes, turned, won


def best(difference, low, high, num_problems=60):
    row = {
        "benchmark": "sums",
        "route": "think longer",
        "axis": "flops",
        "small": "a budget=8 or\nb budget=16",
        "big": "c budget=0",
        "cost_ratio": 0.25,
    }
    return pd.DataFrame([{**row, "difference": difference, "low": low, "high": high, "num_problems": num_problems}])


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.3, 0.2, 0.4), "a budget=8 or b budget=16 beats c budget=0 at 0.25 of its FLOPs: +30.0 points [+20.0, +40.0]."),
        ((-0.3, -0.4, -0.2), "loses to c budget=0 at 0.25 of its FLOPs: -30.0 points [-40.0, -20.0]."),
        (
            (0.1, -0.1, 0.3),
            "is not shown to differ from c budget=0 at 0.25 of its FLOPs: +10.0 points [-10.0, +30.0], which holds no difference.",
        ),
        (
            (0.1, 0.0, 0.3),
            "is not shown to differ from c budget=0 at 0.25 of its FLOPs: +10.0 points [+0.0, +30.0], which holds no difference.",
        ),
    ],
)
def test_what_a_sentence_says_is_what_its_interval_says(interval, said):
    (finding,) = routes(best(*interval))
    assert finding.text.endswith(said) and (finding.value, finding.low, finding.high) == interval


def test_a_route_without_settings_says_nothing():
    assert routes(best(float("nan"), float("nan"), float("nan"), 0)) == []


def test_who_wins_is_said_run_by_run_over_the_axis_of_compute():
    rows = [(1.0, "smaller", 0.5), (2.0, "smaller", 0.4), (4.0, "undecided", 0.0), (8.0, "bigger", -0.2)]
    table = pd.DataFrame(
        [
            {
                "benchmark": "sums",
                "slice": "all",
                "axis": "flops",
                "budget": b,
                "winner": w,
                "difference": d,
                "low": d - 0.1,
                "high": d + 0.1,
            }
            for b, w, d in rows
        ]
    )
    (finding,) = won(pd.concat([table, table.assign(slice="difficulty=1")]))
    assert finding.text == (
        "sums: of budgets in FLOPs per problem, a smaller model wins from 1 to 2, neither is shown to win at 4, "
        "the biggest model wins at 8; at the largest, smaller less biggest: -20.0 points [-30.0, -10.0]."
    )
    assert finding.row["budget"] == 8.0 and finding.value == -0.2


def region(axis, *winners):
    return pd.DataFrame(
        [
            {"benchmark": "sums", "slice": "all", "axis": axis, "budget": 2.0**i, "winner": w, "difference": 0.1, "low": -0.1, "high": 0.3}
            for i, w in enumerate(winners)
        ]
    )


def test_an_axis_of_cost_has_its_sentence_where_other_sides_win_on_it():
    flops, same = region("flops", "smaller", "undecided", "bigger"), region("kv_bytes", "bigger", "smaller", "smaller")
    assert len(won(pd.concat([flops, same]))) == 1
    _, finding = won(pd.concat([flops, same, region("tokens", "bigger", "undecided")]))
    assert finding.text.startswith("sums: of budgets in completion tokens per problem, the biggest model wins at 1, neither")
    assert finding.row == {"benchmark": "sums", "slice": "all", "axis": "tokens", "budget": 2.0}


def test_a_conclusion_that_turns_on_what_is_paid_says_so():
    won_by = best(0.3, 0.2, 0.4).assign(route="any", winner="smaller, thinking more")
    none = best(float("nan"), float("nan"), float("nan"), 0).assign(route="any", axis="tokens", winner="no smaller setting is as cheap")
    (finding,) = turned(pd.concat([won_by, won_by.assign(axis="kv_bytes"), none]))
    assert finding.text == (
        "sums, any route: who wins depends on what is paid: a smaller model by FLOPs, bytes of KV cache read; "
        "no smaller setting is as cheap by completion tokens."
    )
    assert finding.row == {"benchmark": "sums", "route": "any", "axis": "tokens"}
    assert turned(pd.concat([won_by, won_by.assign(axis="kv_bytes")])) == []


def test_a_claim_is_said_with_its_verdict_and_row():
    row = {"claim": "thinking helps", "benchmark": "sums", "verdict": "not shown", "difference": 0.1, "low": -0.1, "high": 0.3}
    (finding,) = claimed(pd.DataFrame([{**row, "num_problems": 12, "cost_ratio": float("nan")}]))
    assert finding.text == "thinking helps (sums): not shown, +10.0 points [-10.0, +30.0], which holds no difference, on 12 problems."
    assert finding.source == "claims.parquet: claim=thinking helps"


def test_the_page_has_a_section_for_each_question_and_a_row_for_each_sentence():
    some = Finding("It is so.", 0.5, 0.25, 0.75, "summary", {"k": 1})
    plain = Finding("Nobody knows.", float("nan"), float("nan"), float("nan"), "forecast", {})
    text = page("mine", "What?", {"First?": [some, plain], "Second?": []})
    assert text.startswith("# mine: findings\n\nWhat?\n\n## First?\n")
    assert "- It is so. (0.5 [0.25, 0.75])  \n  `summary.parquet: k=1`\n- Nobody knows.  \n  `forecast.parquet`\n" in text
    assert text.endswith("## Second?\n\nNothing to say.\n")
