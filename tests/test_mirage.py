"""The decision rule: right on known laws, refuses what it cannot know, and its errors are counted."""

import collections
import dataclasses

import numpy as np
import pytest
from scipy.stats import kstest

from skills_made import LAWS, Law
from thinkscale.inference import resample
from thinkscale.mirage import Granular, evidence, judge, sup_f_p
from thinkscale.onset import hinge

METRICS = ("gold_logprob", "partial")
APPARENT = "apparent emergence (metric not checked)"


def label(law: Law, seed: int = 0, metric: str = "partial") -> str:
    return judge([law.weighed(seed, metric)])[0].label


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("name", "truth"), [("smooth, one token", "smooth"), ("mirage, 10 tokens", "mirage"), ("emergent, middle", "emergent")]
)
def test_known_laws_get_their_label_where_models_do_not_scatter(name: str, truth: str, metric: str) -> None:
    still = dataclasses.replace(LAWS[name], noise=0.02)
    assert [label(still, seed, metric) for seed in range(3)] == [truth] * 3


def test_the_same_kink_in_accuracy_is_judged_by_the_granular_metric() -> None:
    """Exact match of ten tokens jumps on both; only the granular side tells them apart, and without it nobody can."""
    mirage, emergent = (dataclasses.replace(LAWS[n], noise=0.02) for n in ("mirage, 10 tokens", "emergent, middle"))
    for law in (mirage, emergent):
        x, accuracy, _ = law.answers(0, "partial")
        found = evidence(4 + x, accuracy, 0.0, resample([str(i) for i in range(law.problems)], 300, 0), None)
        (verdict,) = judge([found])
        assert (verdict.label, verdict.why) == (APPARENT, "no granular metric")
    assert (label(mirage), label(emergent)) == ("mirage", "emergent")


@pytest.mark.parametrize(
    ("law", "why"),
    [
        (Law(sizes=5), "5 places on the axis, 6 are needed"),
        (Law(decades=1.2), "1.2 decades, 1.5 are needed"),
        (Law(tokens=40, start=2.0, slope=0.2), "below floor"),
    ],
)
def test_what_cannot_be_known_is_refused(law: Law, why: str) -> None:
    (verdict,) = judge([law.weighed(0, "partial")])
    assert (verdict.label, verdict.why) == ("inconclusive", why)
    assert np.isnan([verdict.smooth, verdict.mirage, verdict.emergent]).all()


@pytest.mark.parametrize(
    ("means", "label", "why"),
    [
        ([0.0, 0.01, 0.7, 0.9, 0.95, 1.0, 1.0], APPARENT, "no granular metric"),
        ([0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95], "smooth", ""),
        ([0.0, 0.6, 0.75, 0.8, 0.85, 0.9, 0.95], "smooth", ""),  # no place before the rise: nothing is known of how it began
        ([0.0, 0.02, 0.8, 0.2, 0.9, 1.0, 1.0], "inconclusive", "accuracy falls by 60% on its way: not one curve"),
    ],
    ids=["rises and levels off within three sizes", "even", "the first step", "falls back"],
)
def test_shapes_that_a_hinge_does_not_describe(means: list[float], label: str, why: str) -> None:
    accuracy = (np.arange(400)[:, None] < 400 * np.array(means)).astype(float)
    (verdict,) = judge([evidence(np.linspace(4, 6, 7), accuracy, 0.0, resample([str(i) for i in range(400)], 300, 0), None)])
    assert verdict.label == label and verdict.why[:40] == why[:40]


def test_a_granular_metric_at_its_ceiling_checks_nothing() -> None:
    x, accuracy, granular = dataclasses.replace(LAWS["emergent, middle"], noise=0.02).answers(0, "partial")
    full = Granular("partial", np.where(np.arange(7) >= 5, 1.0, granular.value), closeness=True)
    sample = resample([str(i) for i in range(len(accuracy))], 300, 0)
    (verdict,) = judge([evidence(x, accuracy, 0.0, sample, full)])
    assert verdict.label == APPARENT and verdict.why == "partial says nothing at all but 5 places"


def test_more_skills_make_the_test_stricter() -> None:
    found = LAWS["emergent, middle"].weighed(0, "partial")
    nothing = [found._replace(p=0.9) for _ in range(9)]
    border = found._replace(p=0.02)
    assert judge([border])[0].label == "emergent"
    crowd = judge([border, *nothing])[0]
    assert crowd.p_adjusted == pytest.approx(0.2) and crowd.label == "inconclusive" and crowd.why.startswith("the granular metric may bend")


def test_p_of_the_sup_f_test_is_uniform_where_a_line_is_true() -> None:
    x = np.linspace(0, 2, 7)
    levels = 1 - 0.7 * x + 0.15 * np.random.default_rng(3).standard_normal((400, 7))
    p = [sup_f_p(tuple(x), found) for found in hinge(x, levels).sup_f]
    assert kstest(p, "uniform").pvalue > 0.01
    assert sup_f_p(tuple(x), 0.0) == 1.0 and 0 < sup_f_p(tuple(x), 1e9) < 0.001


def test_shares_are_shares_and_the_label_is_the_one_adopted() -> None:
    for law in LAWS.values():
        (verdict,) = judge([law.weighed(1, "gold_logprob")])
        shares = {"smooth": verdict.smooth, "mirage": verdict.mirage, "emergent": verdict.emergent}
        assert all(0 <= s <= 1 for s in shares.values()) and sum(shares.values()) <= 1 + 1e-9
        assert verdict.label == next((name for name, share in shares.items() if share >= 0.9), "inconclusive")
        assert bool(verdict.why) == (verdict.label == "inconclusive")


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_operating_characteristics(metric: str) -> None:
    """200 skills of each law, models scatter by 15 % of their loss: how often each label is given."""
    skills, table = 200, {}
    for name, law in LAWS.items():
        table[name] = collections.Counter(label(law, 1000 + seed, metric) for seed in range(skills))
    labels = ("smooth", "mirage", "emergent", "inconclusive")
    print(f"\n{metric:32}" + "".join(f"{name:>14}" for name in labels))
    for name, found in table.items():
        print(f"{name:32}" + "".join(f"{found[label_] / skills:14.1%}" for label_ in labels))
    for name, found in table.items():
        if name.startswith(("smooth", "mirage")):
            assert found["emergent"] / skills <= 0.05, name
        if name in ("emergent, middle", "emergent, 3 decades"):
            assert found["emergent"] / skills >= 0.9, name
