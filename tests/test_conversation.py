"""Route `tools`: calls through the chat API of a server that is not real; what is drawn, put in, read again, cut, charged, refused."""

import json
import re

import pytest

from fake_vllm import CHARACTERS, SPECIAL
from fakes import CLOSE, END, OPEN, model, rows, run_fake, study
from thinkscale.calculator import ERROR, Result, answer_call, calculate
from thinkscale.choices import Call, Said, check_said
from thinkscale.compliance import compliance
from thinkscale.config import ConfigError
from thinkscale.conversation import ended, heard
from thinkscale.endpoint import ResponseInvalid
from thinkscale.graded import read_graded
from thinkscale.plan import owed_shards
from thinkscale.report import analyze
from thinkscale.thinking import Boundary, Called, Cut, Trace, answer_prompt, answer_prompt_tokens

TAGS = Boundary((OPEN,), (CLOSE,), (OPEN, CLOSE), CLOSE)
BENCHMARKS = {"calculator": {"problems": 10, "tool": "calculator", "tool_calls": 2}}


def tool_study(folder, template_kwargs=None, **changes):
    folder.mkdir(exist_ok=True)
    budgets = {"thinking_budgets": [0, 12, 40, 120]}
    opened = study(folder, **{"benchmarks": BENCHMARKS, "thinking": {"route": "tools"}, "gold_logprob": True, **budgets, **changes})
    opened.catalogue.models["fake-100k"] = model(context=1024, template_kwargs=template_kwargs or {})
    return opened


@pytest.fixture(scope="module", params=[False, True], ids=["a template that keeps thinking", "a template that forgets it"])
def forgets(request):
    return request.param


@pytest.fixture(scope="module")
def ran(forgets, tmp_path_factory):
    opened = tool_study(tmp_path_factory.mktemp("tools"), {"forgets": True} if forgets else {})
    run_fake(opened)
    return opened


def decode(ids):
    return "".join((*SPECIAL, *CHARACTERS)[i] for i in ids)


def test_each_budget_is_a_conversation_by_itself_and_keeps_to_it(ran):
    assert [t.budgets for t in ran.trace_sets("fake-100k")] == [(0,), (12,), (40,), (120,)] and not owed_shards(ran, "fake-100k")
    answers = rows(ran, "answers")
    assert len(answers) == 4 * 10 * 4 and {a["route"] for a in answers} == {"tools calculator=2"}
    for a in answers:
        assert a["tool_tokens"] <= a["thinking_tokens"] <= a["thinking_budget"] and a["tool_valid"] <= a["tool_calls"]
        assert a["completion_tokens"] == a["thinking_tokens"] + a["injected_tokens"] + a["answer_tokens"]
    assert {a["ended"] for a in answers} >= {"off", "closed", "cut"}
    assert {a["tool_calls"] for a in answers if a["thinking_budget"] == 120} >= {0, 1, 2}
    assert {a["tool_valid"] < a["tool_calls"] for a in answers} == {True, False}
    (log, *_) = ran.store.root.glob("logs/*.log")
    assert "--enable-auto-tool-choice --tool-call-parser hermes" in log.read_text()


def test_what_was_drawn_and_put_in_is_what_is_counted(ran, forgets):
    samples = rows(ran, "samples")
    called = [s for s in samples if s["tool_result_at"]]
    assert called and any(len(s["tool_result_at"]) > 1 for s in called)
    for s in samples:
        ids = s["thinking_token_ids"]
        put_in = sum(min(n, len(ids) - at) for at, n in zip(s["tool_result_at"], s["tool_result_tokens"], strict=True))
        if s["ended"] == "closed":
            assert s["request_completion_tokens"] > len(ids) - put_in  # the close and the answer in the conversation come on top
        for at, width, valid in zip(s["tool_result_at"], s["tool_result_tokens"], s["tool_result_valid"], strict=True):
            result = decode(ids[at : at + width])
            if width and at + width <= len(ids):
                assert result.endswith("<|assistant|>") and (forgets or result.startswith("<|user|>"))
                assert re.search(r"<\|user\|>(408|1|2)" if valid else rf"<\|user\|>{ERROR}", result)


def test_answers_are_asked_after_what_the_last_turn_stood_on(ran, forgets):
    for s in rows(ran, "samples"):
        calls = tuple(map(Called, s["tool_result_at"], s["tool_result_tokens"], s["tool_result_valid"]))
        seen = Cut(tuple(s["thinking_token_ids"]), s["ended"], calls, tuple(s["turn_prompt_token_ids"]))
        before = decode(answer_prompt((), seen, TAGS))
        assert before.startswith("tools. <|user|>") and before.endswith("</think>")
        question = before.split("<|user|>")[1].split("<|assistant|>")[0]
        whole = f"tools. <|user|>{question}<|assistant|>{decode(seen.ids)}</think>"
        assert (before == whole) == (not forgets or not calls), "with nothing written anew the conversation is one text"


def test_the_analysis_says_who_called(ran):
    table = compliance(read_graded(ran.store.root)).set_index("thinking_budget")
    assert 0 < table.loc[120, "share_called"] < 1 and 0 < table.loc[120, "share_valid"] < 1 and table.loc[0, "share_called"] == 0
    assert (table["max_spent"] <= table.index).all() and len(analyze(ran).compliance) == 4


def test_an_answer_scored_for_gold_has_the_same_thinking_before_it(ran):
    assert all(a["gold_logprob"] < 0 and a["gold_tokens"] > 0 for a in rows(ran, "forced"))


# --- turns


def test_what_is_put_in_is_what_goes_beyond_all_that_stood_there():
    first = heard(Trace((), "cut", 40, turn=(1, 2)), (1, 2), [])
    assert (first.ids, first.turn, first.calls) == ((), (1, 2), ())
    spoken = Trace((7, 8), "cut", 40, turn=(1, 2))
    kept = heard(spoken, (1, 2, 7, 8, 50, 51), [True])
    assert (kept.ids, kept.turn, kept.calls) == ((7, 8, 50, 51), (1, 2, 7, 8), (Called(2, 2, True),))
    anew = heard(spoken, (1, 2, 8, 50, 51), [True, False])  # the template left out the 7
    assert (anew.ids, anew.turn) == ((7, 8, 8, 50, 51), (1, 2)) and anew.calls == (Called(2, 3, True), Called(2, 0, False))
    for trace, prompt in ((kept, (1, 2, 7, 8, 50, 51)), (anew, (1, 2, 8, 50, 51))):
        seen = Cut((*trace.ids, 9), "closed", trace.calls, trace.turn)
        assert answer_prompt((1, 2), seen, TAGS) == (*prompt, 9, CLOSE) and answer_prompt_tokens((1, 2), seen, TAGS) == (2, 1)
        assert seen.tool_tokens == len(trace.ids) - 2
        again = heard(Trace((*trace.ids, 9), "cut", 40, calls=trace.calls, turn=trace.turn), (*prompt, 9, 60), [True])
        assert again.turn == (*prompt, 9) and again.ids == (*trace.ids, 9, 60)


@pytest.mark.parametrize(
    ("drawn", "reason", "ids", "how"),
    [
        ((7, CLOSE, 8, END), "stop", (7,), "closed"),
        ((CLOSE, 8), "length", (), "closed"),
        ((7, 8, END), "stop", (7, 8), "eos"),
        ((7, 8, 9), "length", (7, 8, 9), "cut"),
    ],
)
def test_a_last_message_is_thinking_up_to_its_close(drawn, reason, ids, how):
    trace = ended(Trace((5,), "cut", 40, turn=(1,)), Said((1,), drawn, reason, (), {}), TAGS)
    assert (trace.ids, trace.ended) == ((5, *ids), how)


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("calculator", '{"expression": "12*34"}', "408"),
        ("calculator", '{"expression": "12*34", "why": 1}', "408"),
        ("abacus", '{"expression": "12*34"}', ERROR),
        ("calculator", '{"expression": 12}', ERROR),
        ("calculator", '{"expression": "9**9**9"}', ERROR),
        ("calculator", '{"expr": "1"}', ERROR),
        ("calculator", "[1]", ERROR),
        ("calculator", "12*34", ERROR),
        ("calculator", "", ERROR),
        ("calculator", "[" * 100_000, ERROR),
        ("calculator", '{"expression": "' + "1" * 10**6 + '"}', ERROR),
    ],
    ids=lambda v: v[:20],
)
def test_arguments_of_a_call_are_read_or_an_error(name, arguments, result):
    assert answer_call(name, arguments) == Result(result, result != ERROR)
    assert answer_call("calculator", json.dumps({"expression": "1+1"})) == calculate("1+1")


GOOD = {
    "choices": [{"message": {"content": "so", "reasoning": "hm"}, "finish_reason": "stop", "token_ids": [7, 1]}],
    "prompt_token_ids": [2, 3],
    "usage": {"prompt_tokens": 2, "completion_tokens": 2},
}


def test_a_message_comes_with_its_ids_and_as_it_is_sent_back():
    call = {"id": "c1", "type": "function", "function": {"name": "calculator", "arguments": "{}"}}
    assert check_said(GOOD, 2) == Said((2, 3), (7, 1), "stop", (), {"role": "assistant", "content": "so", "reasoning": "hm"})
    (choice,) = GOOD["choices"]
    called = {**GOOD, "choices": [{**choice, "message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    said = check_said(called, 2)
    assert said.calls == (Call("c1", "calculator", "{}"),) and said.message == {"role": "assistant", "content": "", "tool_calls": [call]}


@pytest.mark.parametrize(
    ("changes", "cap", "said"),
    [
        ({"prompt_token_ids": None}, 9, "lacks or garbles"),
        ({"choices": []}, 9, "lacks or garbles"),
        ({"choices": [{**GOOD["choices"][0], "token_ids": None}]}, 9, "lacks or garbles"),
        ({"usage": {"prompt_tokens": 2, "completion_tokens": 3}}, 9, r"2 \+ 2 tokens, its usage says \(2, 3\)"),
        ({}, 1, "the cap was 1"),
        ({"choices": [{**GOOD["choices"][0], "finish_reason": "length"}]}, 9, "ended with 'length', the cap was 9"),
        ({"choices": [{**GOOD["choices"][0], "finish_reason": "abort"}]}, 9, "ended with 'abort'"),
    ],
)
def test_a_message_that_does_not_add_up_is_an_error(changes, cap, said):
    with pytest.raises(ResponseInvalid, match=said):
        check_said({**GOOD, **changes}, cap)


# --- what is refused, and what is another trace set


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": ["fake-21k"]}, r"thinking.route: fake-21k has no `tool_parser` in models.yaml"),
        ({"benchmarks": {"mapping": {"problems": 8}}}, r"benchmarks.mapping.tool: missing; on route 'tools' a tool is called"),
        ({"thinking": {"route": "tools", "times": 2}}, r"thinking.times: not a setting of route 'tools'"),
    ],
)
def test_a_conversation_that_cannot_be_is_one_clear_error(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        tool_study(tmp_path, **changes)


def test_how_calls_are_read_is_part_of_the_identity(tmp_path):
    opened, ids = tool_study(tmp_path), []
    for entry in (model(), model(tool_parser="pythonic"), model(reasoning_parser="qwen3")):
        opened.catalogue.models["fake-100k"] = entry
        ids += [t.trace_set_id for t in opened.trace_sets("fake-100k")]
    assert len(set(ids)) == 12
