import asyncio
import gc
import warnings

import pytest

from fakes import CLOSE, END, OPEN, Toy, files, generator, model, study
from thinkscale.config import Engine, Sampling, Thinking
from thinkscale.endpoint import EngineDied, RequestFailed, ResponseInvalid
from thinkscale.generate import MAX_N, AnswerKey, Generator, Room, SampleKey
from thinkscale.plan import owed_shards
from thinkscale.problems import Problem
from thinkscale.prompting import boundary, render
from thinkscale.shards import run_shard
from thinkscale.thinking import Trace

PROMPTS = {f"p{i}": [2, 20 + i, 3] for i in range(6)}
KEYS = [SampleKey(p, i) for p in PROMPTS for i in range(4)]
BUDGETS = (0, 3, 6, 16)
OWED = [AnswerKey(*key, b) for key in KEYS for b in BUDGETS]


def go(client, work, **settings):
    """Run `await work(generator)` on a client."""

    async def run():
        return await work(await generator(client, **settings))

    return asyncio.run(run())


def draw(client, keys=KEYS, budget=16, **settings):
    return go(client, lambda g: g.traces(PROMPTS, keys, budget), **settings)


def answer(client, traces, owed=OWED, known=None, **settings):
    return go(client, lambda g: g.answers(PROMPTS, traces, owed, known or {}), **settings)


def asked(client):
    """Every prompt that was sent, in order."""
    return [p for r in client.requests for p in r["prompts"]]


TRACES = draw(Toy())


def test_traces_end_in_every_way_so_that_these_tests_say_something():
    assert {t.ended for t in TRACES.values()} == {"closed", "cut", "eos"}
    assert min(len(t.ids) for t in TRACES.values()) < 3


@pytest.mark.parametrize("close", ["</think>", "</think>\n"])
def test_answers_are_asked_after_exactly_prompt_thinking_and_close(close):
    client = Toy()
    entry = model(thinking=Thinking(open="<think>", close=close, off="<think>"))
    found = answer(client, TRACES, entry=entry, prompts_per_request=1)
    tail = (CLOSE,) if close == "</think>" else (CLOSE, 63)
    expected = []
    for key in sorted(found):
        ids = TRACES[SampleKey(*key[:2])].ids
        prompt = tuple(PROMPTS[key.problem_id])
        expected.append((*prompt, OPEN, *ids[: key.thinking_budget], *tail) if key.thinking_budget else (*prompt, OPEN))
    assert set(asked(client)) == set(expected)
    assert all(r["max_tokens"] == 6 and r["n"] == 1 and r["stop"] == () for r in client.requests)


def test_trace_requests_carry_prompt_and_open_and_ask_for_one_token_past_the_cap():
    client = Toy()
    draw(client)
    assert sorted(asked(client)) == [(2, 20 + i, 3, OPEN) for i in range(6)]
    assert all((r["n"], r["max_tokens"], r["stop"]) == (4, 17, (CLOSE,)) for r in client.requests)


def test_a_model_that_does_not_close_by_itself_is_stopped_by_end_of_text_alone():
    client = Toy()
    found = draw(client, entry=model(thinking=Thinking(open="<think>", close="</think>", closes=False)))
    assert all(r["stop"] == () for r in client.requests)
    assert {t.ended for t in found.values()} <= {"eos", "cut"}


def test_an_answer_of_a_whole_trace_is_drawn_once_shared_and_charged_once():
    client = Toy()
    found = answer(client, TRACES)
    assert list(map(tuple, sorted(found))) == sorted(map(tuple, OWED))
    distinct = sum(1 + len({min(b, len(t.ids) + (t.ended == "cut")) for b in BUDGETS[1:]}) for t in TRACES.values())
    assert len(asked(client)) == distinct < len(OWED)
    assert sum(a.request_completion_tokens for a in found.values()) == client.drawn
    for key, trace in TRACES.items():
        whole = [b for b in BUDGETS[1:] if b >= len(trace.ids) and trace.ended != "cut"]
        rows = [found[AnswerKey(*key, b)] for b in whole]
        assert len({(r.text, r.token_count, r.finish, r.seen, r.trace_hash) for r in rows}) <= 1
        assert [r.request_completion_tokens > 0 for r in rows] == [True] * len(rows[:1]) + [False] * len(rows[1:])


def test_answers_that_are_known_are_not_drawn_again():
    first = answer(Toy(), TRACES, [k for k in OWED if k.thinking_budget == 6])
    known = {(SampleKey(*k[:2]), a.trace_hash): a for k, a in first.items() if a.seen.ended in ("closed", "eos")}
    assert known
    client = Toy(engine_seed=9)
    second = answer(client, TRACES, [k for k in OWED if k.thinking_budget == 16], known)
    for (key, hash_), a in known.items():
        again = second[AnswerKey(*key, 16)]
        assert (again.text, again.trace_hash, again.request_completion_tokens) == (a.text, hash_, 0)
    assert len(asked(client)) == len(second) - len(known)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_answers_do_not_depend_on_how_many_prompts_share_a_request(size):
    client = Toy()
    found = answer(client, TRACES, prompts_per_request=size)
    assert max(len(r["prompts"]) for r in client.requests) == min(size, len(asked(client)))
    assert found == answer(Toy(), TRACES)


@pytest.mark.parametrize(("samples", "sizes"), [(1, [1]), (16, [16]), (17, [16, 1]), (40, [16, 16, 8])])
def test_no_request_asks_for_more_than_sixteen_samples(samples, sizes):
    client = Toy(seeds=True)
    found = draw(client, [SampleKey("p0", i) for i in range(samples)])
    assert sorted((r["n"] for r in client.requests), reverse=True) == sizes and MAX_N == 16
    assert sorted(k.sample_index for k in found) == list(range(samples))


def test_seeds_go_with_single_prompt_requests_and_only_where_the_engine_takes_them():
    without, with_ = Toy(), Toy(seeds=True)
    for client in (without, with_):
        traces = draw(client, [SampleKey(p, i) for p in PROMPTS for i in range(40)])
        answer(client, traces, [AnswerKey(*k, 16) for k in traces])
    assert {r["seed"] for r in without.requests} == {None}
    for r in with_.requests:
        assert (r["seed"] is None) == (r["max_tokens"] == 6), "one seed for many prompts would tie their draws together"
        assert len(r["prompts"]) == 1 or r["seed"] is None
    seeds = [r["seed"] for r in with_.requests if r["seed"] is not None]
    assert len(set(seeds)) == len(seeds) == 6 * 3


def test_children_of_two_requests_of_a_problem_are_different_draws():
    found = draw(Toy(seeds=True), [SampleKey("p0", i) for i in range(32)])
    assert len({t.hash for t in found.values()}) > 16


@pytest.mark.parametrize("first", [1, 5, 15])
def test_a_continued_trace_is_the_one_that_ran_on(first):
    short, client = draw(Toy(), budget=first), Toy()
    cut_short = {k: t for k, t in short.items() if t.ended == "cut"}
    continued = go(client, lambda g: g.continued(PROMPTS, cut_short, 16))
    assert short | continued == {k: Trace(t.ids, t.ended, 16 if k in continued else first, t.next_id) for k, t in TRACES.items()}
    assert all(r["max_tokens"] == 16 - first and r["seed"] is None for r in client.requests)
    assert set(asked(client)) == {(*PROMPTS[k.problem_id], OPEN, *t.ids, t.next_id) for k, t in cut_short.items()}


def test_traces_of_several_old_caps_are_continued_each_by_what_it_lacks():
    short = {k: draw(Toy(), [k], budget)[k] for k, budget in zip([SampleKey(p, 0) for p in PROMPTS], (2, 3, 4, 2, 3, 4), strict=True)}
    cut_short = {k: t for k, t in short.items() if t.ended == "cut"}
    assert len({t.budget for t in cut_short.values()}) > 1
    continued = go(Toy(), lambda g: g.continued(PROMPTS, cut_short, 16))
    assert continued == {k: draw(Toy(), [k])[k] for k in cut_short}


@pytest.mark.parametrize(("concurrency", "most"), [(4, 4), (10, 8), (64, 24), (1, 4)])
def test_sequences_in_flight_are_bounded(concurrency, most):
    client = Toy()
    draw(client, concurrency=concurrency)  # requests of 4 sequences: one that is larger than the room runs alone
    assert client.most_in_flight == most


def test_room_is_given_by_size_and_given_back_after_errors():
    async def check():
        room, log = Room(4), []

        async def job(name, size, error=None):
            async with room.take(size):
                log.append(f"{name} in")
                await asyncio.sleep(0.01)
                log.append(f"{name} out")
                if error:
                    raise error

        done = await asyncio.gather(job("a", 3, KeyError()), job("b", 2), job("c", 99), return_exceptions=True)
        assert isinstance(done[0], KeyError)
        assert log.index("b in") > log.index("a out") and log.index("c in") > log.index("b out")
        async with asyncio.timeout(1), room.take(4):
            pass

    asyncio.run(check())


@pytest.mark.parametrize("error", [RequestFailed("no"), ResponseInvalid("odd"), EngineDied("gone")])
def test_a_failed_request_raises_and_cancels_the_rest(error):
    client = Toy(fail_after=2, error=error)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(type(error)):
            draw(client, concurrency=8)
        gc.collect()
    assert len(client.requests) == 2 and client.in_flight == 0
    assert not [str(w.message) for w in warned if "never awaited" in str(w.message)], "of work that was prepared and never begun"


@pytest.mark.parametrize("fail_after", range(5))
def test_what_a_failed_request_belonged_to_is_not_written(tmp_path, fail_after):
    opened = study(tmp_path)
    shard = owed_shards(opened, "fake-100k")[0]
    assert len(shard.problems) == 4  # so 4 requests of traces, then answers

    async def run():
        return await run_shard(shard, await generator(Toy(fail_after=fail_after, error=RequestFailed("no"))), opened.store)

    with pytest.raises(RequestFailed):
        asyncio.run(run())
    assert len(files(opened, "samples")) == (fail_after == 4) and not files(opened, "answers", "grades")


def test_what_is_drawn_is_counted():
    seen, client = [], Toy()

    async def run():
        tags = await boundary(client, model())
        g = Generator(client, model(), tags, Sampling(), Engine(), 6, Room(64), lambda *counts: seen.append(counts))
        return await g.traces(PROMPTS, KEYS, 16)

    asyncio.run(run())
    assert [sum(c) for c in zip(*seen, strict=True)] == [len(KEYS), client.drawn]


def test_a_close_that_the_model_cannot_write_as_one_token_is_refused():
    class Splits(Toy):
        async def tokenize(self, text, **_):
            return [30 + i for i in range(len(text))]

        async def detokenize(self, ids):
            return "" if ids[0] == 30 else "<"

    with pytest.raises(ValueError, match=r"fake-100k.*'</think>'.*set `closes: false`"):
        asyncio.run(boundary(Splits(), model()))
    tags = asyncio.run(boundary(Splits(), model(thinking=Thinking(close="So:", closes=False))))
    assert (tags.open, tags.close, tags.off, tags.stop) == ((), (30, 31, 32), (30, 31, 32), None)


PROBLEM = Problem("id", "id", "1+1=", "2", 1.0, choices=("2", "3"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ question }}", "1+1="),
        ("Q: {{ question }}\n{% for c in choices %}({{ c }}){% endfor %}\n", "Q: 1+1=\n(2)(3)\n"),
    ],
)
def test_a_prompt_is_rendered(text, expected):
    assert render(text, PROBLEM) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [("{{ questoin }}", "'questoin' is undefined"), ("{{ question", "cannot be rendered"), ("Say something.", "leaves out the question")],
)
def test_a_prompt_that_cannot_be_right_is_an_error(text, said):
    with pytest.raises(ValueError, match=said):
        render(text, PROBLEM)


def test_end_of_text_inside_an_answer_is_no_thinking():
    found = answer(Toy(), TRACES)
    assert {a.finish for a in found.values()} == {"stop", "length"}
    assert END not in {i for a in found.values() for i in a.seen.ids}
