"""A tiny random Llama with a character tokenizer: the smallest thing that the real vLLM serves.

Why: tests of the real engine need a model in a second, offline. It knows nothing; its tokens are noise.
What it does not do: no training; the ladder's checkpoints are made by `train_ladder.py`.
"""

import json
from pathlib import Path

SPECIAL = ("<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-*/=<>?!.,:;()[]' \n"
VOCABULARY = (*SPECIAL, *CHARACTERS)
CHAT_TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def make(
    path: Path,
    *,
    hidden: int = 64,
    heads: int = 2,
    layers: int = 2,
    intermediate: int = 80,
    context: int = 256,
    seed: int = 0,
    spread: float = 0.02,
) -> Path:
    """Write config, random float32 weights of standard deviation `spread` and tokenizer into the folder `path`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, head_dim=32, initializer_range=spread, tie_word_embeddings=True,
        max_position_embeddings=context, bos_token_id=None, eos_token_id=1, pad_token_id=0, dtype="float32",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    make_tokenizer(path)
    return path


def make_tokenizer(path: Path) -> None:
    """Write the character tokenizer with its chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<pad>", clean_up_tokenization_spaces=False, model_max_length=10**6
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(path)


def describe(path: Path) -> str:
    """One line: which model stands in a folder that `make` wrote."""
    config = json.loads((path / "config.json").read_text())
    return f"llama hidden={config['hidden_size']} layers={config['num_hidden_layers']} vocab={config['vocab_size']}"
