"""Training of the small ladders that ship with the project, and their checkpoints.

Why: emergence over size and thinking against size can be seen by anybody, without a hub and without a GPU, on models that differ in size
alone: same data, same order, same number of tokens, one tokenizer.
What it does not do: say what is taught (`teaching`), serve or grade (ladders go through the same flows as any model). torch and
transformers are imported where used.
"""

import csv
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinkscale import cost
from thinkscale.config import Shape
from thinkscale.teaching import END, PAD, SHARES, SPECIAL, Example, Ladder, Shares, Size, batch, held_out

log = logging.getLogger(__name__)

TEMPLATE = "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


@dataclass(frozen=True)
class Recipe:
    """How a ladder is trained; the same for every size but the learning rate, which falls with width."""

    steps: int = 4500
    batch: int = 128
    micro_batch: int = 32
    """Sequences at once: what fits a core's cache is faster than what does not."""
    warmup: int = 100
    decay: float = 0.35
    """Share of the steps, at the end, over which the learning rate falls to a fiftieth."""
    thinking_off: float = SHARES.off
    thinking_cut: float = SHARES.cut
    held_out_every: int = 500
    save_every: int = 250
    compile: bool = True
    """Where there is a compiler: twice as fast after most of a minute."""


def shape(size: Size) -> Shape:
    """Dimensions of one size."""
    width = size.width
    return Shape(
        hidden_size=width.hidden,
        num_layers=width.layers,
        num_heads=width.heads,
        num_kv_heads=width.heads,
        head_dim=32,
        intermediate_size=width.mlp,
        vocab_size=len(size.ladder.vocabulary),
        tied=True,
    )


def new_model(size: Size) -> Any:
    """An untrained model in transformers' Llama architecture; the same start at every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    s = shape(size)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=s.vocab_size,
            hidden_size=s.hidden_size,
            intermediate_size=s.intermediate_size,
            num_hidden_layers=s.num_layers,
            num_attention_heads=s.num_heads,
            num_key_value_heads=s.num_kv_heads,
            head_dim=s.head_dim,
            max_position_embeddings=size.ladder.context,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},  # contexts are short: faster rotations tell neighbours apart
            initializer_range=0.05,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=None,
        )
    )


def learning_rate(recipe: Recipe, size: Size, step: int) -> float:
    """Warm up, stay, fall, in every lesson anew; wider models take smaller steps."""
    begin, end, _ = size.ladder.stretch(step, recipe.steps)
    peak: float = 4e-3 * math.sqrt(64 / size.width.hidden)
    falling = (end - begin) * recipe.decay
    fall = max(0.02, (end - step) / falling) if end - step < falling else 1.0
    return peak * min(1.0, (step - begin + 1) / recipe.warmup) * fall


def begin_lesson(model: Any) -> Any:
    """A fresh optimizer, and weights as a checkpoint has them (bf16): a lesson goes on from what ships, not from its training's state."""
    import torch

    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(weights.to(torch.bfloat16))
    return new_optimizer(model)


def new_optimizer(model: Any) -> Any:
    """The learning rate is set at every step."""
    import torch

    return torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.05)


def train(size: Size, recipe: Recipe, work: Path, until: int | None = None, out: Path | None = None) -> Path:
    """Train one size; goes on from its last saved step.

    Args:
        size: of which ladder.
        recipe: how.
        work: where the state of unfinished training is kept.
        until: stop after this step (the schedule stays the recipe's); None: train to the end and write the checkpoint.
        out: where finished checkpoints go; None: to the others of the ladder.
    Returns: the folder of the finished checkpoint, or of the saved state.
    """
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    model = new_model(size)
    optimizer = new_optimizer(model)
    state, out = work / f"{size.name}.pt", out or size.ladder.folder
    step, tokens, seconds, history = 0, 0, 0.0, []
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        if saved["recipe"] | {"compile": recipe.compile} != asdict(recipe):  # a matter of speed: it may change on the way
            raise ValueError(f"{state} was trained with another recipe: {saved['recipe']}. Remove it to start again.")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, tokens, seconds, history = saved["step"], saved["tokens"], saved["seconds"], saved["history"]
        log.info("%s: going on from step %d", size.model, step)
    hidden = forward(model, recipe.compile)
    end = min(recipe.steps, until or recipe.steps)
    shares = Shares(recipe.thinking_off, recipe.thinking_cut)
    started, recent = time.monotonic() - seconds, []
    work.mkdir(parents=True, exist_ok=True)
    while step < end:
        if step and step == size.ladder.stretch(step, recipe.steps).begin:
            optimizer = begin_lesson(model)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, size, step)
        examples = batch(size.ladder, recipe.batch, step, recipe.steps, shares)
        recent.append(_learn(model, hidden, optimizer, examples, recipe.micro_batch))
        step, tokens = step + 1, tokens + sum(len(e.ids) for e in examples)
        if step % recipe.held_out_every == 0 or step == end or step in _milestones(recipe):
            nats = held_out_nats(model, size.ladder)
            history.append(
                [step, tokens, sum(recent) / len(recent), nats / sum(sum(e.learned) for e in held_out(size.ladder.name)[0]), nats]
            )
            at = f"step {step} of {recipe.steps}"
            log.info("%s: %s, loss %.4f, held-out loss %.4f, %.0f s", size.model, at, *history[-1][2:4], time.monotonic() - started)
            recent = []
        if step in _milestones(recipe) and size.name in size.ladder.kept and until is None:
            save(model, size.ladder, out / f"{size.name}-step{step}")
        if step % recipe.save_every == 0 or step == end:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "recipe": asdict(recipe), "history": history}
            torch.save({**saved, "step": step, "tokens": tokens, "seconds": time.monotonic() - started}, state.with_suffix(".tmp"))
            os.replace(state.with_suffix(".tmp"), state)
    if step < recipe.steps:
        return state
    folder = save(model, size.ladder, out / size.name)
    with (folder / "loss.csv").open("w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([("step", "tokens", "loss", "held_out_loss", "held_out_nats"), *history])
    (folder / "training.json").write_text(json.dumps({"steps": step, "tokens": tokens, **asdict(recipe)}, indent=2) + "\n")
    return folder


def _milestones(recipe: Recipe) -> tuple[int, ...]:
    """Steps whose checkpoints are kept: skill against training tokens."""
    return tuple(recipe.steps // part for part in (8, 4, 2))


def forward(model: Any, compiled: bool) -> Callable[[Any], Any]:
    """Ids -> hidden states; compiled where that is wanted and there is a compiler."""
    import torch

    def plain(ids: Any) -> Any:
        return model.model(ids).last_hidden_state

    return torch.compile(plain, dynamic=True) if compiled and shutil.which("g++") else plain


def _padded(examples: Sequence[Example]) -> tuple[Any, Any]:
    """Ids and learned as tensors, padded on the right (a causal model does not see it)."""
    import torch

    width = max(len(e.ids) for e in examples)
    ids = torch.tensor([e.ids + [PAD] * (width - len(e.ids)) for e in examples])
    learned = torch.tensor([e.learned + [False] * (width - len(e.learned)) for e in examples])
    return ids, learned


def _losses(model: Any, forward: Callable[[Any], Any], examples: Sequence[Example], size: int) -> Iterator[Any]:
    """Summed nats of the learned tokens, micro-batch by micro-batch."""
    import torch

    for start in range(0, len(examples), size):
        ids, learned = _padded(examples[start : start + size])
        chosen = learned[:, 1:]
        logits = model.lm_head(forward(ids[:, :-1])[chosen])
        yield torch.nn.functional.cross_entropy(logits, ids[:, 1:][chosen], reduction="sum")


def _learn(model: Any, forward: Callable[[Any], Any], optimizer: Any, examples: list[Example], micro_batch: int) -> float:
    """One step; returns the mean loss per learned token in nats."""
    import torch

    count, total = sum(sum(e.learned) for e in examples), 0.0
    optimizer.zero_grad()
    for nats in _losses(model, forward, examples, micro_batch):
        (nats / count).backward()
        total += nats.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(total / count)


def held_out_nats(model: Any, ladder: Ladder) -> float:
    """Summed nats of all learned tokens of the held-out examples."""
    import torch

    with torch.no_grad():
        examples = held_out(ladder.name)[0]
        return float(sum(nats.item() for nats in _losses(model, lambda ids: model.model(ids).last_hidden_state, examples, 64)))


def save(model: Any, ladder: Ladder, folder: Path) -> Path:
    """Write a checkpoint that transformers and vLLM load: bf16 weights, config, tokenizer, chat template."""
    import copy

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer(ladder).save_pretrained(folder)
    return folder


def tokenizer(ladder: Ladder) -> Any:
    """One token per word of the vocabulary or character, and the special ones."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = Tokenizer(models.WordLevel(dict(ladder.vocabulary), unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(ladder.pattern), "isolated")
    characters.decoder = decoders.Fuse()
    characters.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=characters, eos_token="<|end|>", pad_token="<pad>", clean_up_tokenization_spaces=False)
    fast.chat_template = TEMPLATE
    return fast


def trained(ladder: Ladder, out: Path | None = None) -> list[Size]:
    """Sizes that are there, smallest first."""
    return [Size(ladder, name) for name in ladder.sizes if ((out or ladder.folder) / name / "training.json").is_file()]


def training_flops(size: Size, tokens: int) -> float:
    """6ND with the parameters that multiply (the tied embedding counts once, as the output matrix)."""
    return float(cost.training_flops(cost.parameters(shape(size)).total, tokens))
