"""Calls of a tool inside the thinking: where a result is put never depends on the budget, and what was put in is counted and charged."""

import asyncio
import contextvars
import dataclasses
import re

import pytest

from fake_vllm import CHARACTERS, SPECIAL
from fakes import CLOSE, END, OPEN, WAIT, Toy, _hash, generator, model, rows, run_fake, study
from thinkscale.calculator import CALCULATOR, Result, answer, calculate, expression_in, result_text
from thinkscale.calls import answered, check_tool, read_call
from thinkscale.compliance import compliance, compliance_table
from thinkscale.config import ConfigError
from thinkscale.endpoint import Choice
from thinkscale.generate import SampleKey
from thinkscale.graded import read_graded
from thinkscale.grades import publish_problems
from thinkscale.plan import owed_shards
from thinkscale.report import analyze
from thinkscale.routes import Route
from thinkscale.shards import run_shard
from thinkscale.thinking import Boundary, Called, Cut, Trace, cut, read_trace, resumed

PROMPTS = {f"p{i}": [2, 20 + i, 3] for i in range(8)}
KEYS = [SampleKey(p, i) for p in PROMPTS for i in range(4)]
ROUTE = Route("cut", (60,), tool=CALCULATOR, calls=3)
NAMES = (*SPECIAL, *CHARACTERS)


def encode(text):
    return tuple(CHARACTERS.index(c) + len(SPECIAL) for c in text)


def decode(ids):
    return "".join(NAMES[i] for i in ids)


STOPS = contextvars.ContextVar("stop texts of the request at hand", default=())


class Caller(Toy):
    """A toy that writes letters, and often calls: right ones, malformed ones, closes of calls that were never opened."""

    async def tokenize(self, text, **how):
        return await super().tokenize(text, **how) if not isinstance(text, str) or "think>" in text else list(encode(text))

    async def complete(self, prompts, n, max_tokens, sampling, stop_token_ids=(), seed=None, **more):
        STOPS.set(stops := more.get("stop", []))
        self.asked = [*getattr(self, "asked", []), stops]
        found = []
        for c in await super().complete(prompts, n, max_tokens, sampling, stop_token_ids, seed, **more):
            texts = tuple(NAMES[t] for t in c.token_ids)
            said = next((s for s in stops if "".join(texts).endswith(s)), None)
            ended = c.finish_reason == "stop" and said is None
            text = "".join(texts[:-1] if ended else texts)
            found.append(c._replace(text=text, token_texts=texts if stops else (), stop_reason=said or c.stop_reason))
        return found

    def _draw(self, prompt, draw, max_tokens, stops):
        ids = []
        while len(ids) < max_tokens:
            ids.append(self.next((*prompt, *ids), draw if not ids and prompt[-1] == OPEN else None))
            if ids[-1] in stops or any(decode(ids).endswith(s) for s in STOPS.get()):
                return ids, "stop"
        return ids, "length"

    def next(self, before, draw):
        u, text = _hash(before, draw), decode(before[before.index(OPEN) :])
        tag, inside = text[text.rfind("<") :], text.rfind("<tool>") > text.rfind("</tool>")
        for whole in ("</tool>",) if inside else ("<tool>", "</tool>"):
            if "<" in tag and whole.startswith(tag) and whole != tag and (tag != "<" or inside or whole == "<tool>" or u < 0.1):
                return encode(whole[len(tag)])[0]
        if inside:
            return encode("<" if u < 0.25 else "0123456789+-*/(x"[int(u * 1e6) % 16])[0]
        return END if u < 0.01 else CLOSE if u < 0.07 else encode("<")[0] if u < 0.25 else encode("ab ="[int(u * 1e6) % 4])[0]


def drawn(budget, route=ROUTE, wait=(), known=None, client=None):
    async def go():
        g = await generator(client or Caller(), route=route, wait=wait)
        return await (g.traces(PROMPTS, KEYS, budget) if known is None else g.continued(PROMPTS, known, budget))

    return asyncio.run(go())


def forced(prompt, index, budget, route=ROUTE, wait=()):
    """Written out, token by token: what a run with this budget thinks, each call answered as it ends."""
    client, ids, text, calls, waits = Caller(), [], "", [], route.times
    while len(ids) <= budget:
        (token,), _ = client._draw((*prompt, OPEN, *ids), [0, index], 1, {END, CLOSE})
        if token == CLOSE and waits:
            ids, text, waits = [*ids, *wait], text + route.wait, waits - 1
        elif token in (CLOSE, END):
            return Cut(tuple(ids), "closed" if token == CLOSE else "eos", tuple(calls))
        else:
            ids, text = [*ids, token], text + NAMES[token]
            if text.endswith("</tool>") and len(calls) < route.calls:
                result = answer(expression_in(text))
                calls.append(Called(len(ids), len(result_text(result)), result.valid))
                ids, text = [*ids, *encode(result_text(result))], text + result_text(result)
    return Cut(tuple(ids[:budget]), "cut", tuple(c for c in calls if c.at <= budget))


EXTEND = dataclasses.replace(ROUTE, name="extend", wait="uvw", times=1)


@pytest.mark.parametrize(("route", "wait"), [(ROUTE, ()), (dataclasses.replace(ROUTE, calls=1), ()), (EXTEND, encode("uvw"))], ids=str)
def test_a_trace_with_calls_cut_at_a_budget_is_the_trace_forced_to_that_budget(route, wait):
    long, inside, ends, valid = drawn(60, route, wait), 0, set(), set()
    assert max(len(t.calls) for t in long.values()) == route.calls
    for key, trace in long.items():
        for budget in range(1, 61):
            expected = forced(PROMPTS[key.problem_id], key.sample_index, budget, route, wait)
            assert cut(trace, budget) == expected, (key, budget)
            ends.add(expected.ended)
            valid |= {c.valid for c in expected.calls}
            inside += any(c.at < budget < c.at + c.width for c in expected.calls)
    assert ends == {"closed", "eos", "cut"} and valid == {True, False} and inside


@pytest.mark.parametrize("first", [1, 5, 9, 13, 14, 15, 16, 17, 25])
def test_a_trace_with_calls_that_was_cut_and_continued_is_the_one_that_ran_on(first):
    """Also where the cap fell inside a call's closing text, which an engine that goes on from there does not see whole."""
    short, long = drawn(first), drawn(60)
    continued = drawn(60, known={k: t for k, t in short.items() if t.ended == "cut"})
    assert continued
    for key, trace in continued.items():
        assert (trace, trace.text) == (long[key], long[key].text), key


def test_some_of_these_caps_fall_inside_a_call_its_close_and_a_result():
    tails, pending = set(), 0
    for first in (1, 5, 9, 13, 14, 15, 16, 17, 25):
        for trace in drawn(first).values():
            tails |= {t for t in ("<too", "</too", "</t") if decode(trace.ids).endswith(t)}
            pending += len(trace.pending)
    assert tails == {"<too", "</too", "</t"} and pending


def test_a_trace_holds_call_and_result_byte_for_byte():
    for trace in drawn(60).values():
        text = decode(trace.ids)
        for call in (c for c in trace.calls if c.at <= len(text)):
            said = answer(expression_in(text[: call.at]))
            assert text[: call.at].endswith("</tool>") and said.valid == call.valid
            assert text[call.at : call.at + call.width] == result_text(said)[: len(text) - call.at]
        assert trace.text.startswith(text)
        unanswered = text.count("</tool>") - sum(c.at <= len(text) for c in trace.calls)
        assert unanswered == 0 or len(trace.calls) == ROUTE.calls


def test_calls_beyond_the_limit_are_text_like_any_other():
    client = Caller()
    few = drawn(60, dataclasses.replace(ROUTE, calls=1), client=client)
    assert {len(t.calls) for t in few.values()} == {0, 1}
    more = [decode(t.ids) for t in few.values() if decode(t.ids).count("</tool>") > 1]
    assert more and [] in client.asked
    assert all(text.split("</tool>", 2)[2][:1] != "=" or "</tool>=" in text.split("</tool>", 1)[1] for text in more)


def test_what_a_tool_put_in_is_not_charged_as_drawn():
    client = Caller()
    traces = drawn(60, client=client)
    assert sum(t.drawn for t in traces.values()) == client.drawn
    whole = [t for t in traces.values() if t.ended != "cut"]
    assert whole and all(t.drawn == len(t.ids) + 1 - sum(c.width for c in t.calls) for t in whole)


@pytest.mark.parametrize("first", [None, 16])
def test_a_trace_that_goes_on_after_a_result_is_counted_once(first):
    client, seen = Caller(), []
    short = {k: dataclasses.replace(t, drawn=0) for k, t in drawn(first).items() if t.ended == "cut"} if first else {}  # as read from disk

    async def go():
        g = dataclasses.replace(await generator(client, route=ROUTE), on_drawn=lambda *counts: seen.append(counts))
        await (g.continued(PROMPTS, short, 60) if first else g.traces(PROMPTS, KEYS, 60))

    asyncio.run(go())
    assert [sum(c) for c in zip(*seen, strict=True)] == [len(short or KEYS), client.drawn] and len(seen) > 2


# --- tokens that are no letters


def choice(*texts, reason="stop", said="</tool>"):
    return Choice(0, tuple(range(70, 70 + len(texts))), "".join(texts), reason, said, texts)


def test_a_call_ends_with_the_token_that_completes_its_close_and_what_came_after_is_dropped():
    before = Trace((7, 8), "cut", 2, 9, text="<tool>2*3</to")
    for more in ((), (" so", " it")):
        trace = read_call(before, choice("ol", ">\n", *more, reason="length" if more else "stop"), CALCULATOR, 20)
        assert trace is not None and trace.calling
        assert ((*trace.ids, trace.next_id), trace.text) == ((7, 8, 9, 70, 71), "<tool>2*3</tool>\n")
        assert expression_in(trace.text) == "2*3" and trace.drawn == 2 + len(more)
        done = answered(trace, (50, 51), calculate("2*3"), CALCULATOR, 20)
        assert done.calls == (Called(5, 2, True),) and done.text == "<tool>2*3</tool>\n=6\n" and not done.calling
        assert ((*done.ids, done.next_id), done.budget) == ((7, 8, 9, 70, 71, 50, 51), 6)


@pytest.mark.parametrize(("last", "ended"), [("</think>", "closed"), ("<|end|>", "eos")])
def test_the_text_of_a_thinking_ends_before_its_close_though_the_engine_tells_what_it_stopped_at(last, ended):
    boundary = Boundary((), (71,), (), 71 if ended == "closed" else 99)
    before = Trace((7,), "cut", 1, 8, text="<tool>2*3</tool>=6\n", calls=(Called(1, 1, True),))
    trace = read_trace(before, choice(" so", last, said=None), boundary, 20)
    assert (trace.ended, trace.ids, trace.text) == (ended, (7, 8, 70), "<tool>2*3</tool>=6\n so")


def test_a_close_that_was_answered_is_not_found_again():
    before = Trace((7,), "cut", 1, 8, text="<tool>2*3</tool>=6\n", calls=(Called(1, 1, True),))
    assert read_call(before, choice("so", " it", reason="length", said=None), CALCULATOR, 20) is None


def test_a_stop_that_is_not_in_the_tokens_is_an_error():
    with pytest.raises(ValueError, match="which is not in its tokens"):
        read_call(None, choice("so", " it"), CALCULATOR, 20)
    with pytest.raises(ValueError, match="at most 1 were asked for"):
        read_call(None, choice("</tool", ">", "x", reason="length"), CALCULATOR, 0)


def test_a_cap_may_fall_inside_a_result_and_the_rest_of_it_is_known():
    asked = Trace((7, 8), "cut", 2, 9, text="<tool>4</tool>", calling=True)
    for budget in range(2, 6):
        short = answered(asked, WAIT, Result("4", True), CALCULATOR, budget)
        assert (*short.ids, short.next_id, *short.pending) == (7, 8, 9, *WAIT) and len(short.ids) == min(budget, 5)
        seen = cut(short, len(short.ids))
        assert (len(seen.calls), seen.tool_tokens) == ((1, len(short.ids) - 3) if budget >= 3 else (0, 0))
        whole = resumed(short, (), 40)
        assert (*whole.ids, whole.next_id) == (7, 8, 9, *WAIT) and not whole.pending


def test_a_tokenizer_that_cannot_write_results_is_refused():
    class Deaf(Caller):
        async def detokenize(self, ids):
            return "?"

    with pytest.raises(ValueError, match=r"fake-100k: its tokenizer reads results of the tool"):
        asyncio.run(check_tool(Deaf(), "fake-100k", CALCULATOR))


# --- a whole experiment

BENCHMARKS = {"calculator": {"problems": 8, "prompt": "calculator", "tool": "calculator", "tool_calls": 2}, "mapping": {"problems": 8}}


def tool_study(folder, **changes):
    """A study in which a tool may be called on one of two benchmarks, by a model whose context holds the prompt that tells of it."""
    opened = study(folder, **{"benchmarks": BENCHMARKS, "thinking_budgets": [0, 6, 19, 21, 48], **changes})
    opened.catalogue.models["fake-100k"] = model(context=1024)
    return opened


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    opened = tool_study(tmp_path_factory.mktemp("tool"))
    run_fake(opened)
    return opened


def test_calls_are_counted_cut_by_cut_and_only_where_a_tool_may_be_called(ran):
    samples = {(s["problem_id"], s["sample_index"]): s for s in rows(ran, "samples")}
    answers = [a for a in rows(ran, "answers") if a["benchmark"] == "calculator"]
    assert {a["route"] for a in answers} == {"cut calculator=2"} and {a["tool_calls"] for a in answers} == {0, 1, 2}
    inside = 0
    for a in answers:
        spent = decode(samples[a["problem_id"], a["sample_index"]]["thinking_token_ids"])[: a["thinking_tokens"]]
        calls = spent.split("</tool>")[:-1][:2]
        assert a["tool_calls"] == len(calls) and a["tool_valid"] == sum(c.endswith(("12*34", "7+8")) for c in calls)
        put_in = "".join(f"</tool>{rest}" for rest in spent.split("</tool>")[1:3])
        results = re.findall(r"</tool>(=[^\n]*\n?|)", put_in)
        assert a["tool_tokens"] == sum(map(len, results)) <= a["thinking_tokens"] <= a["thinking_budget"]
        assert a["completion_tokens"] == a["thinking_tokens"] + a["injected_tokens"] + a["answer_tokens"]
        inside += any(r and not r.endswith("\n") for r in results)
    assert inside, "some budget ends inside of a result"
    others = [a for a in rows(ran, "answers") if a["benchmark"] == "mapping"]
    assert {(a["route"], a["tool_calls"], a["tool_valid"], a["tool_tokens"]) for a in others} == {("cut", None, None, None)}


def test_the_compliance_says_who_called_and_how_well(ran):
    graded = read_graded(ran.store.root)
    table = compliance(graded)
    offered = table[table["benchmark"] == "calculator"].set_index("thinking_budget")
    rows_ = graded[(graded["benchmark"] == "calculator") & (graded["thinking_budget"] == 48)]
    assert offered.loc[48, "share_called"] == (rows_["tool_calls"] > 0).mean() > 0
    assert offered.loc[48, "mean_calls"] == rows_["tool_calls"].mean()
    assert offered.loc[48, "share_valid"] == rows_["tool_valid"].sum() / rows_["tool_calls"].sum()
    assert offered.loc[48, "share_tool_tokens"] == rows_["tool_tokens"].sum() / rows_["thinking_tokens"].sum()
    assert offered.loc[0, "share_called"] == 0 and offered.loc[0, ["share_valid", "share_tool_tokens"]].isna().all()
    assert (
        table.loc[table["benchmark"] == "mapping", ["share_called", "mean_calls", "share_valid", "share_tool_tokens"]].isna().all(axis=None)
    )
    assert {c.header for c in compliance_table(table).columns} >= {"called", "valid calls"}
    assert "compliance.parquet" in [f.name for f in analyze(ran).files]


def test_raising_the_budget_continues_traces_with_calls_from_disk(tmp_path):
    """Also traces that were cut inside a result: what is on disk says how they go on."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    once = tool_study(tmp_path / "a", thinking_budgets=[16, 48])
    run_caller(once)
    run_caller(tool_study(tmp_path / "b", thinking_budgets=[16]))
    first = tool_study(tmp_path / "b", thinking_budgets=[16])
    assert any(s["pending_token_ids"] for s in rows(first, "samples"))
    raised = tool_study(tmp_path / "b", thinking_budgets=[16, 48])
    run_caller(raised)
    assert not owed_shards(raised, "fake-100k")
    seen = ("cell_id", "problem_id", "sample_index", "ended", "thinking_tokens", "tool_calls", "tool_valid", "tool_tokens", "answer_text")
    a, b = ([tuple(row[c] for c in seen) for row in rows(s, "answers")] for s in (once, raised))
    assert sorted(map(repr, a)) == sorted(map(repr, b)) and any(row[5] for row in a if row[5])


def run_caller(opened):
    """As `fakes.run_toy`, on the toy that calls; one seed for all, so that two ways must give the same."""

    async def go():
        client = Caller(engine_seed=1)
        for shard in owed_shards(opened, "fake-100k"):
            publish_problems(opened.store, shard.benchmark, opened.problems(shard.benchmark.name))
            g = await generator(client, entry=opened.catalogue.models["fake-100k"], route=shard.trace_set.route)
            await run_shard(shard, g, opened.store)

    asyncio.run(go())


def test_what_a_tool_is_makes_other_trace_sets_and_their_absence_the_old_ones(tmp_path):
    def ids(**changes):
        return [t.trace_set_id for t in tool_study(tmp_path, benchmarks={"calculator": {"problems": 8, **changes}}).trace_sets("fake-100k")]

    plain, called, fewer = ids(), ids(tool="calculator"), ids(tool="calculator", tool_calls=2)
    assert len({*plain, *called, *fewer}) == 3
    other = dataclasses.replace(ROUTE, tool=dataclasses.replace(CALCULATOR, before="= "))
    assert other.identity != ROUTE.identity and dataclasses.replace(ROUTE, tool=None).identity == "cut"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"thinking": {"route": "native"}}, r"benchmarks.calculator.tool: the server ends the thinking of route 'native'"),
        ({"thinking_budgets": [0]}, r"benchmarks.calculator.tool: called while a model thinks, and thinking_budgets is \[0\]"),
        ({"benchmarks": {"mapping": {"problems": 8, "tool_calls": 2}}}, r"benchmarks.mapping.tool_calls: no tool may be called"),
        ({"benchmarks": {"mapping": {"problems": 8, "tool": "abacus"}}}, r"benchmarks.mapping.tool: Input should be 'calculator'"),
        ({"benchmarks": {"mapping": {"problems": 8, "tol": "calculator"}}}, r"unknown key .*tol'. Did you mean 'tool'"),
    ],
)
def test_a_tool_that_cannot_be_called_is_one_clear_error(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        tool_study(tmp_path, **changes)
