"""Each route of thinking on the real vLLM, with a trained model of the ladder: greedy, so that two ways must give the same ids."""

import asyncio
import json
import math
import shutil

import pytest

import real_engine
from thinkscale.calculator import Tool, answer, expression_in, result_text
from thinkscale.config import FLOWS, Sampling, Thinking
from thinkscale.endpoint import Client
from thinkscale.evaluate import evaluate
from thinkscale.forced import Asked, probabilities, teacher_forced, text_logprobs
from thinkscale.generate import AnswerKey, SampleKey
from thinkscale.graded import read_graded
from thinkscale.loading import load_catalogue, prompt_text
from thinkscale.plan import open_study, owed_shards
from thinkscale.problems import benchmarks
from thinkscale.prompting import example_pool, wait_ids
from thinkscale.routes import GREEDY, Route
from thinkscale.thinking import Cut, answer_prompt, cut

CATALOGUE = load_catalogue()
LADDER = CATALOGUE.models[real_engine.MODEL]
SUMS = benchmarks(CATALOGUE)["sums"]
PROBLEMS = SUMS.load(20, 3)
KEYS = [SampleKey(p.problem_id, 0) for p in PROBLEMS]
LARGEST = 48


def drawn(endpoint, do, entry=LADDER, sampling=GREEDY, prompt="question", examples=0, **how):
    """What `do(generator, prompts)` returns."""

    async def go():
        async with Client(endpoint, request_timeout=300.0) as client:
            generator = await real_engine.make_generator(client, entry, sampling, **how)
            pool = example_pool(SUMS, examples, 3)
            return await do(generator, await generator.prompts(PROBLEMS, prompt_text(prompt), examples, pool))

    return asyncio.run(go())


def traces_and_answers(endpoint, budget, budgets, **how):
    async def do(generator, prompts):
        traces = await generator.traces(prompts, KEYS, budget)
        return traces, await generator.answers(prompts, traces, [AnswerKey(*k, b) for k in KEYS for b in budgets], {})

    return drawn(endpoint, do, **how)


def texts(answers):
    return {key: (a.text, a.finish, a.token_count) for key, a in answers.items()}


@pytest.mark.engine
def test_an_extended_trace_cut_at_a_budget_is_the_trace_forced_to_it(real_endpoint):
    async def ids():
        async with Client(real_endpoint) as client:
            return await wait_ids(client, LADDER, " wait ")

    wait = asyncio.run(ids())
    assert len(wait) == 6
    how = {"route": Route("extend", (LARGEST,), wait=" wait ", times=2), "wait": wait}
    budgets = (5, 12, 20, 29, 33, LARGEST)
    long, answers = traces_and_answers(real_endpoint, LARGEST, budgets, **how)
    assert max(len(t.waits) for t in long.values()) == 2
    inside = 0
    for budget in budgets:
        alone, alone_answers = traces_and_answers(real_endpoint, budget, (budget,), **how)
        assert {k: cut(t, budget) for k, t in alone.items()} == {k: cut(t, budget) for k, t in long.items()}
        assert texts(alone_answers) == {k: v for k, v in texts(answers).items() if k.thinking_budget == budget}
        inside += sum(any(w < budget < w + len(wait) for w in t.waits) for t in long.values())
    assert inside, "some budget ends inside of a wait"


@pytest.mark.engine
def test_a_trace_with_calls_cut_at_a_budget_is_the_trace_forced_to_it(real_endpoint):
    """The ladder was never taught to call; what it does write in sums, `+54=`, is taken for a call, whose result it has not expected."""
    tool = Tool(open="+", close="=", before="(", after=")")
    how = {"route": Route("cut", (LARGEST,), tool=tool, calls=2)}
    budgets = (3, 6, 9, 11, 16, 21, 24, LARGEST)
    long, answers = traces_and_answers(real_endpoint, LARGEST, budgets, **how)
    assert max(len(t.calls) for t in long.values()) == 2
    for trace in long.values():
        first, *rest = trace.text.split("=")
        for part, call in zip(rest[:2], trace.calls, strict=False):
            expected = answer(expression_in(f"{first}=", tool))
            result = result_text(expected, tool)
            assert part.startswith(result[: call.width]) and call.width == len(result) and call.valid == expected.valid
            first = part
    inside, continued = 0, 0
    for budget in budgets:
        alone, alone_answers = traces_and_answers(real_endpoint, budget, (budget,), **how)
        assert {k: cut(t, budget) for k, t in alone.items()} == {k: cut(t, budget) for k, t in long.items()}
        assert texts(alone_answers) == {k: v for k, v in texts(answers).items() if k.thinking_budget == budget}
        inside += sum(any(c.at < budget < c.at + c.width for c in t.calls) for t in alone.values())
        short = {k: t for k, t in alone.items() if t.ended == "cut"}

        async def go_on(generator, prompts, short=short):
            return await generator.continued(prompts, short, LARGEST)

        assert drawn(real_endpoint, go_on, **how) == {k: long[k] for k in short}
        continued += len(short)
    assert inside and continued, "some budget ends inside of a result, and such traces go on"


@pytest.mark.engine
def test_what_the_server_cuts_by_itself_is_what_is_cut_from_one_long_trace(real_endpoint):
    budgets = (1, 5, 12, 30)
    long, answers = traces_and_answers(real_endpoint, LARGEST, budgets)
    ends = set()
    for budget in budgets:
        alone, alone_answers = traces_and_answers(real_endpoint, budget, (budget,), route=Route("native", (budget,)))
        for key, trace in alone.items():
            expected = cut(long[key], budget)
            assert trace.ids == expected.ids and len(trace.ids) <= budget
            # a close at exactly the budget looks like the server's
            assert trace.ended == ("cut" if len(trace.ids) == budget else expected.ended)
            ends.add(trace.ended)
        assert texts(alone_answers) == {k: v for k, v in texts(answers).items() if k.thinking_budget == budget}
    assert ends == {"cut", "closed"}


@pytest.mark.engine
def test_a_cue_ends_the_thinking_of_a_model_without_tags(real_endpoint):
    entry = LADDER.model_copy(update={"thinking": Thinking(open="<think>", close="</think>", closes=False, cue="5=")})
    prose, _ = traces_and_answers(real_endpoint, LARGEST, (), entry=entry)
    plain, _ = traces_and_answers(real_endpoint, LARGEST, ())
    closed = [k for k, t in prose.items() if t.ended == "closed"]
    assert closed
    for key in closed:
        trace, whole = prose[key], plain[key]
        assert trace.text.endswith("5=") and trace.text.count("5=") == 1 and len(trace.closing) == 2
        assert (*trace.ids, *trace.closing) == whole.ids[: len(trace.ids) + 2]
        assert cut(trace, len(trace.ids) + 1) == Cut(trace.ids, "closed")
    for key in set(prose) - set(closed):
        assert "5=" not in plain[key].text.split("</think>")[0]


@pytest.mark.engine
def test_worked_examples_stand_before_the_question_and_answers_follow(real_endpoint):
    lengths = []
    for k in (0, 1, 2, 4):

        async def do(generator, prompts):
            traces = await generator.traces(prompts, KEYS, 16)
            answers = await generator.answers(prompts, traces, [AnswerKey(*key, b) for key in KEYS for b in (0, 16)], {})
            return prompts, answers

        prompts, answers = drawn(real_endpoint, do, prompt="few-shot-bare", examples=k)
        lengths.append(sum(map(len, prompts.values())))
        assert len(answers) == 2 * len(KEYS) and all(a.token_count for a in answers.values())
    assert lengths == sorted(set(lengths))


@pytest.mark.engine
def test_the_log_probability_of_an_answer_is_what_the_model_gives_its_tokens_one_by_one(real_endpoint):
    async def do(generator, prompts):
        traces = await generator.traces(prompts, KEYS, LARGEST)
        answers = await generator.answers(prompts, traces, [AnswerKey(*k, LARGEST) for k in KEYS], {})
        found = []
        for key in KEYS[:5]:
            answer = answers[AnswerKey(*key, LARGEST)]
            before = (*prompts[key.problem_id], *generator.boundary.open, *answer.seen.ids, *generator.boundary.close)
            (first,) = await generator.client.complete([before], 1, 8, GREEDY, logprobs=0)
            body = {"model": LADDER.name, "prompt": [*before, *first.token_ids], "max_tokens": 1, "prompt_logprobs": 0}
            forced = (await generator.client._post("/v1/completions", body))["choices"][0]["prompt_logprobs"][len(before) :]
            found.append((answer.logprob, sum(next(iter(p.values()))["logprob"] for p in forced)))
        return found, answers

    # at temperature 2 too: it is the model's own probability, not that of the draw
    found, answers = drawn(real_endpoint, do)
    for stored, forced in found:
        assert stored == pytest.approx(forced, abs=1e-3)
    hot = drawn(real_endpoint, do, sampling=Sampling(temperature=2.0))[1]
    assert min(a.logprob for a in hot.values()) < min(a.logprob for a in answers.values())


@pytest.mark.engine
def test_the_score_of_a_gold_answer_is_what_prompt_logprobs_says_and_higher_where_the_model_is_right(real_endpoint):
    others = ("1", "12", "129", "7")  # beside gold, as the choices of a problem: some begin alike

    async def do(generator, prompts):
        traces = await generator.traces(prompts, KEYS, LARGEST)
        seen = generator.seen(prompts, traces, [AnswerKey(*k, b) for k in KEYS for b in (0, 12, LARGEST)])
        gold = await teacher_forced(generator, prompts, PROBLEMS, {key: cut for key, (cut, _) in seen.items()})
        texts = {p.problem_id: [tuple(await generator.client.tokenize(t)) for t in (p.answer, *others)] for p in PROBLEMS}
        some = list(gold)[::7]
        asked = {k: Asked(answer_prompt(prompts[k.problem_id], seen[k][0], generator.boundary), tuple(texts[k.problem_id])) for k in some}
        found, forced = await text_logprobs(generator, asked), {}
        for key, (before, each) in asked.items():
            for ids in each:
                body = {"model": LADDER.name, "prompt": [*before, *ids], "max_tokens": 1, "prompt_logprobs": 0}
                known = (await generator.client._post("/v1/completions", body))["choices"][0]["prompt_logprobs"][len(before) :]
                forced.setdefault(key, []).append(sum(at[str(token)]["logprob"] for token, at in zip(ids, known, strict=True)))
        return gold, found, forced

    gold, found, forced = drawn(real_endpoint, do)
    assert len(gold) == 3 * len(KEYS) and len({k.thinking_budget for k in forced}) == 3
    for key, expected in forced.items():
        assert found[key] == pytest.approx(expected, abs=1e-3)
        assert gold[key].logprob == pytest.approx(expected[0], abs=1e-3) and gold[key].choices == ()
        weights = [math.exp(e) for e in expected]
        assert probabilities(found[key]) == pytest.approx([w / sum(weights) for w in weights], abs=1e-3)
    mean = {b: sum(g.logprob for k, g in gold.items() if k.thinking_budget == b) / len(KEYS) for b in (0, LARGEST)}
    assert mean[LARGEST] > mean[0] + 1


@pytest.mark.engine
@pytest.mark.slow
def test_levels_of_effort_reach_the_chat_template_of_a_real_model(tmp_path):
    """The ladder's template takes no level: a copy of the model whose template does."""
    folder = tmp_path / "told"
    shutil.copytree(FLOWS / LADDER.source, folder)
    template = folder / "chat_template.jinja"
    told = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    if template.is_file():
        template.write_text(template.read_text().rstrip() + told)
    else:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] += told
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    content = {
        "name": "told",
        "asks": "Does the template hear the level?",
        "models": [LADDER.name],
        "benchmarks": {"sums": {"problems": 20}},
        "thinking_budgets": [40],
        "num_samples": 2,
        "answer_tokens": 8,
        "thinking": {"route": "effort", "levels": {"none": {"enable_thinking": False}, "full": {"enable_thinking": True}}},
    }
    study = open_study(content, tmp_path / "results")
    study.catalogue.models[LADDER.name] = LADDER.model_copy(update={"source": str(folder)})
    asyncio.run(evaluate(study, LADDER.name))
    graded = read_graded(study.store.root)
    right = graded.groupby("route", observed=True)["correct"].mean()
    assert not owed_shards(study, LADDER.name) and right["effort=full"] > right["effort=none"] + 0.2
    assert (graded[graded["route"] == "effort=none"]["thinking_tokens"] == 0).all()
