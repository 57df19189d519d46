"""What the bench compares, without an engine: the baselines ask for what they are said to ask for."""

import asyncio

import pytest

import bench as command
import fakes
from thinkscale import bench
from thinkscale.config import Catalogue, Engine
from thinkscale.endpoint import Client
from thinkscale.loading import load_catalogue
from thinkscale.serving import serve


def asked(way):
    """(max_tokens, completions) of each request of traces, in order, and how many answers were asked for."""
    toy = fakes.Toy()
    grid = asyncio.run(bench.open_grid(toy, Catalogue(models={}, benchmarks={}, gpus={}), fakes.model(), Engine(), 3))
    toy.requests.clear()
    asyncio.run(getattr(grid, way)())
    traces = [(r["max_tokens"], r["n"]) for r in toy.requests if r["stop"]]
    return traces, sum(len(r["prompts"]) for r in toy.requests if not r["stop"])


def test_one_pass_draws_traces_once_at_the_largest_budget():
    traces, answers = asked("one_pass")
    assert traces == [(max(bench.BUDGETS) + 1, bench.SAMPLES)] * 3
    assert 3 * bench.SAMPLES < answers <= 3 * bench.SAMPLES * len(bench.BUDGETS)  # whole traces share theirs


def test_the_baseline_of_a_run_per_budget_caps_at_each_budget_and_shares_nothing():
    traces, answers = asked("run_per_budget")
    assert traces == [(b, bench.SAMPLES) for b in bench.BUDGETS if b for _ in range(3)]
    assert answers == 3 * bench.SAMPLES * len(bench.BUDGETS)


def test_the_baseline_of_a_run_per_budget_and_k_draws_every_k_afresh():
    traces, answers = asked("run_per_budget_and_k")
    assert traces == [(b, k) for b in bench.BUDGETS if b for k in (1, 2, 4, 8, 16) for _ in range(3)]
    assert answers == 3 * 31 * len(bench.BUDGETS)


def test_tokens_are_the_engines_own_count_and_one_pass_needs_the_fewest(tmp_path):
    empty = Catalogue(models={}, benchmarks={}, gpus={})
    with serve(fakes.model(), Engine(command=fakes.FAKE_VLLM, start_timeout=20.0), tmp_path, seed=1) as endpoint:
        found = asyncio.run(bench.bench_grid(endpoint, empty, fakes.model(), problems=3, repeats=1))

        async def eleven():
            async with Client(endpoint) as client:
                return await bench.timed(client, lambda: client.complete([[2, 7, 3]], 11, 1, fakes.model().sampling))

        assert asyncio.run(eleven()).tokens == 11
    tokens = {way: measured[0].tokens for way, measured in found.items()}
    assert tokens[bench.GOLD] > tokens["one pass"]
    assert 2 * tokens["one pass"] < tokens["run per budget"] < tokens["run per (budget, k)"]
    rows = {row.what: row for row in command.grid_rows(found)}
    assert float(rows["run per (budget, k)"].measured.split()[0]) > 3


@pytest.mark.parametrize("name", bench.GRADED_SKILLS)
def test_the_answers_that_are_graded_for_speed_are_of_both_kinds(name):
    assert bench.bench_grading(load_catalogue(), name, answers=100, problems=20) > 0


def test_a_ratio_is_taken_within_each_repetition():
    assert bench.ratio([2, 30, 4], [1, 10, 1]) == (3.0, 2.0, 4.0)


def test_the_start_counts_from_the_engine_alone_and_keeps_prefects_database_apart():
    rows = [row.measured for row in command.start_rows(bench.Starts(engine=[30.0, 32.0], flow_first=50.0, flow=[36.0, 38.0]))]
    assert rows == ["31.0 s", "6.0 s", "13.0 s"]


def test_a_claim_is_met_or_missed_and_what_claims_nothing_is_neither():
    assert command.ratio_row("ours", bench.Ratio(0.96, 0.9, 1.0), 0.95)[3:] == ("at least 0.95", True)
    assert command.ratio_row("ours", bench.Ratio(0.94, 0.9, 1.0), 0.95).met is False
    assert command.ratio_row("ours", bench.Ratio(0.94, 0.9, 1.0)).met is None
    slow = bench.Starts(engine=[30.0, 32.0], flow_first=50.0, flow=[46.0, 48.0])
    assert [row.met for row in command.start_rows(slow)] == [None, False, None]
    assert command.shown(command.start_rows(slow), "").row_count == 3
