"""Cost: parameter counts are the published ones, FLOPs are the sums they claim to be."""

import numpy as np
import pytest

from thinkscale import cost
from thinkscale.config import Gpu, Shape


def shape(d: int, layers: int, heads: int, kv: int, head_dim: int, mlp: int, vocab: int, **more: object) -> Shape:
    fields = dict(
        hidden_size=d, num_layers=layers, num_heads=heads, num_kv_heads=kv, head_dim=head_dim, intermediate_size=mlp, vocab_size=vocab
    )
    return Shape.model_validate({**fields, **more})


LLAMA3_8B = shape(4096, 32, 32, 8, 128, 14336, 128256)
QWEN25_7B = shape(3584, 28, 28, 4, 128, 18944, 152064, bias_parameters=28 * (28 + 8) * 128)
QWEN25_05B = shape(896, 24, 14, 2, 64, 4864, 151936, tied=True, bias_parameters=24 * (14 + 4) * 64)
QWEN3_06B = shape(1024, 28, 16, 8, 128, 3072, 151936, tied=True, bias_parameters=28 * 2 * 128)
QWEN3_8B = shape(4096, 36, 32, 8, 128, 12288, 151936, bias_parameters=36 * 2 * 128)
QWEN3_30B = shape(2048, 48, 32, 4, 128, 0, 151936, bias_parameters=48 * 2 * 128, experts=128, experts_per_token=8, expert_size=768)
TINY = shape(8, 2, 2, 1, 4, 16, 10)
SLIDING = shape(8, 4, 2, 1, 4, 16, 10, sliding_window=3, sliding_layers=3)
MOE = shape(8, 2, 2, 1, 4, 0, 10, experts=4, experts_per_token=2, expert_size=6, expert_bias=5)


@pytest.mark.parametrize(
    ("model", "total"),
    [
        (LLAMA3_8B, 8_030_261_248),
        (QWEN25_7B, 7_615_616_512),
        (QWEN25_05B, 494_032_768),
        (QWEN3_06B, 596_049_920),
        (QWEN3_8B, 8_190_735_360),
        (QWEN3_30B, 30_532_122_624),
    ],
)
def test_parameters_are_the_published_ones(model: Shape, total: int) -> None:
    assert cost.parameters(model).total == total


def test_active_parameters_leave_out_idle_experts() -> None:
    assert cost.parameters(QWEN3_30B).active == 3_353_032_704
    assert cost.parameters(QWEN3_8B).active == cost.parameters(QWEN3_8B).total
    tiny = cost.parameters(MOE)
    assert tiny.total - tiny.active == 2 * 2 * (3 * 8 * 6 + 5)  # layers * idle experts * one expert


def test_non_embedding_leaves_out_one_matrix_when_tied_and_two_otherwise() -> None:
    assert cost.parameters(QWEN3_06B).total - cost.parameters(QWEN3_06B).non_embedding == 1024 * 151936
    assert cost.parameters(QWEN3_8B).total - cost.parameters(QWEN3_8B).non_embedding == 2 * 4096 * 151936


@pytest.mark.parametrize(
    ("model", "tokens", "ratio"),
    [
        (QWEN3_06B, 4096, 1.5),
        (QWEN3_06B, 16384, 2.6),
        (QWEN3_06B, 32768, 4.2),
        (QWEN3_8B, 4096, 1.06),
        (QWEN3_8B, 16384, 1.24),
        (QWEN3_8B, 32768, 1.53),
    ],
)
def test_how_far_2nt_is_off(model: Shape, tokens: int, ratio: float) -> None:
    exact = cost.prefill_flops(model, 256) + cost.decode_flops(model, 256, tokens)
    assert exact / (2 * cost.parameters(model).total * tokens) == pytest.approx(
        ratio, abs=0.05 if ratio > 1.3 and model is QWEN3_06B else 0.005
    )


def test_hand_computed_values() -> None:
    # attention 2*8*(2+1)*4 = 192, MLP 3*8*16 = 384, two layers: 1152 matrix parameters; head 80; attention width 2*2*4 = 16
    assert cost.prefill_flops(TINY, 3) == 2 * 1152 * 3 + 4 * 16 * (1 + 2 + 3) + 2 * 80
    assert cost.decode_flops(TINY, 3, 4) == 3 * 2 * (1152 + 80) + 4 * 16 * (4 + 5 + 6)
    # experts: router 8*4 = 32, two active of 3*8*6 = 144 each; 2 * (192 + 32 + 288) = 1024
    assert cost.prefill_flops(MOE, 1) == 2 * 1024 + 4 * 16 + 2 * 80


def brute_force_decode(model: Shape, prompt: int, completion: int) -> float:
    total = 0.0
    matrices = (
        cost.prefill_flops(model, 1) - 2 * model.hidden_size * model.vocab_size - 4 * model.num_layers * model.num_heads * model.head_dim
    ) / 2
    for t in range(1, completion):
        total += 2 * (matrices + model.hidden_size * model.vocab_size)
        for layer in range(model.num_layers):
            context = min(prompt + t, model.sliding_window) if layer < model.sliding_layers else prompt + t
            total += 4 * model.num_heads * model.head_dim * context
    return float(total)


@pytest.mark.parametrize("model", [TINY, SLIDING, MOE])
def test_decode_is_the_sum_over_tokens_and_layers(model: Shape) -> None:
    for prompt in (0, 1, 2, 3, 7):
        for completion in (0, 1, 2, 3, 4, 9):
            assert cost.decode_flops(model, prompt, completion) == brute_force_decode(model, prompt, completion), (prompt, completion)


@pytest.mark.parametrize("model", [TINY, SLIDING, MOE, QWEN3_06B])
def test_a_completion_costs_as_much_as_its_two_parts(model: Shape) -> None:
    p, t = 13, 40
    for s in range(1, t + 1):
        assert cost.decode_flops(model, p, t) == cost.decode_flops(model, p, s) + cost.decode_flops(model, p + s - 1, t - s + 1)


@pytest.mark.parametrize("model", [TINY, SLIDING, MOE, QWEN3_06B])
def test_reading_tokens_costs_what_decoding_them_does_apart_from_the_head(model: Shape) -> None:
    p, t = 13, 40
    heads = 2 * model.hidden_size * model.vocab_size * (t - 1)
    assert cost.prefill_flops(model, p) + cost.decode_flops(model, p, t) - heads == cost.prefill_flops(model, p + t - 1)


def test_samples_that_share_the_prompt_cost_less_than_separate_calls() -> None:
    completions = np.array([10, 200, 3000])
    shared = cost.prefill_flops(QWEN3_06B, 256) + cost.decode_flops(QWEN3_06B, 256, completions).sum()
    separate = (cost.prefill_flops(QWEN3_06B, 256) + cost.decode_flops(QWEN3_06B, 256, completions)).sum()
    assert separate - shared == 2 * cost.prefill_flops(QWEN3_06B, 256)


def test_nothing_costs_nothing() -> None:
    assert cost.decode_flops(QWEN3_8B, 256, 0) == 0
    assert cost.decode_flops(QWEN3_8B, 256, 1) == 0  # drawn from the prefill's last position
    assert cost.prefill_flops(QWEN3_8B, 0) == 0


def test_a_window_wider_than_the_context_changes_nothing() -> None:
    wide = SLIDING.model_copy(update={"sliding_window": 1000})
    none = SLIDING.model_copy(update={"sliding_layers": 0})
    assert cost.decode_flops(wide, 50, 100) == cost.decode_flops(none, 50, 100)
    assert cost.decode_flops(SLIDING, 50, 100) < cost.decode_flops(none, 50, 100)


def test_arrays_scalars_and_broadcasting_agree() -> None:
    prompts, completions = np.array([5, 100, 256]), np.array([0, 7, 16384], dtype=np.int32)
    many = cost.decode_flops(QWEN3_06B, prompts, completions)
    assert many.dtype == np.float64 and many.shape == (3,)
    assert [float(cost.decode_flops(QWEN3_06B, p, c)) for p, c in zip(prompts, completions, strict=True)] == many.tolist()
    assert cost.decode_flops(QWEN3_06B, 256, completions).shape == (3,)
    assert cost.decode_flops(QWEN3_06B, prompts[:, None], completions[None, :]).shape == (3, 3)


def test_int32_token_counts_do_not_overflow() -> None:
    assert cost.decode_flops(QWEN3_8B, np.int32(2**20), np.int32(2**20)) > 0
    assert cost.prefill_flops(QWEN3_8B, np.array([2**20], dtype=np.int32))[0] > 1e16


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="negative, found -1"):
        cost.decode_flops(TINY, 1, [3, -1])


def test_training_flops_is_6nd() -> None:
    assert cost.training_flops(70e9, 1.4e12) == pytest.approx(5.88e23)  # Chinchilla


@pytest.mark.parametrize(
    ("model", "kv"), [(LLAMA3_8B, 131_072), (QWEN3_8B, 147_456), (QWEN3_06B, 114_688), (QWEN25_7B, 57_344), (QWEN3_30B, 98_304)]
)
def test_kv_bytes_per_token(model: Shape, kv: int) -> None:
    assert cost.kv_bytes_per_token(model) == kv
    assert cost.kv_bytes_read(model, 10, 3) == kv * (11 + 12)


def test_kv_reads_of_sliding_layers_stop_growing() -> None:
    per_layer = cost.kv_bytes_per_token(SLIDING) / 4
    assert cost.kv_bytes_read(SLIDING, 10, 3) == per_layer * (11 + 12) + 3 * per_layer * (3 + 3)


def test_weights_are_shared_by_a_batch_and_experts_less_so() -> None:
    alone, batched = cost.weight_bytes_read(QWEN3_8B, 101, 1), cost.weight_bytes_read(QWEN3_8B, 101, 64)
    assert alone == pytest.approx(64 * batched)
    assert cost.weight_bytes_read(QWEN3_30B, 101, 1) < 0.2 * 2 * 30.5e9 * 100  # one sequence visits few experts
    assert cost.weight_bytes_read(QWEN3_30B, 101, 64) * 64 > 0.95 * 2 * 30e9 * 100  # 64 visit nearly all


def test_gpu_hours_takes_the_slower_of_compute_and_memory() -> None:
    gpu = Gpu(tflops=1000, bandwidth_tb=1, memory_gb=80)
    hour_of_flops, hour_of_bytes = 1e15 * cost.COMPUTE_UTILISATION * 3600, 1e12 * cost.BANDWIDTH_UTILISATION * 3600
    assert cost.gpu_hours(hour_of_flops, 0, 0, gpu) == pytest.approx(1)
    assert cost.gpu_hours(0, hour_of_flops, 2 * hour_of_bytes, gpu) == pytest.approx(2)
    assert cost.gpu_hours(hour_of_flops, 3 * hour_of_flops, 2 * hour_of_bytes, gpu) == pytest.approx(4)


def test_gpus_needed() -> None:
    h100 = Gpu(tflops=989, bandwidth_tb=3.35, memory_gb=80)
    assert cost.gpus_needed(QWEN3_06B, 16384, h100) == 1
    assert cost.gpus_needed(QWEN3_8B, 16384, h100) == 1
    assert cost.gpus_needed(QWEN3_8B, 64 * 16384, h100) == 4  # 155 GB of KV cache


H100 = Gpu(tflops=989, bandwidth_tb=3.35, memory_gb=80)


@pytest.mark.parametrize(("model", "ratio"), [(QWEN3_06B, 113), (QWEN3_8B, 30)])
def test_memory_traffic_dwarfs_flops_of_long_thinking(model: Shape, ratio: float) -> None:
    flops = cost.prefill_flops(model, 256) + cost.decode_flops(model, 256, 32768)
    assert cost.eflops(flops, cost.kv_bytes_read(model, 256, 32768), H100) / flops == pytest.approx(ratio, rel=0.02)


def test_flops_and_bytes_alone_bound_the_order_on_every_gpu() -> None:
    def eflops(model: Shape, tokens: int, gpu: Gpu) -> float:
        return float(cost.eflops(cost.decode_flops(model, 256, tokens), cost.kv_bytes_read(model, 256, tokens), gpu))

    assert cost.flops_per_byte(H100) == pytest.approx(295.2, abs=0.05)
    no_memory, no_compute = Gpu(tflops=1e-9, bandwidth_tb=1, memory_gb=1), Gpu(tflops=1e9, bandwidth_tb=1, memory_gb=1)
    # 4k tokens of the small model are cheaper than 1k of the big one in FLOPs, and dearer in bytes.
    assert eflops(QWEN3_06B, 4096, no_memory) < eflops(QWEN3_8B, 1024, no_memory)
    assert eflops(QWEN3_06B, 4096, no_compute) > eflops(QWEN3_8B, 1024, no_compute)


def test_a_shared_prompt_is_read_once() -> None:
    prompts, completions = np.array([256, 30]), np.array([[10, 200, 3000], [5, 5, 5]])
    shared, alone = (cost.samples_flops(QWEN3_06B, prompts, completions, s) for s in (True, False))
    assert alone - shared == pytest.approx(2 * cost.prefill_flops(QWEN3_06B, prompts))
    assert shared[0] == cost.prefill_flops(QWEN3_06B, 256) + cost.decode_flops(QWEN3_06B, 256, completions[0]).sum()
    assert cost.samples_flops(QWEN3_06B, 256, [7]) == cost.samples_flops(QWEN3_06B, 256, [7], shared=False)


def test_dollars() -> None:
    assert cost.token_dollars(1000, 2000, cost.Price(prompt=1.0, completion=4.0), samples=8) == pytest.approx(8 * (0.001 + 0.008))
    assert cost.gpu_dollars([1800, 7200], 3.0).tolist() == [1.5, 6.0]


def test_snell_s_trade_of_inference_for_pretraining() -> None:
    assert cost.inference_multiplier(14, 0.16) == pytest.approx(257.75)
    assert cost.inference_multiplier(14, np.array([0.79, 22])) == pytest.approx([63.4, 15.8], abs=0.05)


def test_at_the_multiplier_both_sizes_cost_the_same_from_training_on() -> None:
    n, m, d, r = 1e9, 14.0, 2e12, 0.16
    per_problem, tokens = 1000.0, d * r
    small = cost.lifetime_flops(n, d, cost.inference_multiplier(m, r) * 2 * n * per_problem, tokens / per_problem)
    big = cost.lifetime_flops(m * n, d, 2 * m * n * per_problem, tokens / per_problem)
    assert small == pytest.approx(big)
    assert np.isnan(cost.lifetime_flops(n, np.nan, 1.0, 1.0))
