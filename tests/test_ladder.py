import csv
import itertools
import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from thinkscale import card, cost, ladder, teaching
from thinkscale.config import FLOWS
from thinkscale.grading import grade
from thinkscale.loading import load_catalogue
from thinkscale.problems import Draft, Problem, held_out, held_out_drafts
from thinkscale.teaching import FIRST, LADDERS, Size

# not compiled: that takes longer than these steps
RECIPE = ladder.Recipe(steps=6, batch=8, micro_batch=4, warmup=2, held_out_every=4, save_every=2, compile=False)
SHIPPED = [c for taught in LADDERS.values() for c in card.checkpoints(taught)]
TINY = Size(FIRST, "10k")
LADDER = pytest.mark.parametrize("taught", LADDERS.values(), ids=LADDERS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower on more threads, above all on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    ladder.train(TINY, RECIPE, folder / "work", out=folder / "out")
    return folder


def state(folder):
    return torch.load(folder / "work" / "10k.pt", weights_only=True)


def equal(a, b):
    """Tensors, and whatever holds them, equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b if not isinstance(a, list) else len(a) == len(b) and all(map(equal, a, b))


@pytest.mark.parametrize("stops", [(3,), (1, 5)])
def test_training_that_was_stopped_and_resumed_ends_in_the_same_weights(tmp_path, uninterrupted, stops):
    for stop in stops:
        assert ladder.train(TINY, RECIPE, tmp_path / "work", until=stop, out=tmp_path / "out") == tmp_path / "work" / "10k.pt"
        assert not (tmp_path / "out" / "10k").exists()
    folder = ladder.train(TINY, RECIPE, tmp_path / "work", out=tmp_path / "out")
    once, again = state(uninterrupted), state(tmp_path)
    assert equal(once["model"], again["model"]) and equal(once["optimizer"], again["optimizer"]) and once["tokens"] == again["tokens"]
    assert (folder / "model.safetensors").read_bytes() == (uninterrupted / "out" / "10k" / "model.safetensors").read_bytes()


def test_training_learns_and_tells_what_it_did(uninterrupted):
    folder = uninterrupted / "out" / "10k"
    assert not equal(state(uninterrupted)["model"], ladder.new_model(TINY).state_dict())
    with (folder / "loss.csv").open() as f:
        history = list(csv.DictReader(f))
    assert [int(row["step"]) for row in history] == [1, 3, 4, 6], "milestones (an eighth, a quarter, half), every fourth, the end"
    assert float(history[-1]["held_out_loss"]) < float(history[0]["held_out_loss"])
    told = json.loads((folder / "training.json").read_text())
    assert told["steps"] == 6 and told["tokens"] == int(history[-1]["tokens"]) == tokens(6)
    assert {k: told[k] for k in asdict(RECIPE)} == asdict(RECIPE)


def tokens(steps):
    return sum(len(e.ids) for step in range(steps) for e in teaching.batch(FIRST, RECIPE.batch, step, steps=6))


def test_intermediate_checkpoints_are_kept_and_told_in_the_card(uninterrupted):
    out = uninterrupted / "out"
    assert sorted(p.name for p in out.iterdir()) == ["10k", "10k-step1", "10k-step3"]  # of 6 steps: an eighth is none
    found = card.checkpoints(FIRST, out)
    assert [(c.folder, c.tokens) for c in found] == [("10k-step1", tokens(1)), ("10k-step3", tokens(3)), ("10k", tokens(6))]
    text = card.write_card(FIRST, found, out).read_text()
    assert "| ladder-10k |" in text and "6 steps of 8 sequences" in text and "{" not in text


def test_another_recipe_does_not_go_on_from_this_one(tmp_path):
    ladder.train(TINY, RECIPE, tmp_path / "work", until=1, out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"another recipe.*Remove it to start again"):
        ladder.train(TINY, replace(RECIPE, batch=4), tmp_path / "work", out=tmp_path / "out")


TWO_LESSONS = replace(FIRST, lessons=(teaching.Lesson(2, {"sums": 1.0}), teaching.Lesson(4, {"swaps": 1.0})), kept=frozenset())


def test_lessons_keep_their_share_of_a_training_and_teach_what_they_say():
    assert TWO_LESSONS.steps == 6 and list(TWO_LESSONS.skills) == ["sums", "swaps"]
    assert [[s[:2] for s in TWO_LESSONS.stretches(n)] for n in (3, 6, 300)] == [[(0, 1), (1, 3)], [(0, 2), (2, 6)], [(0, 100), (100, 300)]]
    for step in range(12):
        asked = [question(TWO_LESSONS, e) for e in teaching.batch(TWO_LESSONS, 8, step, 12)]
        assert all(("+" in q) == (step < 4) for q in asked), asked


def test_the_learning_rate_rises_and_falls_in_every_lesson():
    recipe = ladder.Recipe(steps=600, warmup=10)
    rates = [ladder.learning_rate(recipe, Size(TWO_LESSONS, "10k"), step) for step in range(600)]
    peak = max(rates)
    assert rates[0] == rates[200] == peak / 10 and rates[100] == rates[300] == peak
    assert rates[199] == rates[599] == peak / 50 and rates[135] < peak and rates[459] == peak > rates[461]
    one = [ladder.learning_rate(recipe, TINY, step) for step in range(600)]
    assert one[0] == peak / 10 and one[300] == peak and one[599] == peak / 50


def test_a_lesson_goes_on_from_weights_as_they_ship_wherever_training_stopped(tmp_path):
    size = Size(TWO_LESSONS, "10k")
    for name, stops in (("once", ()), ("before", (2,)), ("after", (1, 3))):
        for stop in stops:
            ladder.train(size, RECIPE, tmp_path / name / "work", until=stop, out=tmp_path / name / "out")
        ladder.train(size, RECIPE, tmp_path / name / "work", out=tmp_path / name / "out")
    once = state(tmp_path / "once")
    assert all(equal(once[part], state(tmp_path / other)[part]) for other in ("before", "after") for part in ("model", "optimizer"))
    assert {int(s["step"]) for s in once["optimizer"]["state"].values()} == {4}, "the second lesson's optimizer is its own"
    ladder.train(size, RECIPE, tmp_path / "work", until=2, out=tmp_path / "out")
    saved = state(tmp_path)
    rounded = {k: v.to(torch.bfloat16).float() for k, v in saved["model"].items()}
    fresh = ladder.new_optimizer(ladder.new_model(size)).state_dict()
    torch.save(saved | {"model": rounded, "optimizer": fresh}, tmp_path / "work" / "10k.pt")
    ladder.train(size, RECIPE, tmp_path / "work", out=tmp_path / "out")
    assert equal(state(tmp_path)["model"], once["model"])


@LADDER
def test_a_batch_is_a_function_of_the_step_alone(taught):
    once = teaching.batch(taught, 8, 3, 12)
    teaching.batch(taught, 8, 7, 12)
    assert teaching.batch(taught, 8, 3, 12) == once != teaching.batch(taught, 8, 4, 12)


BATCHES = {
    name: list(itertools.chain.from_iterable(teaching.batch(taught, 128, step, 12) for step in range(12)))
    for name, taught in LADDERS.items()
}


def text(taught, ids):
    names = {i: token for token, i in taught.vocabulary.items()}
    return "".join(names[i] for i in ids)


def question(taught, example):
    return text(taught, example.ids[1 : example.ids.index(teaching.ASSISTANT)])


@LADDER
def test_no_training_question_is_held_out(taught):
    learned = {question(taught, e) for e in BATCHES[taught.name]}
    assert len(BATCHES[taught.name]) == 12 * 128 and not any(map(held_out, learned))
    of_all = [(g, level) for g in taught.skills.values() for level in g.levels]
    asked = {d.question for g, level in of_all for d in itertools.islice(held_out_drafts(g, level, 0), 40)}
    assert not asked & learned and all(map(held_out, asked))


@LADDER
def test_examples_have_the_form_that_the_pipeline_asks_for(taught):
    """What `generate` sends (template, open, thinking, close) is what was learned, the cut at every point included."""
    batches = BATCHES[taught.name]
    for e in batches:
        assert len(e.ids) == len(e.learned) < taught.context
        marked = re.sub(r"<(?!/?think>|\||pad>)", "lt", text(taught, e.ids)).replace("<pad>", "<")
        assert re.fullmatch(r"<\|user\|>[^<]+<\|assistant\|><think>[^<]*</think>[^<]+<\|end\|>", marked)
        opened, closed = e.ids.index(teaching.OPEN), e.ids.index(teaching.CLOSE)
        assert not any(e.learned[: opened + 1]) and all(e.learned[closed + 1 :])
        put_in = text(taught, [e.ids[i] for i in range(opened + 1, closed) if not e.learned[i]])
        assert re.fullmatch(r"(=\d*\n?)*", put_in), "of the thinking all is learned but what a calculator answered"
    cut = [e for e in batches if not e.learned[e.ids.index(teaching.CLOSE)]]
    off = [e for e in cut if e.ids.index(teaching.CLOSE) == e.ids.index(teaching.OPEN) + 1]
    assert 0.3 < len(cut) / len(batches) < 0.4 and 0.15 < len(off) / len(batches) < 0.27


def test_the_close_of_a_cut_thinking_is_not_learned():
    draft = Draft("12+45=", "210+54=750", "57")
    whole, some, none = (teaching.example(FIRST, draft, cut) for cut in (None, 4, 0))
    assert text(FIRST, some.ids) == "<|user|>12+45=<|assistant|><think>210+</think>57<|end|>"
    assert [e.learned[e.ids.index(teaching.CLOSE)] for e in (whole, some, none)] == [True, False, False]
    assert text(FIRST, none.ids).endswith("<think></think>57<|end|>")


@pytest.mark.parametrize(("taught", "name"), [(taught, name) for taught in LADDERS.values() for name in taught.skills])
def test_gold_answers_and_those_that_training_teaches_grade_correct(taught, name):
    g = taught.skills[name]
    for level in g.levels:
        for d in itertools.islice(held_out_drafts(g, level, 0), 10):
            problem = Problem("p", "p", d.question, d.answer, float(level), metadata=d.metadata)
            graded = grade(g.grader, d.answer, problem, truncated=False)
            assert graded.correct and graded.partial == 1.0 and graded.status == "answered"
            learned = text(taught, teaching.example(taught, d, None).ids).split("</think>")[1].removesuffix("<|end|>")
            assert learned == d.answer


@LADDER
def test_template_and_tokenizer_make_the_ids_that_were_learned(tmp_path, taught):
    ladder.tokenizer(taught).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for e in BATCHES[taught.name][:200]:
        asked = [{"role": "user", "content": question(taught, e)}]
        ids = loaded.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        assert [*ids, *loaded.encode("<think>", add_special_tokens=False)] == e.ids[: e.ids.index(teaching.OPEN) + 1]
        after = e.ids[e.ids.index(teaching.CLOSE) + 1 : -1]
        assert loaded.encode(text(taught, after), add_special_tokens=False) == after
    assert loaded.encode("</think>", add_special_tokens=False) == [teaching.CLOSE] and loaded.eos_token_id == teaching.END
    assert loaded.decode(loaded.encode(taught.characters, add_special_tokens=False)) == taught.characters


@LADDER
def test_sizes_are_evenly_spaced_and_called_by_their_parameters(taught):
    params = {name: cost.parameters(ladder.shape(Size(taught, name))).total for name in taught.sizes}
    counts = list(params.values())
    assert len(counts) >= 6 and counts[-1] / counts[0] > 30
    assert all(1.8 < b / a < 2.6 for a, b in itertools.pairwise(counts))
    for name, count in params.items():
        called = float(name[:-1]) * {"k": 1e3, "m": 1e6}[name[-1]]
        assert abs(count / called - 1) < 0.03
    smallest = Size(taught, next(iter(taught.sizes)))
    assert ladder.new_model(smallest).num_parameters() == counts[0]


@pytest.mark.parametrize("checkpoint", SHIPPED, ids=lambda c: c.model)
def test_a_shipped_checkpoint_loads_and_is_what_the_catalogue_says(checkpoint):
    entry = load_catalogue().models[checkpoint.model]
    folder = FLOWS / entry.source
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == entry.params == cost.parameters(entry.shape).total and model.dtype == torch.bfloat16
    assert entry.shape == checkpoint.shape and entry.context == model.config.max_position_embeddings
    assert (entry.training_tokens, entry.bits_per_byte) == (checkpoint.tokens, round(checkpoint.bits_per_byte, 4))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size and tokenizer.get_vocab() == checkpoint.size.ladder.vocabulary


@LADDER
def test_a_shipped_ladder_is_whole_and_small(taught):
    assert [size.name for size in ladder.trained(taught)] == list(taught.sizes)
    assert sum(p.stat().st_size for p in taught.folder.rglob("*") if p.is_file()) < 8e6
    recipes = [json.loads((taught.folder / size / "training.json").read_text()) | {"compile": None} for size in taught.sizes]
    assert all(r == recipes[0] for r in recipes), "same steps, same tokens, same recipe"
    folders = {p.name for p in taught.folder.iterdir() if p.is_dir()} - {"verifier"}
    assert {c.folder for c in card.checkpoints(taught)} == folders, "each has its line in the card"
    assert {s: 3 for s in taught.kept} == {s: len(list(taught.folder.glob(f"{s}-step*"))) for s in taught.kept}


@LADDER
def test_a_shipped_card_is_what_the_files_say(tmp_path, taught):
    for size in taught.sizes:  # the card is written beside copies of what it is made from
        (tmp_path / size).mkdir()
        for name in ("training.json", "loss.csv"):
            (tmp_path / size / name).write_bytes((taught.folder / size / name).read_bytes())
    assert card.write_card(taught, card.checkpoints(taught), tmp_path).read_text() == (taught.folder / "README.md").read_text()
