"""Tiny plain stages of a family, and what is traced of them."""

from functools import cache

import torch
from torch import Tensor

from muster.model.conformance import MemoryWeights, random_model
from muster.model.stage import Stage, build_stage
from muster.verify.disputes.trace import Traced, trace
from tests.model.families import CPU, FAMILIES, LAYERS, VOCAB

TOKENS = 9


def plain_stage(family: str, first: int, last: int, dtype: torch.dtype = torch.float32) -> Stage:
    config = FAMILIES[family]()
    weights = MemoryWeights(config.to_json_string(use_diff=False), random_model(config).state_dict())
    return build_stage(weights, first, last, dtype, CPU, plain=True)


def received(stage: Stage, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if stage.is_first:
        return torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    return torch.randn(TOKENS, stage.hidden_size, generator=generator).to(stage.dtype)


@cache
def traced(family: str, first: int = 1, last: int = LAYERS, dtype: torch.dtype = torch.float32) -> Traced:
    """The same object for all who ask: change nothing in it."""
    stage = plain_stage(family, first, last, dtype)
    return trace(stage, received(stage))
