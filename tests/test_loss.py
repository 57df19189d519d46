"""Loss on a text: every token scored once, with enough before it; the ladder's own losses come out again."""

import asyncio
import csv
import json
import math

import pytest

from fake_vllm import logprob
from fakes import FAKE_VLLM, engines, run_fake, study
from thinkscale import card, loss, report, teaching
from thinkscale.config import FLOWS, ConfigError, Engine, Loss
from thinkscale.endpoint import Client
from thinkscale.fanout import Ended, Unfinished, fan_out
from thinkscale.loading import load_catalogue
from thinkscale.report import analyze
from thinkscale.store import Store


def text(folder, *lines):
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize("before", [0, 1, 3, 6])
@pytest.mark.parametrize("size", [7, 8, 20, 100])
@pytest.mark.parametrize("length", [1, 2, 6, 7, 8, 9, 20, 61])
def test_every_token_is_scored_once_with_half_a_window_before_it_where_there_is_one(before, size, length):
    whole = list(range(before + length))
    found = loss.windows(whole[:before], whole[before:], size)
    scored = [token for piece in found for token in piece.ids[piece.scored_from :]]
    assert scored == whole[max(1, before) :]
    for piece in found:
        assert 2 <= len(piece.ids) <= size
        assert piece.scored_from >= min(size - size // 2, piece.ids[piece.scored_from]) or piece.ids[0] == 0


def test_a_prompt_that_fills_the_context_is_an_error():
    with pytest.raises(ConfigError, match="a prompt of 8 tokens leaves no room in a context of 8"):
        loss.windows(list(range(8)), [1], 8)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"text": "a"}', "nonsense"], "line 2: not JSON"),
        (['{"txt": "a"}'], "line 1: found .*an object with `text`"),
        (['{"text": "a", "label": 1}'], "line 1"),
        (['{"text": ""}'], "is empty"),
    ],
)
def test_a_text_that_is_not_one_is_an_error_that_says_where(tmp_path, lines, said):
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=said):
        loss.documents(Loss(text=str(path)))
    with pytest.raises(ConfigError, match="no file"):
        loss.documents(Loss(text=str(tmp_path / "nowhere.txt")))
    for name in ("binary.txt", "binary.jsonl"):
        (tmp_path / name).write_bytes(b"ab\xff\x00")
        with pytest.raises(ConfigError, match=rf"{name} is not text in UTF-8 \(invalid start byte at byte 2\)"):
            loss.documents(Loss(text=str(tmp_path / name)))


def test_the_loss_of_each_model_is_measured_once_and_is_the_sum_over_its_tokens(tmp_path):
    lines = [{"prompt": "1+2=", "text": "3"}, {"text": "12+34=46"}, {"text": "7*8", "bytes": 5}]
    opened = study(tmp_path, engine={"command": list(FAKE_VLLM)}, loss={"text": text(tmp_path, *lines), "context": 5})
    (model,) = opened.config.models
    assert loss.is_owed(opened, model)
    run_fake(opened)
    assert not loss.is_owed(opened, model)
    (row,) = opened.store.read("loss").to_pylist()
    ids = [teaching.FIRST.encode(line.get("prompt", "") + line["text"]) for line in lines]
    expected = -sum(
        logprob(one, at) for one, line in zip(ids, lines, strict=True) for at in range(max(1, len(line.get("prompt", ""))), len(one))
    )
    assert row["nats"] == pytest.approx(expected)
    assert (row["tokens"], row["unscored_tokens"], row["bytes"]) == (1 + 7 + 2, 2, 1 + 7 + 4)
    assert row["nats_per_token"] == pytest.approx(expected / 10)
    assert row["bits_per_byte"] == pytest.approx(expected / math.log(2) / 12)
    started = len(engines(opened))
    run_fake(opened)
    assert len(engines(opened)) == started, "nothing is owed: no engine is started"
    assert any(f.name == "loss.parquet" for f in analyze(opened).files)


def test_a_loss_that_is_asked_for_later_starts_the_engine_for_it_alone(tmp_path):
    options = {"engine": {"command": list(FAKE_VLLM)}}
    run_fake(study(tmp_path, **options))
    later = study(tmp_path, **options, loss={"text": text(tmp_path, {"text": "1+1=2"})})
    before = [p.name for p in later.store.parts("samples")]

    async def nothing(model, label):
        return Ended("completed")

    with pytest.raises(Unfinished, match="owed: fake-100k its loss"):
        asyncio.run(fan_out(later, nothing, "x", at_once=1, replicas=1, resubmits=0))
    run_fake(later)
    assert later.store.read("loss").num_rows == 1 and [p.name for p in later.store.parts("samples")] == before


def test_an_analysis_takes_the_loss_on_the_text_that_is_asked_for(tmp_path):
    options, first, second = {"engine": {"command": list(FAKE_VLLM)}}, tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("1+1=2")
    second.write_text("999")
    for path in (first, second):
        opened = study(tmp_path, **options, loss={"text": str(path)})
        run_fake(opened)
    assert opened.store.read("loss").num_rows == 2
    (row,) = loss.measured(opened).to_dict("records")
    assert row["text"] == str(second)
    bits = report.bits_per_byte(opened, loss.measured(opened))
    assert bits == {"fake-21k": None, "fake-100k": row["bits_per_byte"], "fake-scorer": None}
    none = study(tmp_path, **options)
    assert loss.measured(none).empty
    assert report.bits_per_byte(none, loss.measured(none)) == {m.name: m.bits_per_byte for m in none.catalogue.models.values()}


def test_the_shipped_text_is_what_the_ladder_was_never_trained_on():
    assert all((ladder.folder / "held-out.jsonl").read_text() == card.held_out_text(ladder) for ladder in teaching.LADDERS.values())


@pytest.mark.engine
def test_the_engine_gives_the_loss_that_training_wrote_down(real_endpoint, tmp_path):
    """The same tokens through vLLM and through transformers; weights in bf16 on disk, float32 in training."""
    model = load_catalogue().models[real_endpoint.model]

    async def measured():
        async with Client(real_endpoint) as client:
            return await loss.measure(Store(tmp_path), Loss(text="ladder/held-out.jsonl"), model, Engine(), client)

    bits = asyncio.run(measured())
    (row,) = Store(tmp_path).read("loss").to_pylist()
    with (FLOWS / model.source / "loss.csv").open() as file:
        trained = float(list(csv.DictReader(file))[-1]["held_out_nats"])
    assert row["nats"] == pytest.approx(trained, rel=0.01)
    assert bits == pytest.approx(model.bits_per_byte, rel=0.01) and row["unscored_tokens"] == 0
