"""Each route of thinking, on clients and servers that are not real: what is drawn, cut, charged, refused. On vLLM: test_routes_vllm."""

import asyncio
import dataclasses

import pandas as pd
import pytest

from fakes import CLOSE, END, OPEN, WAIT, Toy, generator, model, reopen, rows, run_fake, run_toy, study
from thinkscale.compliance import compliance, compliance_table
from thinkscale.config import ConfigError, Thinking
from thinkscale.endpoint import Choice
from thinkscale.generate import SampleKey
from thinkscale.graded import read_graded
from thinkscale.outlook import plan
from thinkscale.plan import owed_shards
from thinkscale.printed import show
from thinkscale.problems import Problem
from thinkscale.prompting import chosen, example_pool, render, wait_ids
from thinkscale.report import analyze
from thinkscale.routes import Route
from thinkscale.thinking import Boundary, Cut, Trace, answer_prompt, cut, read_native, read_trace, resumed, waited

PROMPTS = {f"p{i}": [2, 20 + i, 3] for i in range(8)}
KEYS = [SampleKey(p, i) for p in PROMPTS for i in range(4)]
TAGS = Boundary((OPEN,), (CLOSE,), (OPEN, CLOSE), CLOSE)


def extended(budget, times, keys=KEYS, **how):
    async def go():
        g = await generator(Toy(), route=Route("extend", (budget,), wait="wait", times=times), wait=WAIT, **how)
        return await g.traces(PROMPTS, keys, budget)

    return asyncio.run(go())


def forced(prompt, index, times, budget):
    """Written out, token by token: what a run with this budget thinks; a close within it is replaced while there are waits left."""
    client, ids, left = Toy(), [], times
    while len(ids) < budget:
        (token,), _ = client._draw((*prompt, OPEN, *ids), [0, index], 1, {END, CLOSE})
        if token == CLOSE and left:
            ids, left = [*ids, *WAIT], left - 1
        elif token in (CLOSE, END):
            return Cut(tuple(ids), "closed" if token == CLOSE else "eos")
        else:
            ids.append(token)
    (token,), _ = client._draw((*prompt, OPEN, *ids), [0, index], 1, {END, CLOSE}) if len(ids) == budget else ((0,), "")
    ended = "closed" if token == CLOSE and not left else "eos" if token == END else "cut"
    return Cut(tuple(ids[:budget]), ended)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_extended_trace_cut_at_a_budget_is_the_trace_forced_to_that_budget(times):
    long = extended(40, times)
    assert max(len(t.waits) for t in long.values()) == times
    ends = set()
    for key, trace in long.items():
        for budget in range(1, 41):
            expected = forced(PROMPTS[key.problem_id], key.sample_index, times, budget)
            assert cut(trace, budget) == expected, (key, budget)
            ends.add(expected.ended)
    assert ends == {"closed", "eos", "cut"}


@pytest.mark.parametrize("first", [1, 2, 5, 9, 17])
def test_an_extended_trace_that_was_cut_and_continued_is_the_one_that_ran_on(first):
    short, long = extended(first, 2), extended(40, 2)

    async def go():
        g = await generator(Toy(), route=Route("extend", (40,), wait="wait", times=2), wait=WAIT)
        return await g.continued(PROMPTS, {k: t for k, t in short.items() if t.ended == "cut"}, 40)

    continued = asyncio.run(go())
    assert continued
    for key, trace in continued.items():
        assert (trace.ids, trace.ended, trace.waits, trace.next_id) == (long[key].ids, long[key].ended, long[key].waits, long[key].next_id)


def test_a_cap_may_fall_inside_a_wait_and_the_rest_of_it_is_known():
    closed = Trace((7, 8), "closed", 40)
    for budget in (2, 3, 4):
        short = waited(closed, WAIT, 1, TAGS, budget)
        assert (short.ids, short.ended, short.next_id) == ((7, 8, *WAIT)[:budget], "cut", (7, 8, *WAIT)[budget])
        whole = resumed(short, WAIT, 40)
        assert (*whole.ids, whole.next_id) == (7, 8, *WAIT)
    assert waited(dataclasses.replace(closed, waits=(0,)), WAIT, 1, TAGS, 40).ended == "closed"
    assert waited(Trace((7,), "eos", 40), WAIT, 1, TAGS, 40).ended == "eos"
    prose = dataclasses.replace(TAGS, stop=None)
    assert waited(Trace((7,), "eos", 40), WAIT, 1, prose, 40).ids == (7, *WAIT[:-1])


def test_what_was_put_in_is_not_charged_as_drawn_and_what_it_replaced_is():
    client = Toy()

    async def go():
        g = await generator(client, route=Route("extend", (40,), wait="wait", times=2), wait=WAIT)
        return await g.traces(PROMPTS, KEYS, 40)

    traces = asyncio.run(go())
    assert sum(t.drawn for t in traces.values()) == client.drawn
    whole = [t for t in traces.values() if t.ended != "cut"]
    assert whole and all(t.drawn == len(t.ids) + 1 + len(t.waits) * (1 - len(WAIT)) for t in whole)


def test_raising_the_budget_of_extend_continues_and_adds_the_same_rows_as_at_once(tmp_path):
    how = {"thinking": {"route": "extend", "times": 2}}
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    once = study(tmp_path / "a", thinking_budgets=[6, 24], **how)
    run_toy(once, engine_seed=1)
    run_toy(study(tmp_path / "b", thinking_budgets=[6], **how), engine_seed=1)
    raised = study(tmp_path / "b", thinking_budgets=[6, 24], **how)
    client = run_toy(raised, engine_seed=1)
    assert client.requests and not owed_shards(raised, "fake-100k")
    seen = ("ended", "thinking_tokens", "answer_text", "trace_set_id", "cell_id", "route", "correct")
    a, b = (
        read_graded(s.store.root).sort_values(["cell_id", "problem_id", "sample_index"])[list(seen)].astype(str) for s in (once, raised)
    )
    assert a.to_numpy().tolist() == b.to_numpy().tolist() and set(a["route"]) == {"extend=2"}


@pytest.fixture(scope="module")
def extend_study(tmp_path_factory):
    opened = study(tmp_path_factory.mktemp("extend"), thinking={"route": "extend", "wait": "wait-lower", "times": 2})
    run_fake(opened)
    return opened


def test_extend_runs_on_a_server_and_keeps_to_its_budgets(extend_study):
    samples, answers = rows(extend_study, "samples"), rows(extend_study, "answers")
    assert any(s["waits"] for s in samples) and not owed_shards(extend_study, "fake-100k")
    assert all(a["thinking_tokens"] <= a["thinking_budget"] and not a["over_budget"] for a in answers)
    assert sum(" wait " in s["thinking"] for s in samples) > 0


def test_answers_carry_their_log_probability(extend_study):
    for a in rows(extend_study, "answers"):
        assert a["answer_logprob"] < 0 and a["answer_logprob_mean"] == pytest.approx(a["answer_logprob"] / a["answer_tokens"])


def test_the_compliance_of_every_cell_adds_up(extend_study):
    table = compliance(read_graded(extend_study.store.root))
    assert sorted(table["cell_id"]) == sorted(extend_study.cells)
    off = table["thinking_budget"] == 0
    assert (table.loc[~off, ["share_closed_early", "share_cut", "share_too_long"]].sum(axis=1).round(9) == 1).all()
    assert (table["max_spent"] <= table["thinking_budget"]).all() and (table.loc[off, "p95_spent"] == 0).all()
    answers = [a for a in rows(extend_study, "answers") if a["thinking_budget"] == 16]
    row = table[table["thinking_budget"] == 16].iloc[0]
    spent = sorted(a["thinking_tokens"] for a in answers)
    assert row["num_answers"] == len(answers) == 48 and row["median_spent"] == (spent[23] + spent[24]) / 2
    assert row["share_cut"] == sum(a["ended"] == "cut" for a in answers) / 48
    assert compliance_table(table).row_count == 3


def test_an_analysis_of_a_route_writes_its_compliance(extend_study):
    analysis = analyze(extend_study)
    assert "compliance.parquet" in [f.name for f in analysis.files] and len(analysis.compliance) == 3


# --- effort


def test_each_level_of_effort_is_told_to_the_template_and_has_cells_of_its_own(tmp_path):
    levels = {"low": {"reasoning_effort": "low"}, "high": {"reasoning_effort": "high"}, "none": {"enable_thinking": False}}
    opened = study(tmp_path, thinking={"route": "effort", "levels": levels}, thinking_budgets=[16])
    sets = opened.trace_sets("fake-100k")
    assert {str(t.route) for t in sets} == {"effort=low", "effort=high", "effort=none"} and len({t.trace_set_id for t in sets}) == 3
    assert len(opened.cells) == 3
    run_fake(opened)
    answers = rows(opened, "answers")
    assert {a["route"] for a in answers} == {"effort=low", "effort=high", "effort=none"} and len(answers) == 3 * 12 * 4
    prompts = {level: {a["problem_id"]: a["prompt_tokens"] for a in answers if a["route"] == f"effort={level}"} for level in levels}
    assert all(prompts["high"][p] == prompts["low"][p] + 1 for p in prompts["low"])  # one letter more
    off = [a for a in answers if a["route"] == "effort=none"]
    assert {a["thinking_tokens"] + a["injected_tokens"] for a in off} == {0}  # the template closed it: nothing is opened again
    assert all(s["request_completion_tokens"] == 0 for s in rows(opened, "samples") if s["route"] == "effort=none")
    read_graded(opened.store.root)
    assert not owed_shards(opened, "fake-100k")


# --- native


@pytest.fixture(scope="module")
def native_study(tmp_path_factory):
    opened = study(tmp_path_factory.mktemp("native"), thinking={"route": "native"})
    run_fake(opened)
    return opened


def test_native_asks_the_server_for_each_budget_by_itself(native_study):
    sets = native_study.trace_sets("fake-100k")
    assert [t.budgets for t in sets] == [(0,), (6,), (16,)] and len({t.trace_set_id for t in sets}) == 3
    answers = rows(native_study, "answers")
    assert len(answers) == 3 * 12 * 4 and not any(a["over_budget"] for a in answers)
    assert max(a["thinking_tokens"] for a in answers if a["thinking_budget"] == 6) == 6
    assert {a["ended"] for a in answers if a["thinking_budget"] == 16} >= {"cut", "closed"}
    (log, *_) = native_study.store.root.glob("logs/*.log")
    assert "--reasoning-config" in log.read_text()


def faulty(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("FAKE_VLLM_FAULT", f'{{"kind": "{kind}", "after": 1}}')
    return study(tmp_path, thinking={"route": "native"}, thinking_budgets=[6])


def test_a_server_that_ignores_the_budget_is_an_error_with_the_way_out(tmp_path, monkeypatch):
    opened = faulty(tmp_path, monkeypatch, "ignore_budget")
    with pytest.raises(ValueError, match=r"thinking_token_budget=6 was accepted .* ignores the budget.*--reasoning-config.*route: cut"):
        run_fake(opened)
    assert not opened.store.parts("answers")


def test_thinking_over_a_native_budget_is_counted(tmp_path, monkeypatch):
    opened = faulty(tmp_path, monkeypatch, "over_budget")
    run_fake(opened)
    answers = rows(opened, "answers")
    assert {a["over_budget"] for a in answers} == {False, True}
    assert all(a["over_budget"] == (a["thinking_tokens"] > 6) for a in answers)
    analysis = analyze(opened)  # not refused as rows that contradict each other
    assert 0 < analysis.compliance["share_over"].iloc[0] < 1


def test_a_native_trace_says_how_it_ended():
    def drawn(ids, reason="stop"):
        return Choice(0, tuple(ids), "", reason, None)

    assert read_native(drawn([7, 8, CLOSE]), TAGS, 4).ended == "closed"
    assert read_native(drawn([7, 8, 9, 10, CLOSE]), TAGS, 4).ended == "cut"
    assert read_native(drawn([7, END]), TAGS, 4).ended == "eos"
    with pytest.raises(ValueError, match="still thinking"):
        read_native(drawn(range(7, 20), "length"), TAGS, 4)


# --- cues of prose

CUE = Boundary((), (60, 61), (62,), None, cue="So:")
TEXTS = {50: "So", 51: ":", 52: "\n", 53: "S", 54: "o:"}


def prose(stream, room):
    """What a server with a stop text writes: up to the token that completes it."""
    text = ""
    for i, token in enumerate(stream[:room]):
        text += TEXTS.get(token, "a")
        if token == END or "So:" in text:
            texts = tuple(TEXTS.get(t, "a") for t in stream[: i + 1])
            return Choice(0, tuple(stream[: i + 1]), text, "stop", None if token == END else "So:", texts)
    return Choice(0, tuple(stream[:room]), text, "length", None, tuple(TEXTS.get(t, "a") for t in stream[:room]))


@pytest.mark.parametrize("close", [(50, 51), (52, 50, 51), (52, 52, 53, 54), (END,)], ids=str)
@pytest.mark.parametrize("length", range(5))
def test_prose_that_is_closed_by_a_cue_is_cut_as_a_shorter_cap_would_cut_it(close, length):
    stream = (*range(7, 7 + length), *close, *range(30, 40))
    for largest in range(1, 12):
        long = read_trace(None, prose(stream, largest + 1), CUE, largest)
        for budget in range(1, largest + 1):
            alone = read_trace(None, prose(stream, budget + 1), CUE, budget)
            assert cut(long, budget) == cut(alone, budget)
    assert (long.ids, long.ended) == (stream[:length], "eos" if close == (END,) else "closed")
    assert answer_prompt((2, 3), cut(long, 11), CUE) == (2, 3, *stream[:length], 60, 61)


def test_a_cue_ends_the_thinking_on_a_server(tmp_path):
    opened = study(tmp_path, thinking_budgets=[0, 6, 24])
    entry = model(thinking=Thinking(open="<think>", close=" so: ", closes=False, cue="now"))
    opened.catalogue.models["fake-100k"] = entry
    run_fake(opened)
    closed = [s for s in rows(opened, "samples") if s["ended"] == "closed"]
    assert closed and all(s["thinking"].endswith("now") and len(s["close_token_ids"]) >= 3 for s in closed)
    read_graded(opened.store.root)
    again = reopen(tmp_path)
    again.catalogue.models["fake-100k"] = entry
    assert not owed_shards(again, "fake-100k")


# --- worked examples


def test_the_number_of_examples_is_an_axis(tmp_path):
    opened = study(tmp_path, prompt="few-shot-bare", examples=[0, 1, 2], thinking_budgets=[0, 6])
    sets = opened.trace_sets("fake-100k")
    assert [t.prompt_name for t in sets] == ["few-shot-bare", "few-shot-bare=1", "few-shot-bare=2"]
    assert len({t.trace_set_id for t in sets}) == 3
    run_fake(opened)
    answers = rows(opened, "answers")
    assert len(answers) == 3 * 2 * 12 * 4
    mean = [sum(a["prompt_tokens"] for a in answers if a["prompt"] == t.prompt_name) for t in sets]
    assert mean[0] < mean[1] < mean[2]
    assert sum(r.planned for r in plan(opened)) == len(answers) and not owed_shards(opened, "fake-100k")


@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_examples_never_include_the_problem_asked(tmp_path, number):
    benchmark = study(tmp_path).known["mapping"]
    asked = benchmark.load(40, 0)
    for pool in (example_pool(benchmark, number, 0), tuple(asked)):  # a pool of others, and one that all are in
        for problem in asked:
            shown = chosen(pool, problem, number)
            assert len(shown) == number and problem.question not in {p.question for p in shown}
            text = render(
                "{% for e in examples %}{{ e.question }} {{ e.worked }} {{ e.answer }}\n{% endfor %}{{ question }}", problem, shown
            )
            assert text.endswith(f"\n{problem.question}") and text.count("\n") == number


def few(number):
    return [Problem(f"p{i}", f"p{i}", f"question {i}", "1", 1.0) for i in range(number)]


def test_a_pool_that_is_too_small_says_how_many_there_are(tmp_path):
    benchmark = dataclasses.replace(study(tmp_path).known["mapping"], size=3, load=lambda number, seed: few(3))
    assert len(example_pool(benchmark, 2, 0)) == 3
    with pytest.raises(ConfigError, match=r"examples: found 3; mapping has 3 problems, one of which is asked. Ask for at most 2"):
        example_pool(benchmark, 3, 0)
    with pytest.raises(ConfigError, match="only 2 other problems"):
        chosen(few(3), few(1)[0], 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ question.__class__.__mro__ }} {{ question }}", "access to attribute '__class__'"),
        ("{{ examples[0].__init__.__globals__ }} {{ question }}", "access to attribute '__init__'"),
        ("{{ examples[0]._worked }} {{ question }}", "access to attribute '_worked'"),
        ("{% for i in range(10**9) %}{% endfor %}{{ question }}", "Range too big"),
        ("{{ 1 / 0 }}{{ question }}", "division by zero"),
        ("{{ question }}", "leaves out the examples"),
        ("{{ examples[0].question }} {{ examples[0].worked }} {{ question }}", "'question 1' has no worked thinking"),
    ],
)
def test_a_template_that_touches_what_it_may_not_is_an_error(text, said):
    with pytest.raises(ValueError, match=said):
        render(text, few(1)[0], few(2)[1:])


# --- too long for the context


def test_problems_that_do_not_fit_are_reported_owed_to_no_one_and_stay_in_the_denominator(tmp_path, caplog, capsys):
    opened = study(tmp_path, prompt="few-shot-bare", examples=[8], thinking_budgets=[0, 4, 16])
    run_fake(opened)
    graded = read_graded(opened.store.root)
    assert len(graded) == 3 * 12 * 4 and not owed_shards(opened, "fake-100k")
    long = graded[graded["status"] == "too_long"]
    assert 0 < len(long) < len(graded) and not long["correct"].any() and long["extracted_answer"].isna().all()
    assert (long["completion_tokens"] == 0).all() or (long["answer_tokens"] == 0).all()
    assert (long["thinking_budget"] > 0).all()
    fits = graded[graded["status"] != "too_long"]
    assert (fits["prompt_tokens"] + fits["completion_tokens"] - fits["answer_tokens"] + 6 <= 256).all()
    analysis = analyze(opened)
    summary = pd.read_parquet(opened.store.root / "summary.parquet")
    points = summary[(summary["slice"] == "all") & (summary["k"] > 1)].set_index(["thinking_budget", "metric", "k"])
    never = long.groupby(["thinking_budget", "problem_id"], observed=True).size().eq(4).groupby("thinking_budget").sum()
    for (budget, _, _), point in points.iterrows():
        assert point["value"] <= 1 - never.get(budget, 0) / 12
    assert analysis.compliance["num_answers"].tolist() == [48] * 3 and analysis.compliance["share_too_long"].max() > 0
    told = [r.getMessage() for r in caplog.records if "do not fit the context of 256 tokens" in r.getMessage()]
    assert sum(int(text.split(": ")[2].split()[0]) for text in told) == len(long)
    (finding,) = analysis.findings["What was never asked?"]
    assert finding.text.startswith(f"mapping, fake-100k: {len(long)} of 144 answers could not be asked for and count as wrong")
    assert finding.value == len(long) / 144 and finding.row["cell_id"] in set(analysis.compliance["cell_id"])
    show(analysis)
    assert f"{len(long)} of 144 answers could not be asked for" in " ".join(capsys.readouterr().out.split())
    assert f"{len(long)} of 144" in (opened.store.root / "findings.md").read_text()


def test_a_trace_that_fills_the_context_serves_the_budgets_that_fit():
    full = Trace((7, 8, 9), "too_long", 40)
    assert cut(full, 2) == Cut((7, 8), "cut") and cut(full, 3) == Cut((7, 8, 9), "cut") and cut(full, 4) == Cut((), "too_long")
    assert cut(Trace((), "too_long", 40), 1) == Cut((), "too_long")


# --- greedy references, and what is refused


def test_a_greedy_reference_is_a_cell_of_its_own(tmp_path):
    opened = study(tmp_path, greedy=True)
    sampled, greedy = opened.trace_sets("fake-100k")
    assert (sampled.num_samples, greedy.num_samples) == (4, 1) and greedy.sampling.temperature == 0
    assert sampled.trace_set_id == study(tmp_path).trace_sets("fake-100k")[0].trace_set_id
    opened = study(tmp_path, greedy=True)
    run_fake(opened)
    graded = read_graded(opened.store.root)
    assert graded.groupby("cell_id", observed=True)["sampling"].nunique().max() == 1
    counts = graded.groupby("sampling", observed=True)["sample_index"].nunique().to_dict()
    assert sorted(counts.values()) == [1, 4] and not owed_shards(opened, "fake-100k")


def test_greedy_references_and_other_prompts_are_paired_with_their_like(tmp_path):
    opened = study(tmp_path, greedy=True, models=["fake-21k", "fake-100k"], prompt="few-shot-bare", examples=[0, 2])
    run_fake(opened)
    analyze(opened)
    table = pd.read_parquet(opened.store.root / "comparison.parquet")
    facts = read_graded(opened.store.root).drop_duplicates("cell_id").set_index("cell_id")
    for side in ("prompt", "sampling"):
        small, big = (facts.loc[table[f"{which}_cell_id"], side].astype(str).tolist() for which in ("small", "big"))
        assert small == big and len(set(small)) == 2


def test_levels_that_the_chat_template_does_not_heed_are_refused_before_anything_is_drawn(tmp_path):
    levels = {"low": {"reasoning_efort": "low"}, "high": {"reasoning_efort": "high"}}
    opened = study(tmp_path, thinking={"route": "effort", "levels": levels}, thinking_budgets=[16])
    with pytest.raises(
        ValueError, match=r"fake-100k: its chat template makes the same prompt of effort=high and effort=low: it does not heed"
    ):
        run_fake(opened)
    assert not opened.store.parts("samples")


def test_a_claim_says_which_level_it_means(tmp_path):
    side = {"model": "fake-100k", "thinking_budget": 16}
    levels = {"low": {"reasoning_effort": "low"}, "high": {"reasoning_effort": "high"}}

    def with_claim(route):
        claim = {"name": "more is more", "benchmark": "mapping", "better": side | {"route": route}, "worse": side | {"route": "effort=low"}}
        return study(tmp_path, thinking={"route": "effort", "levels": levels}, thinking_budgets=[16], greedy=True, claims=[claim])

    with pytest.raises(ConfigError, match=r"fits 2 cells .*effort=high.*Say `route`"):
        with_claim(None)
    opened = with_claim("effort=high")
    run_fake(opened)
    (row,) = analyze(opened).claims.to_dict("records")
    assert row["better"] == "fake-100k budget=16 pass@1 effort=high" and row["num_problems"] == 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"thinking": {"route": "cut", "times": 2}}, r"thinking.times: not a setting of route 'cut'"),
        ({"thinking": {"route": "extend", "levels": {}}}, r"thinking.levels: not a setting of route 'extend'"),
        ({"thinking": {"route": "extend", "wait": "hold"}}, r"no file prompts/hold.txt. Valid: wait, wait-lower"),
        ({"thinking": {"route": "extend", "tiems": 2}}, r"unknown key 'thinking.tiems'. Did you mean 'times'"),
        ({"thinking": {"route": "effort"}}, r"thinking.levels: missing"),
        ({"thinking": {"route": "effort", "levels": {"low": {}}}}, r"thinking_budgets: found \[0, 6, 16\].*one budget above 0"),
        ({"examples": [1, 1], "prompt": "few-shot"}, r"examples: '1' is given twice"),
        ({"examples": [64], "prompt": "few-shot-bare"}, r"do not fit the context"),
    ],
)
def test_what_a_route_cannot_be_is_one_clear_error(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        study(tmp_path, **changes)


def test_a_wait_that_the_tokenizer_cannot_write_is_refused():
    class Deaf(Toy):
        async def tokenize(self, text, **_):
            return [0 for _ in text]

    with pytest.raises(ValueError, match=r"fake-100k: thinking.wait: its tokenizer reads 'Wait' as '\?\?\?\?'"):
        asyncio.run(wait_ids(Deaf(), model(), "Wait"))
    assert asyncio.run(wait_ids(Deaf(), model(), "")) == ()
