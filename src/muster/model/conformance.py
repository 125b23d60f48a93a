"""Does this architecture come out right when it runs in pages, chunks and stages? Tried, not assumed.

Some families bypass the attention interface in all layers or in some. They run without complaint and give wrong
numbers. So a tiny random model of the same architecture goes through two stages in a mixed batch and is compared with
its dense self. The verdict is kept on disk per architecture and per version of everything that takes part.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from muster.disk import cache_directory, version_of, write_if_possible
from muster.errors import UnsupportedModel, WeightsInvalid
from muster.model.architecture import build_on_meta, first_line, num_layers, parse_config
from muster.model.parallel.cuts import cuts_of
from muster.model.parallel.group import Seat
from muster.model.probe import parts_of
from muster.model.rehearsal import Together, largest_difference, sequences
from muster.model.settings import building, running
from muster.model.shrink import shrink
from muster.model.stage import Stage, build_stage
from muster.model.tensor_file import Ranges, take
from muster.model.weights import Weights

TOLERANCE = 1e-4
"""Of the largest logit. Float32 rounding stays two orders below; a wrong mask lies two orders above."""

MAX_PARAMETERS = 20_000_000
"""Of the tiny model. More means that the configuration has sizes which `shrink` does not know."""


def check_conformance(config_json: str, degree: int = 1) -> None:
    """Raise `UnsupportedModel` naming what is missing. Takes well under a second, and next to nothing the next time.

    With a `degree` above 1 the stages are cut into so many parts.
    """
    config = parse_config(config_json)
    if degree > 1:
        cuts_of(build_on_meta(config, torch.bfloat16), parts_of(config), 0, degree)
    small = shrunk(config, degree)
    path = _verdict_path(small, degree)
    reason = _read_verdict(path)
    if reason is None:
        reason = _try(config, small, degree)
        write_if_possible(path, reason.encode())
    if reason:
        raise UnsupportedModel(reason)


def shrunk(config: PreTrainedConfig, degree: int = 1) -> PreTrainedConfig:
    """A tiny configuration of the same architecture."""
    fields = shrink(config.to_dict(), dict(type(config).attribute_map), degree)
    fields["architectures"] = None
    try:
        small = parse_config(json.dumps(fields, default=str))
    except WeightsInvalid as error:
        raise _unchecked(config, "its configuration") from error
    if sum(parameter.numel() for parameter in build_on_meta(small, torch.float32).parameters()) > MAX_PARAMETERS:
        raise _unchecked(config, "the model")
    return small


def _unchecked(config: PreTrainedConfig, what: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{config.model_type} cannot be checked, because {what} cannot be made small; choose another architecture."
    )


class MemoryWeights:
    """The tensors of a model in memory, under the names of its parameters."""

    def __init__(self, config_json: str, tensors: Mapping[str, Tensor]) -> None:
        self.config_json = config_json
        self._tensors = tensors

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def read(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def read_part(self, name: str, dim: int, ranges: Ranges) -> Tensor:
        return take(self._tensors[name], dim, ranges)

    def same(self, one: str, other: str) -> bool:
        return torch.equal(self._tensors[one], self._tensors[other])


def random_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A dense model in float32 whose weights are large enough for attention to matter."""
    with building(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        for parameter in model.parameters():
            with torch.no_grad():
                if parameter.dim() >= 2:
                    parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
                else:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def _stage(weights: Weights, first: int, last: int, degree: int) -> Stage | Together:
    cpu = torch.device("cpu")
    if degree == 1:
        return build_stage(weights, first, last, torch.float32, cpu)
    return Together(
        [build_stage(weights, first, last, torch.float32, cpu, Seat(rank, degree)) for rank in range(degree)]
    )


def _try(config: PreTrainedConfig, small: PreTrainedConfig, degree: int) -> str:
    """The reason to refuse, or an empty string."""
    family = config.model_type
    try:
        parts_of(config)
        dense = random_model(small)
        weights = MemoryWeights(small.to_json_string(use_diff=False), dense.state_dict())
        count = num_layers(small)
        cuts = (0, max(1, count // 2), count) if count > 1 else (0, 1)
        stages = [_stage(weights, first, last, degree) for first, last in pairwise(cuts)]
        tokens = sequences(int(small.get_text_config(decoder=True).vocab_size))
        with running(), torch.inference_mode():
            scale = max(float(dense(input_ids=row[None], use_cache=False).logits.abs().max()) for row in tokens)
            difference = largest_difference(dense, stages, tokens)
    except UnsupportedModel as error:
        return str(error)
    except Exception as error:  # whatever an unknown family may raise, the answer is the same
        return (
            f"{family} cannot run in stages ({type(error).__name__}: {first_line(error)}); choose another architecture."
        )
    if not difference <= TOLERANCE * max(1.0, scale):
        return (
            f"{family} gives other numbers in pages and stages than in one piece (off by {difference:.2g} where logits "
            f"reach {scale:.2g}), so it remembers something that KV pages do not hold; choose another architecture."
        )
    return ""


def _verdict_path(config: PreTrainedConfig, degree: int) -> Path:
    fields: dict[str, Any] = config.to_dict()
    for key in ("_name_or_path", "transformers_version", "architectures"):
        fields.pop(key, None)
    key = f"{version_of('model', 'transformers', 'torch')} {json.dumps(fields, sort_keys=True, default=str)}"
    if degree > 1:
        key += f" in {degree} parts"
    return cache_directory() / "conformance" / f"{config.model_type}-{blake3(key.encode()).hexdigest()[:32]}"


def _read_verdict(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
