"""Operations and bytes: against numbers worked out by hand, and against what torch counts and keeps."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from muster.cost.from_config import shape_from_config
from muster.cost.named_shapes import named_shape
from muster.cost.training_memory import saved_bytes_per_token
from muster.cost.work import (
    activation_traffic,
    causal_pairs,
    decode,
    optimizer_step,
    prefill,
    train_backward,
    train_forward,
    weights_read,
)
from muster.model.architecture import parse_config
from muster.spec.model_shape import ModelShape

LENGTH = 24
PLAIN = {
    "vocab_size": 61,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**PLAIN, "num_key_value_heads": 2, "intermediate_size": 160}
MODELS = {
    "llama": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 12},
    "gemma2": {**GROUPED, "head_dim": 16, "sliding_window": 64},
    "phi3": GROUPED,
    "opt": {**PLAIN, "ffn_dim": 256, "word_embed_proj_dim": 64, "dropout": 0.0},
    "gpt_neox": {**PLAIN, "intermediate_size": 256},
    "gpt2": {
        "vocab_size": 61, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64,
        "bos_token_id": 1, "eos_token_id": 2, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0,
    },
    "deepseek_v3": {
        **GROUPED, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8, "v_head_dim": 12, "first_k_dense_replace": 3, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 24,
    },
}  # fmt: skip


def text_of(family: str) -> str:
    return json.dumps({"model_type": family, **MODELS[family]})


def build(family: str, attention: str = "eager") -> PreTrainedModel:
    torch.manual_seed(0)
    config: PreTrainedConfig = parse_config(text_of(family))
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)


def shape(family: str) -> ModelShape:
    return shape_from_config(text_of(family), family, "float32")


def tokens(count: int = LENGTH) -> torch.Tensor:
    return torch.arange(count)[None] % 61


@pytest.mark.parametrize("family", MODELS)
def test_the_operations_of_a_forward_pass_are_those_that_torch_counts(family: str) -> None:
    model, counter = build(family), FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=tokens(), use_cache=False)
    some = shape(family)
    work = train_forward(some, 0, 3, sequences=1, length=LENGTH)
    # Eager attention works out the whole square, of which a causal model needs little more than half.
    square = LENGTH**2 * sum(some.attention_flops_per_pair)
    assert work.matmul_flops + square == pytest.approx(counter.get_total_flops(), rel=0.001)
    assert work.attention_flops / square == pytest.approx((LENGTH + 1) / (2 * LENGTH))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_way_back_costs_twice_the_way_there(family: str) -> None:
    model, counter = build(family), FlopCounterMode(display=False)
    loss = model(input_ids=tokens(), labels=tokens(), use_cache=False).loss
    with counter:
        loss.backward()
    some = shape(family)
    backward = train_backward(some, 0, 3, sequences=1, length=LENGTH)
    square = 2 * LENGTH**2 * sum(some.attention_flops_per_pair)
    assert backward.matmul_flops + square == pytest.approx(counter.get_total_flops(), rel=0.001)
    again = train_backward(some, 0, 3, sequences=1, length=LENGTH, recompute=True)
    assert again.flops == pytest.approx(1.5 * backward.flops)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_decode_step_is_counted_with_its_context(family: str) -> None:
    model, counter = build(family), FlopCounterMode(display=False)
    with torch.no_grad():
        cache = model(input_ids=tokens(), use_cache=True).past_key_values
        with counter:
            model(input_ids=tokens(1), past_key_values=cache, use_cache=True)
    work = decode(shape(family), 0, 3, sequences=1, context=LENGTH + 1)
    assert work.flops == pytest.approx(counter.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "opt", "gpt2", "gpt_neox"])
def test_training_keeps_about_what_torch_keeps(family: str) -> None:
    """What one more layer adds to the tensors that wait for the way back, parameters left out."""
    entries = MODELS[family]
    layers = "n_layer" if family == "gpt2" else "num_hidden_layers"
    kept = []
    for count in (1, 2):
        text = json.dumps({"model_type": family, **entries, layers: count})
        model = AutoModelForCausalLM.from_config(parse_config(text), attn_implementation="sdpa", dtype=torch.float32)
        kept.append(kept_bytes(model.train()))
    (expected,) = saved_bytes_per_token(shape(family), 1, 2)
    assert (kept[1] - kept[0]) / LENGTH == pytest.approx(expected, rel=0.15)


def kept_bytes(model: PreTrainedModel) -> int:
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=tokens(), use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


def test_pairs_of_a_causal_text() -> None:
    assert causal_pairs(4) == 1 + 2 + 3 + 4
    assert causal_pairs(6, 3) == 1 + 2 + 3 + 3 + 3 + 3
    assert causal_pairs(2, 3) == 1 + 2
    assert causal_pairs(0, 3) == causal_pairs(0) == 0


def test_a_prompt_in_pieces_is_as_much_attention_as_in_one() -> None:
    for name in ("llama-3-8b", "mistral-7b"):
        some = named_shape(name)
        whole = prefill(some, 0, 32, 9000)
        parts = [prefill(some, 0, 32, 3000, past=past, samples=int(past == 6000)) for past in (0, 3000, 6000)]
        assert sum(part.flops for part in parts) == pytest.approx(whole.flops)
        assert sum(part.memory_bytes for part in parts) > whole.memory_bytes, "the weights are read three times"


def test_bytes_of_a_decode_step_by_hand() -> None:
    some = named_shape("llama-3-8b")
    work = decode(some, 8, 16, sequences=4, context=1000)
    layer = some.layer_bytes[0]
    assert work.memory_bytes == 8 * layer + 4 * 1001 * 8 * 4096 + activation_traffic(some, 8, 16, 4)
    matrices = layer - 2 * 4096 * 2
    assert work.flops == 4 * 8 * (matrices + 1000 * 4 * 4096), "two per weight of two bytes; 4 x width per pair"
    assert (work.layers, work.steps) == (8, 1)
    assert (work + work).memory_bytes == 2 * work.memory_bytes


def test_a_window_bounds_what_is_seen() -> None:
    some = named_shape("mistral-7b")
    near, far = (decode(some, 0, 32, 1, context) for context in (4096, 30_000))
    assert (near.flops, near.memory_bytes) == (far.flops, far.memory_bytes)
    assert prefill(some, 0, 32, 512, past=30_000).memory_bytes == prefill(some, 0, 32, 512, past=4096).memory_bytes


def test_few_tokens_wake_few_experts() -> None:
    some = named_shape("mixtral-8x7b")
    all_weights = some.weight_bytes(0, 32) - some.embedding_bytes
    dense = all_weights - sum(some.expert_bytes)
    assert weights_read(some, 0, 32, 1) == pytest.approx(dense + sum(some.expert_bytes) / 4)
    assert weights_read(some, 0, 32, 2) == pytest.approx(dense + sum(some.expert_bytes) * (1 - 0.75**2))
    assert weights_read(some, 0, 32, 500) == pytest.approx(all_weights)
    plain = named_shape("llama-3-8b")
    assert weights_read(plain, 31, 32, 1) == plain.weight_bytes(31, 32)


def test_an_encoder_sees_the_whole_text() -> None:
    bert = named_shape("bert-large")
    assert train_forward(bert, 0, 1, 2, 128).attention_flops == 2 * 128**2 * 4 * 1024


def test_a_step_of_the_optimizer_moves_weights_gradients_and_state() -> None:
    some = named_shape("gpt2", "float32")
    parameters = some.weight_bytes(2, 4) / 4
    assert optimizer_step(some, 2, 4, 8.0).memory_bytes == pytest.approx(parameters * (3 * 4 + 2 * 8))
