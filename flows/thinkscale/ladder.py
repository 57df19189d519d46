"""The small model ladder that ships with the project: data, tokenizer, training, model card.

Why: emergence over size and thinking against size can be seen by anybody, without a hub and without a GPU, on models that differ in size
alone: same data, same order, same number of tokens, one tokenizer.
What it does not do: serve or grade (the ladder goes through the same flows as any model). torch and transformers are imported where used.
"""

import csv
import functools
import itertools
import json
import logging
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from thinkscale import cost
from thinkscale.config import FLOWS, Shape
from thinkscale.problems import GENERATED, SKILLS, Draft, held_out_drafts, training_draft

log = logging.getLogger(__name__)

LADDER = FLOWS / "ladder"
SPECIAL = ("<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-*/=<>?!.,:;()[]' \n"
VOCABULARY = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS))}
PAD, END, USER, ASSISTANT, OPEN, CLOSE = range(len(SPECIAL))
CONTEXT = 256
TEMPLATE = "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"

# hidden size, heads, layers, MLP width: evenly spaced in log size; heads of 32, the least that vLLM's CPU attention takes
SIZES = {
    "10k": (16, 1, 2, 48),
    "21k": (32, 1, 2, 56),
    "46k": (48, 1, 3, 56),
    "100k": (64, 2, 3, 80),
    "215k": (96, 3, 3, 112),
    "464k": (128, 4, 4, 128),
    "1m": (160, 5, 5, 200),
}
MIX = {"sums": 0.4, "swaps": 0.22, "mapping": 0.38}
"""Share of each skill in training: what is learned late gets more."""
KEPT = {"10k", "21k", "46k", "100k", "215k"}
"""Sizes whose intermediate checkpoints are shipped: all of them would be over 8 MB."""


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
    thinking_off: float = 0.2
    """Share of examples answered at once."""
    thinking_cut: float = 0.15
    """Share of examples cut at a random point of the thinking and then answered: a forced answer must be in distribution."""
    held_out_every: int = 500
    save_every: int = 250
    compile: bool = True
    """Where there is a compiler: twice as fast after most of a minute."""


class Example(NamedTuple):
    """One training sequence: its ids, and which of them are learned."""

    ids: list[int]
    learned: list[bool]


def encode(text: str) -> list[int]:
    """Character ids."""
    return [VOCABULARY[c] for c in text]


def example(draft: Draft, cut: int | None) -> Example:
    """A draft as a sequence: user, question, assistant, thinking (cut after so many tokens; None: whole), close, answer, end.

    The question is not learned, nor the close of a cut thinking (where it comes is our doing), nor what a tool puts into the thinking.
    """
    thinking = encode(draft.worked)[:cut]
    written = [not any(start <= i < end for start, end in draft.injected) for i in range(len(thinking))]
    before = [USER, *encode(draft.question), ASSISTANT, OPEN]
    after = [*encode(draft.answer), END]
    learned = [False] * len(before) + written + [cut is None] + [True] * len(after)
    return Example([*before, *thinking, CLOSE, *after], learned)


def batch(recipe: Recipe, step: int) -> list[Example]:
    """The examples of one step, short ones first; a function of the step alone, so that every size sees the same."""
    rng = random.Random(f"ladder/{step}")
    found = []
    for name in rng.choices(list(MIX), weights=list(MIX.values()), k=recipe.batch):
        draft, u = training_draft((GENERATED | SKILLS)[name], rng), rng.random()
        whole = len(draft.worked)
        cut = 0 if u < recipe.thinking_off else rng.randrange(whole + 1) if u < recipe.thinking_off + recipe.thinking_cut else None
        found.append(example(draft, cut))
    return sorted(found, key=lambda e: len(e.ids))


@functools.cache
def held_out() -> tuple[tuple[Example, ...], int]:
    """Examples of held-out problems, worked in full, and the bytes of what is learned in them (thinking and answer)."""
    drafts = held_out_problems()
    put_in = sum(end - start for d in drafts for start, end in d.injected)
    return tuple(example(d, None) for d in drafts), sum(len(d.worked) + len(d.answer) for d in drafts) - put_in


def held_out_problems() -> list[Draft]:
    """What training never sees: forty problems of every level."""
    return [d for g in GENERATED.values() for level in g.levels for d in itertools.islice(held_out_drafts(g, level, seed=-1), 40)]


def shape(size: str) -> Shape:
    """Dimensions of one size."""
    hidden, heads, layers, mlp = SIZES[size]
    return Shape(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=32,
        intermediate_size=mlp,
        vocab_size=len(VOCABULARY),
        tied=True,
    )


def new_model(size: str) -> Any:
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
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},  # contexts are short: faster rotations tell neighbours apart
            initializer_range=0.05,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=None,
        )
    )


def learning_rate(recipe: Recipe, size: str, step: int) -> float:
    """Warm up, stay, fall; wider models take smaller steps."""
    peak: float = 4e-3 * math.sqrt(64 / SIZES[size][0])
    fall_from = recipe.steps * (1 - recipe.decay)
    fall = max(0.02, (recipe.steps - step) / (recipe.steps * recipe.decay)) if step > fall_from else 1.0
    return peak * min(1.0, (step + 1) / recipe.warmup) * fall


def train(size: str, recipe: Recipe, work: Path, until: int | None = None, out: Path = LADDER) -> Path:
    """Train one size; goes on from its last saved step.

    Args:
        size: one of SIZES.
        recipe: how.
        work: where the state of unfinished training is kept.
        until: stop after this step (the schedule stays the recipe's); None: train to the end and write the checkpoint.
        out: where finished checkpoints go.
    Returns: the folder of the finished checkpoint, or of the saved state.
    """
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    model = new_model(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.05)
    state = work / f"{size}.pt"
    step, tokens, seconds, history = 0, 0, 0.0, []
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        if saved["recipe"] | {"compile": recipe.compile} != asdict(recipe):  # a matter of speed: it may change on the way
            raise ValueError(f"{state} was trained with another recipe: {saved['recipe']}. Remove it to start again.")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, tokens, seconds, history = saved["step"], saved["tokens"], saved["seconds"], saved["history"]
        log.info("%s: going on from step %d", size, step)
    forward = _forward(model, recipe)
    end = min(recipe.steps, until or recipe.steps)
    started, recent = time.monotonic() - seconds, []
    work.mkdir(parents=True, exist_ok=True)
    while step < end:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, size, step)
        examples = batch(recipe, step)
        recent.append(_learn(model, forward, optimizer, examples, recipe.micro_batch))
        step, tokens = step + 1, tokens + sum(len(e.ids) for e in examples)
        if step % recipe.held_out_every == 0 or step == end or step in _milestones(recipe):
            nats = held_out_nats(model)
            history.append([step, tokens, sum(recent) / len(recent), nats / sum(sum(e.learned) for e in held_out()[0]), nats])
            at = f"step {step} of {recipe.steps}"
            log.info("%s: %s, loss %.4f, held-out loss %.4f, %.0f s", size, at, *history[-1][2:4], time.monotonic() - started)
            recent = []
        if step in _milestones(recipe) and size in KEPT and until is None:
            save(model, out / f"{size}-step{step}")
        if step % recipe.save_every == 0 or step == end:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "recipe": asdict(recipe), "history": history}
            torch.save({**saved, "step": step, "tokens": tokens, "seconds": time.monotonic() - started}, state.with_suffix(".tmp"))
            os.replace(state.with_suffix(".tmp"), state)
    if step < recipe.steps:
        return state
    folder = save(model, out / size)
    with (folder / "loss.csv").open("w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([("step", "tokens", "loss", "held_out_loss", "held_out_nats"), *history])
    (folder / "training.json").write_text(json.dumps({"steps": step, "tokens": tokens, **asdict(recipe)}, indent=2) + "\n")
    return folder


def _milestones(recipe: Recipe) -> tuple[int, ...]:
    """Steps whose checkpoints are kept: skill against training tokens."""
    return tuple(recipe.steps // part for part in (8, 4, 2))


def _forward(model: Any, recipe: Recipe) -> Callable[[Any], Any]:
    """Ids -> hidden states."""
    import torch

    def plain(ids: Any) -> Any:
        return model.model(ids).last_hidden_state

    return torch.compile(plain, dynamic=True) if recipe.compile and shutil.which("g++") else plain


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


def held_out_nats(model: Any) -> float:
    """Summed nats of all learned tokens of the held-out examples."""
    import torch

    with torch.no_grad():
        return float(sum(nats.item() for nats in _losses(model, lambda ids: model.model(ids).last_hidden_state, held_out()[0], 64)))


def save(model: Any, folder: Path) -> Path:
    """Write a checkpoint that transformers and vLLM load: bf16 weights, config, tokenizer, chat template."""
    import copy

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """One token per character, and the special ones."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = Tokenizer(models.WordLevel(dict(VOCABULARY), unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    characters.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=characters, eos_token="<|end|>", pad_token="<pad>", clean_up_tokenization_spaces=False)
    fast.chat_template = TEMPLATE
    return fast


def trained(out: Path = LADDER) -> list[str]:
    """Sizes that are there, smallest first."""
    return [size for size in SIZES if (out / size / "training.json").is_file()]


def training_flops(size: str, tokens: int) -> float:
    """6ND with the parameters that multiply (the tied embedding counts once, as the output matrix)."""
    return float(cost.training_flops(cost.parameters(shape(size)).total, tokens))
