"""What a model costs: parameters, FLOPs of reading a prompt and of decoding tokens, memory traffic, dollars, training, rough GPU time.

Why: `2 * parameters * tokens` leaves out attention, and so flatters long thinking on small models (4.2 times too cheap at 32k tokens of a
0.6B model); parameters and FLOPs here are exact sums over the matrices and the contexts of a decoder's shape (Kaplan et al. 2020,
arXiv:2001.08361, appendix; one multiply-add is two FLOPs).
What it does not do: norms, activations, softmax and sampling (under 1 % of the FLOPs), vision towers, and anything measured. Only
`gpu_hours` rests on assumptions, and it is for planning alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thinkscale.config import Gpu, Shape

Floats = NDArray[np.float64]

BYTES = 2
"""Of one weight or KV element: bf16."""
COMPUTE_UTILISATION = 0.4
"""Assumed share of a GPU's peak FLOP/s that serving reaches when it is bound by compute."""
BANDWIDTH_UTILISATION = 0.6
"""Assumed share of its memory bandwidth when it is bound by memory."""
MEMORY_UTILISATION = 0.9
"""Share of a GPU's memory that the engine takes (vLLM's default)."""


class Parameters(NamedTuple):
    """How big a model is."""

    total: int
    active: int
    """Total without the experts that a token does not visit."""
    non_embedding: int
    """Total without the embedding and the output matrix."""


def parameters(shape: Shape) -> Parameters:
    """Count parameters exactly as the checkpoint holds them (text decoder only)."""
    s, d = shape, shape.hidden_size
    expert = s.mlp_matrices * d * s.expert_size + s.expert_bias
    layer = _attention_parameters(s) + s.mlp_matrices * d * s.intermediate_size + s.experts * (expert + d) + s.norms_per_layer * d
    non_embedding = s.num_layers * layer + d + s.bias_parameters  # d: the norm before the output matrix
    total = non_embedding + d * s.vocab_size * (1 if s.tied else 2)
    return Parameters(total, total - s.num_layers * (s.experts - s.experts_per_token) * expert, non_embedding)


def prefill_flops(shape: Shape, prompt_tokens: ArrayLike) -> Floats:
    """FLOPs to read a prompt and give the logits of its last position (from which the first completion token is drawn)."""
    p = _tokens(prompt_tokens)
    head = 2.0 * shape.hidden_size * shape.vocab_size * np.minimum(p, 1.0)
    flops: Floats = 2.0 * _matrix_parameters(shape) * p + _attention_flops(shape, np.zeros_like(p), p) + head
    return flops


def decode_flops(shape: Shape, prompt_tokens: ArrayLike, completion_tokens: ArrayLike) -> Floats:
    """FLOPs of one completion of T tokens after a prompt of P that was already read.

    Sum over t = 1 .. T-1 of 2 * (matrices + head) + 4 * attention * (P + t): the first token costs nothing here, its logits
    are the prefill's; the last one is drawn but never fed back. k samples cost `prefill_flops(P) + sum_i decode_flops(P, T_i)`.
    """
    p, t = _tokens(prompt_tokens), _tokens(completion_tokens)
    steps = np.maximum(t - 1.0, 0.0)
    per_step = 2.0 * (_matrix_parameters(shape) + shape.hidden_size * shape.vocab_size)
    return per_step * steps + _attention_flops(shape, p, p + steps)


def scoring_flops(shape: Shape, tokens: ArrayLike) -> Floats:
    """FLOPs of a sequence classifier (one class) that reads texts of so many tokens: as a prompt, without the output matrix.

    Each text is read whole: nothing is taken off for a prompt that stands in the cache from another sample.
    """
    t = _tokens(tokens)
    flops: Floats = 2.0 * _matrix_parameters(shape) * t + _attention_flops(shape, np.zeros_like(t), t) + 2.0 * shape.hidden_size * (t > 0)
    return flops


def training_flops(params: ArrayLike, tokens: ArrayLike) -> Floats:
    """6ND: FLOPs to train `params` parameters on `tokens` tokens (Kaplan et al. 2020)."""
    return 6.0 * np.asarray(params, dtype=np.float64) * np.asarray(tokens, dtype=np.float64)


def kv_bytes_per_token(shape: Shape, bytes_per_element: int = BYTES) -> int:
    """Bytes of keys and values that one token leaves in the cache, all layers together."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * bytes_per_element


def kv_bytes_read(shape: Shape, prompt_tokens: ArrayLike, completion_tokens: ArrayLike) -> Floats:
    """Bytes of keys and values read from memory while decoding one completion (each step reads its whole context)."""
    p, t = _tokens(prompt_tokens), _tokens(completion_tokens)
    one_layer = kv_bytes_per_token(shape) / shape.num_layers
    return one_layer * _context_sum(shape, p, p + np.maximum(t - 1.0, 0.0))


def weight_bytes_read(shape: Shape, completion_tokens: ArrayLike, batch: int) -> Floats:
    """Bytes of weights read while decoding, shared by the `batch` sequences that are decoded together.

    Of E experts a batch of B visits E * (1 - (1 - k/E)^B): a mixture of experts saves little bandwidth in a big batch.
    """
    steps = np.maximum(_tokens(completion_tokens) - 1.0, 0.0)
    idle = (1.0 - shape.experts_per_token / shape.experts) ** batch if shape.experts else 0.0
    expert = shape.mlp_matrices * shape.hidden_size * shape.expert_size + shape.expert_bias
    embedding = 0 if shape.tied else shape.hidden_size * shape.vocab_size  # an embedding is looked up, not read whole
    touched = parameters(shape).total - embedding - idle * shape.num_layers * shape.experts * expert
    return BYTES * touched / batch * steps


def samples_flops(shape: Shape, prompt_tokens: ArrayLike, completion_tokens: ArrayLike, shared: bool = True) -> Floats:
    """FLOPs of the samples of one problem (last axis of `completion_tokens`), the prompt read once for all of them or by each.

    Shared is what an engine with prefix caching does, unshared what separate calls cost.
    """
    t = _tokens(completion_tokens)
    prompt = _tokens(prompt_tokens)
    readings = 1 if shared else t.shape[-1]
    flops: Floats = readings * prefill_flops(shape, prompt) + decode_flops(shape, prompt[..., None], t).sum(axis=-1)
    return flops


def flops_per_byte(gpu: Gpu) -> float:
    """FLOPs that a GPU does while it reads one byte of its memory, both at their peak (H100: 295)."""
    return gpu.tflops / gpu.bandwidth_tb


def eflops(flops: ArrayLike, bytes_read: ArrayLike, gpu: Gpu) -> Floats:
    """FLOPs plus memory traffic in the FLOPs that the GPU could have done meanwhile (Sadhukhan et al. 2025, arXiv:2506.05333).

    With the KV cache's bytes (`kv_bytes_read`): weights are read once for a whole batch, every sequence reads its own context. Two ends
    bound the eFLOPs of every GPU: FLOPs alone and bytes alone.
    """
    return np.asarray(flops, dtype=np.float64) + flops_per_byte(gpu) * np.asarray(bytes_read, dtype=np.float64)


class Price(NamedTuple):
    """What the user pays for tokens, in dollars per million."""

    prompt: float
    completion: float


def token_dollars(prompt_tokens: ArrayLike, completion_tokens: ArrayLike, price: Price, samples: int = 1) -> Floats:
    """Dollars for `samples` calls by the token; an interface that sells tokens charges the prompt with each call."""
    dollars: Floats = samples * (price.prompt * _tokens(prompt_tokens) + price.completion * _tokens(completion_tokens)) / 1e6
    return dollars


def gpu_dollars(gpu_seconds: ArrayLike, dollars_per_gpu_hour: float) -> Floats:
    """Dollars for measured or estimated GPU time."""
    return np.asarray(gpu_seconds, dtype=np.float64) / 3600.0 * dollars_per_gpu_hour


def inference_multiplier(size_ratio: ArrayLike, r: ArrayLike) -> Floats:
    """How many times more inference a model may do than a `size_ratio` (M) times bigger one, at equal FLOPs for training and inference.

    With R = tokens of inference over tokens of pretraining: 6ND + y 2NDR = M (6ND + 2NDR), so y = M + 3 (M - 1) / R
    (Snell et al. 2024, arXiv:2408.03314: M = 14, R = 0.16 gives 257.75).
    """
    m = np.asarray(size_ratio, dtype=np.float64)
    return m + 3.0 * (m - 1.0) / np.asarray(r, dtype=np.float64)


def lifetime_flops(params_active: ArrayLike, training_tokens: ArrayLike, flops_per_problem: ArrayLike, problems: ArrayLike) -> Floats:
    """FLOPs of training a model and then answering so many problems with it; NaN where its training tokens are not known."""
    return training_flops(params_active, training_tokens) + np.asarray(flops_per_problem, np.float64) * np.asarray(problems, np.float64)


def gpu_hours(prefill: float, decode: float, decode_bytes: float, gpu: Gpu) -> float:
    """Rough GPU-hours (all GPUs of an engine added up) of prefill FLOPs, decode FLOPs and bytes read while decoding.

    A roofline: prefill is bound by compute, decoding by the slower of compute and memory, at the utilisations assumed above. Tensor
    parallelism splits work evenly, so GPU-hours do not depend on it; start-up and the idle tail of a batch are left out. Expect the
    truth within a factor of about two.
    """
    flops_per_s = COMPUTE_UTILISATION * gpu.tflops * 1e12
    bytes_per_s = BANDWIDTH_UTILISATION * gpu.bandwidth_tb * 1e12
    return float(prefill / flops_per_s + max(decode / flops_per_s, decode_bytes / bytes_per_s)) / 3600.0


def gpus_needed(shape: Shape, tokens_in_flight: int, gpu: Gpu) -> int:
    """Fewest GPUs, a power of two, whose memory holds the weights in bf16 and the KV cache of `tokens_in_flight` tokens."""
    need = BYTES * parameters(shape).total + kv_bytes_per_token(shape) * tokens_in_flight
    count = 1
    while count * gpu.memory_gb * 1e9 * MEMORY_UTILISATION < need:
        count *= 2
    return count


def _attention_parameters(shape: Shape) -> int:
    """Matrices of one layer's attention: query, output, key, value."""
    return 2 * shape.hidden_size * (shape.num_heads + shape.num_kv_heads) * shape.head_dim


def _matrix_parameters(shape: Shape) -> int:
    """Parameters in matrices that one token is multiplied with, without the output matrix: active experts and the router."""
    s, d = shape, shape.hidden_size
    mlp = s.mlp_matrices * d * (s.intermediate_size + s.experts_per_token * s.expert_size) + d * s.experts
    return s.num_layers * (_attention_parameters(s) + mlp)


def _attention_flops(shape: Shape, start: Floats, end: Floats) -> Floats:
    """Scores and weighted sums of the tokens at positions start+1 .. end: 4 * heads * head_dim a layer and position looked at."""
    return 4.0 * shape.num_heads * shape.head_dim * _context_sum(shape, start, end)


def _context_sum(shape: Shape, start: Floats, end: Floats) -> Floats:
    """Positions looked at by the tokens start+1 .. end, added over tokens and layers; a sliding layer sees at most its window."""
    sliding = shape.sliding_layers if shape.sliding_window else 0
    full = (end * (end + 1.0) - start * (start + 1.0)) / 2.0
    windowed = _windowed_sum(end, shape.sliding_window) - _windowed_sum(start, shape.sliding_window)
    return (shape.num_layers - sliding) * full + sliding * windowed


def _windowed_sum(n: Floats, window: int) -> Floats:
    """Sum over i = 1 .. n of min(i, window)."""
    inside = np.minimum(n, float(window))
    total: Floats = inside * (inside + 1.0) / 2.0 + (n - inside) * window
    return total


def _tokens(count: ArrayLike) -> Floats:
    tokens = np.asarray(count, dtype=np.float64)
    if (tokens < 0).any():
        raise ValueError(f"cost: a number of tokens cannot be negative, found {tokens.min():g}.")
    return tokens
