"""Bytes of training: against a real optimizer, and against sums worked out by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from muster.cost.codecs import buffer_bytes, message_bytes
from muster.cost.named_shapes import named_shape
from muster.cost.training_memory import TrainingOptions, saved_bytes_per_token, state_bytes, training_memory
from muster.errors import InvalidRequest
from muster.spec.codec import RAW, Codec

GPT = named_shape("gpt3-xl", "float16")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda parameters: torch.optim.SGD(parameters, lr=0.1)),
        ("momentum", lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)),
        ("adamw", lambda parameters: torch.optim.AdamW(parameters, lr=0.1)),
    ],
)
def test_the_state_is_what_a_real_optimizer_keeps(name: str, make) -> None:
    layer = nn.Linear(64, 32)
    optimizer = make(layer.parameters())
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values() if value is not None]
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    assert sum(value.nbytes for value in held if value.dim()) == state_bytes(name, "float32") * parameters


def test_half_precision_keeps_a_copy_in_full() -> None:
    assert state_bytes("adamw", "bfloat16") == 12
    assert state_bytes("sgd", "bfloat16") == 0
    with pytest.raises(InvalidRequest, match="no optimizer 'adam'; choose one of sgd, momentum, adamw"):
        state_bytes("adam", "float32")


def test_the_parts_of_a_stage_by_hand() -> None:
    options = TrainingOptions(sequences=2, length=1024, in_flight=3)
    memory = training_memory(GPT, 3, 6, options)
    weights = GPT.weight_bytes(3, 6)
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, weights, 6 * weights)
    assert memory.activations == 3 * 2 * 1024 * sum(GPT.saved_bytes_per_token[3:6])
    assert memory.logits == 0
    assert memory.codec_buffers == 2 * 2 * 2 * (2 * 1024 * 2048 * 2), "two links, twice, as sent and as values"
    assert memory.total == sum(getattr(memory, part) for part in type(memory).__slots__)
    last = training_memory(GPT, 21, 24, options)
    assert last.logits == 2 * 2 * 1024 * 50257 * 4
    assert last.codec_buffers == memory.codec_buffers / 2


def test_recomputing_keeps_inputs_and_one_layer() -> None:
    options = TrainingOptions(sequences=1, length=2048, in_flight=8)
    kept, again = (training_memory(GPT, 0, 3, replace(options, recompute=flag)) for flag in (False, True))
    tokens = 2048
    assert again.activations == 8 * tokens * 3 * 2048 * 2 + tokens * GPT.saved_bytes_per_token[0]
    assert again.activations < kept.activations / 4


def test_a_shape_that_does_not_say_what_it_keeps_is_not_taken_for_less() -> None:
    for name in ("llama-2-7b", "llama-3-70b", "opt-6.7b", "gpt2-xl", "mistral-7b"):
        said = named_shape(name)
        (guess,) = saved_bytes_per_token(replace(said, saved_bytes_per_token=()), 0, 1)
        assert 0.8 < guess / said.saved_bytes_per_token[0] < 2, name


def test_codecs_shrink_messages_and_cost_buffers() -> None:
    four = Codec("groups of 64 in 4 bits", bits_per_value=4.5)
    assert message_bytes(GPT, 10) == 10 * 2048 * 2
    assert message_bytes(GPT, 10, four) == 10 * 2048 * 36 // 64
    assert buffer_bytes(GPT, 10, 1, four) == 2 * (message_bytes(GPT, 10, four) + message_bytes(GPT, 10))
    remembering = replace(four, state_bytes_per_value=2.0)
    assert buffer_bytes(GPT, 10, 2, remembering) - buffer_bytes(GPT, 10, 2, four) == 2 * 10 * 2048 * 2
    assert buffer_bytes(GPT, 10, 0, RAW) == 0
