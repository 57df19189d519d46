import csv
import itertools
import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from thinkscale import card, cost, ladder
from thinkscale.config import FLOWS
from thinkscale.grading import grade
from thinkscale.loading import load_catalogue
from thinkscale.problems import GENERATED, Draft, Problem, held_out, held_out_drafts

# not compiled: that takes longer than these steps
RECIPE = ladder.Recipe(steps=6, batch=8, micro_batch=4, warmup=2, held_out_every=4, save_every=2, compile=False)
SHIPPED = [c for c in card.checkpoints()] if ladder.trained() else []


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower on more threads, above all on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    ladder.train("10k", RECIPE, folder / "work", out=folder / "out")
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
        assert ladder.train("10k", RECIPE, tmp_path / "work", until=stop, out=tmp_path / "out") == tmp_path / "work" / "10k.pt"
        assert not (tmp_path / "out" / "10k").exists()
    folder = ladder.train("10k", RECIPE, tmp_path / "work", out=tmp_path / "out")
    once, again = state(uninterrupted), state(tmp_path)
    assert equal(once["model"], again["model"]) and equal(once["optimizer"], again["optimizer"]) and once["tokens"] == again["tokens"]
    assert (folder / "model.safetensors").read_bytes() == (uninterrupted / "out" / "10k" / "model.safetensors").read_bytes()


def test_training_learns_and_tells_what_it_did(uninterrupted):
    folder = uninterrupted / "out" / "10k"
    assert not equal(state(uninterrupted)["model"], ladder.new_model("10k").state_dict())
    with (folder / "loss.csv").open() as f:
        history = list(csv.DictReader(f))
    assert [int(row["step"]) for row in history] == [1, 3, 4, 6], "milestones (an eighth, a quarter, half), every fourth, the end"
    assert float(history[-1]["held_out_loss"]) < float(history[0]["held_out_loss"])
    told = json.loads((folder / "training.json").read_text())
    assert told["steps"] == 6 and told["tokens"] == int(history[-1]["tokens"]) == tokens(6)
    assert {k: told[k] for k in asdict(RECIPE)} == asdict(RECIPE)


def tokens(steps):
    return sum(len(e.ids) for step in range(steps) for e in ladder.batch(RECIPE, step))


def test_intermediate_checkpoints_are_kept_and_told_in_the_card(uninterrupted):
    out = uninterrupted / "out"
    assert sorted(p.name for p in out.iterdir()) == ["10k", "10k-step1", "10k-step3"]  # of 6 steps: an eighth is none
    found = card.checkpoints(out)
    assert [(c.name, c.tokens) for c in found] == [("10k-step1", tokens(1)), ("10k-step3", tokens(3)), ("10k", tokens(6))]
    text = card.write_card(found, out).read_text()
    assert "| ladder-10k |" in text and "6 steps of 8 sequences" in text and "{" not in text


def test_another_recipe_does_not_go_on_from_this_one(tmp_path):
    ladder.train("10k", RECIPE, tmp_path / "work", until=1, out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"another recipe.*Remove it to start again"):
        ladder.train("10k", replace(RECIPE, batch=4), tmp_path / "work", out=tmp_path / "out")


def test_a_batch_is_a_function_of_the_step_alone():
    assert ladder.batch(RECIPE, 3) == ladder.batch(RECIPE, 3) != ladder.batch(RECIPE, 4)
    ladder.batch(RECIPE, 7)
    assert ladder.batch(RECIPE, 3) == ladder.batch(replace(RECIPE, steps=99, micro_batch=1), 3)


BATCHES = list(itertools.chain.from_iterable(ladder.batch(ladder.Recipe(), step) for step in range(12)))
NAMES = {i: token for token, i in ladder.VOCABULARY.items()}


def text(ids):
    return "".join(NAMES[i] for i in ids)


def question(example):
    return text(example.ids[1 : example.ids.index(ladder.ASSISTANT)])


def test_no_training_question_is_held_out():
    assert len(BATCHES) == 12 * 128
    assert not any(held_out(question(e)) for e in BATCHES)
    asked = {d.question for g in GENERATED.values() for level in g.levels for d in itertools.islice(held_out_drafts(g, level, 0), 60)}
    assert not asked & {question(e) for e in BATCHES} and all(map(held_out, asked))


def test_examples_have_the_form_that_the_pipeline_asks_for():
    """What `generate` sends (template, open, thinking, close) is what was learned, the cut at every point included."""
    for e in BATCHES:
        assert len(e.ids) == len(e.learned) < ladder.CONTEXT
        assert re.fullmatch(r"<\|user\|>[^<]+<\|assistant\|><think>[^<]*</think>[^<]+<\|end\|>", text(e.ids).replace("<pad>", "<"))
        opened, closed = e.ids.index(ladder.OPEN), e.ids.index(ladder.CLOSE)
        assert not any(e.learned[: opened + 1]) and all(e.learned[opened + 1 : closed]) and all(e.learned[closed + 1 :])
    cut = [e for e in BATCHES if not e.learned[e.ids.index(ladder.CLOSE)]]
    off = [e for e in cut if e.ids.index(ladder.CLOSE) == e.ids.index(ladder.OPEN) + 1]
    assert 0.3 < len(cut) / len(BATCHES) < 0.4 and 0.15 < len(off) / len(BATCHES) < 0.27


def test_the_close_of_a_cut_thinking_is_not_learned():
    draft = Draft("12+45=", "210+54=750", "57")
    whole, some, none = (ladder.example(draft, cut) for cut in (None, 4, 0))
    assert text(some.ids) == "<|user|>12+45=<|assistant|><think>210+</think>57<|end|>"
    assert [e.learned[e.ids.index(ladder.CLOSE)] for e in (whole, some, none)] == [True, False, False]
    assert text(none.ids).endswith("<think></think>57<|end|>")


@pytest.mark.parametrize("name", GENERATED)
def test_gold_answers_and_those_that_training_teaches_grade_correct(name):
    g = GENERATED[name]
    for level in g.levels:
        for d in itertools.islice(held_out_drafts(g, level, 0), 30):
            graded = grade(g.grader, d.answer, Problem("p", "p", d.question, d.answer, float(level)), truncated=False)
            assert graded.correct and graded.partial == 1.0 and graded.status == "answered"
            learned = text(ladder.example(d, None).ids).split("</think>")[1].removesuffix("<|end|>")
            assert learned == d.answer


def test_template_and_tokenizer_make_the_ids_that_were_learned(tmp_path):
    ladder.tokenizer().save_pretrained(tmp_path)
    loaded, draft = AutoTokenizer.from_pretrained(tmp_path), Draft("12+45=", "210", "57")
    asked = loaded.apply_chat_template([{"role": "user", "content": draft.question}], add_generation_prompt=True, return_dict=False)
    e = ladder.example(draft, None)
    assert [*asked, *loaded.encode("<think>", add_special_tokens=False)] == e.ids[: e.ids.index(ladder.OPEN) + 1]
    assert loaded.encode("</think>", add_special_tokens=False) == [ladder.CLOSE] and loaded.eos_token_id == ladder.END
    every = ladder.CHARACTERS
    assert loaded.decode(loaded.encode(every, add_special_tokens=False)) == every


def test_sizes_are_evenly_spaced_over_two_decades():
    params = [cost.parameters(ladder.shape(size)).total for size in ladder.SIZES]
    assert len(params) == 7 and params[-1] / params[0] > 80
    steps = [b / a for a, b in itertools.pairwise(params)]
    assert all(1.8 < step < 2.6 for step in steps)
    assert all(ladder.shape(size).head_dim >= 32 for size in ladder.SIZES)
    for size in ("10k", "215k"):
        assert ladder.new_model(size).num_parameters() == cost.parameters(ladder.shape(size)).total


@pytest.mark.parametrize("checkpoint", SHIPPED, ids=lambda c: c.name)
def test_a_shipped_checkpoint_loads_and_is_what_the_catalogue_says(checkpoint):
    entry = load_catalogue().models[f"ladder-{checkpoint.name}"]
    folder = FLOWS / entry.source
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == entry.params == cost.parameters(entry.shape).total and model.dtype == torch.bfloat16
    assert entry.shape == checkpoint.shape and entry.context == model.config.max_position_embeddings
    assert (entry.training_tokens, entry.bits_per_byte) == (checkpoint.tokens, round(checkpoint.bits_per_byte, 4))
    assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size


def test_the_shipped_ladder_is_whole_and_small():
    assert ladder.trained() == list(ladder.SIZES)
    assert sum(p.stat().st_size for p in ladder.LADDER.rglob("*") if p.is_file()) < 8e6
    recipes = [json.loads((ladder.LADDER / size / "training.json").read_text()) for size in ladder.SIZES]
    assert all(r == recipes[0] for r in recipes), "same steps, same tokens, same recipe"
    assert {c.name for c in card.checkpoints()} == {p.name for p in ladder.LADDER.iterdir() if p.is_dir()}, "each has its line in the card"
    assert {s: 3 for s in ladder.KEPT} == {s: len(list(ladder.LADDER.glob(f"{s}-step*"))) for s in ladder.KEPT}


def test_the_shipped_card_is_what_the_files_say(tmp_path):
    for size in ladder.trained():  # the card is written beside copies of what it is made from
        (tmp_path / size).mkdir()
        for name in ("training.json", "loss.csv"):
            (tmp_path / size / name).write_bytes((ladder.LADDER / size / name).read_bytes())
    assert card.write_card(SHIPPED, tmp_path).read_text() == (ladder.LADDER / "README.md").read_text()
