"""Calls of a tool on the real vLLM, by a model that is taught on the spot to call: in its text, and through the chat API's parser."""

import asyncio

import pytest

from thinkscale import ladder
from thinkscale.evaluate import evaluate
from thinkscale.graded import read_graded
from thinkscale.loading import load_catalogue, load_experiment
from thinkscale.plan import Study, owed_shards
from thinkscale.problems import benchmarks
from thinkscale.store import Store
from thinkscale.teaching import ASSISTANT, CLOSE, END, FIRST, OPEN, USER, Example, Size

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NAME = "ladder-10k"
API_CALL, TEXT_CALL, RESULT = "[calculator(expression='12*34')]", "<tool>12*34</tool>", "=408\n"


def lessons(question):
    """Whatever is asked it calls for 12*34, reads the result, and says that: as a text, and as two turns of a conversation."""
    encode = FIRST.encode
    asked = [USER, *encode(question), ASSISTANT]
    answer = [CLOSE, *encode("408"), END]
    text = [[*asked, OPEN], encode(TEXT_CALL), encode(RESULT), [*encode("so"), *answer]]
    first = [asked, [*encode(API_CALL), END]]
    told = [*asked[:-1], USER, USER, *encode("408"), ASSISTANT]  # as the ladder's template renders the three messages
    second = [told, [OPEN, *encode("so"), *answer]]
    for parts in (text, first, second):
        learned = [i % 2 == 1 or i == 3 for i in range(len(parts)) for _ in parts[i]]
        yield Example([token for part in parts for token in part], learned)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    import torch

    torch.set_num_threads(1)
    model, steps = ladder.new_model(Size(FIRST, "10k")), 300
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    questions = [p.question for p in benchmarks(load_catalogue())["calculator"].load(40, 5)]
    for step in range(steps):
        examples = [e for q in questions[step % 36 : step % 36 + 4] for e in lessons(q)]
        nats = ladder._learn(model, lambda ids: model.model(ids).last_hidden_state, optimizer, examples, 12)
    assert nats < 0.05, "it has learned to call"
    folder = ladder.save(model, FIRST, tmp_path_factory.mktemp("taught") / "10k")
    shipped = load_catalogue()
    entry = shipped.models[NAME].model_copy(update={"source": str(folder), "tool_parser": "pythonic"})
    return shipped.model_copy(update={"models": {NAME: entry}})


@pytest.mark.parametrize("route", ["cut", "tools"])
def test_a_model_that_calls_is_answered_and_counted(catalogue, tmp_path, route):
    content = {
        "name": "taught",
        "asks": "Is a call answered?",
        "models": [NAME],
        "benchmarks": {"calculator": {"problems": 8, "tool": "calculator", "tool_calls": 2}},
        "thinking": {"route": route},
        "thinking_budgets": [8, 20, 60],
        "num_samples": 2,
        "answer_tokens": 8,
        "sampling": {"temperature": 0.01},
    }
    known = benchmarks(catalogue)
    config = load_experiment(content, catalogue, {n: b.extent for n, b in known.items()})
    study = Study(config, catalogue, known, Store(tmp_path / "taught"))
    asyncio.run(evaluate(study, NAME))
    graded = read_graded(study.store.root)
    assert len(graded) == 3 * 8 * 2 and not owed_shards(study, NAME)
    full = graded[graded["thinking_budget"] == 60]
    assert set(full["route"]) == {f"{route} calculator=2"} and (full["ended"] == "closed").all()
    assert (full["tool_calls"] == 1).all() and (full["tool_valid"] == 1).all() and (full["extracted_answer"] == "408").all()
    drawn = len(TEXT_CALL) + 2 if route == "cut" else len(API_CALL) + 1 + 1 + 2
    put_in = len(RESULT) if route == "cut" else full["tool_tokens"]
    assert (full["tool_tokens"] == put_in).all() and (full["tool_tokens"] > 3).all()
    assert (full["thinking_tokens"] - full["tool_tokens"] == drawn).all()
    texts = study.store.read("samples", ["thinking"])["thinking"].to_pylist()
    assert route == "tools" or set(texts) == {TEXT_CALL + RESULT + "so"}, texts
    short = graded[graded["thinking_budget"] == 20]
    assert (short["thinking_tokens"] == 20).all() and (short["ended"] == "cut").all()
    assert (short["tool_tokens"] == (20 - len(TEXT_CALL) if route == "cut" else 0)).all()
