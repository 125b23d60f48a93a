"""Layers [first, last) of a decoder with gradients, whole texts at a time and no KV cache.

As in `stage`, the forward pass is the one that `transformers` ships, cut at both ends; attention is its own, too. The
model is in inference mode, so nothing is dropped at random: the same text gives the same result wherever it runs.

Knows nothing of batches, losses or optimizers. Legend: B texts, T tokens of each, H hidden size, V vocabulary.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from muster.cost.config_fields import read_config
from muster.cost.limits import packing_of
from muster.errors import UnsupportedModel
from muster.model.architecture import build_on_meta, fill_buffers, find_layers, parse_config
from muster.model.checkpoint import tied_source
from muster.model.cut import StageCall, StageEnd, cut
from muster.model.probe import ModelParts, parts_of
from muster.model.settings import running
from muster.model.stage import check_range, load_tensors, move_buffers, stage_tensors
from muster.model.weights import Weights


class TrainableStage:
    """See `build_trainable`. Not for several threads."""

    def __init__(
        self,
        model: PreTrainedModel,
        first: int,
        last: int,
        device: torch.device,
        dtype: torch.dtype,
        both_ends: set[str],
    ) -> None:
        self.first, self.last, self.num_layers = first, last, len(find_layers(model)[1])
        self.is_first, self.is_last = first == 0, last == self.num_layers
        self.device, self.dtype = device, dtype
        self.model = model
        """Whoever adds adapters changes it."""
        self._both_ends = both_ends
        self._call = StageCall()
        cut(model, first, last, self._call)

    def run(self, x: Tensor) -> Tensor:
        """`x` is token ids [B, T] on the first stage, else the previous stage's hidden state [B, T, H].

        Returns the hidden state [B, T, H], or on the last stage float32 logits [B, T, V].
        """
        with running(), self._precision():
            self._call.enter(None if self.is_first else x)
            try:
                given = {"input_ids": x} if self.is_first else {"inputs_embeds": x.detach()}
                logits_BTV: Tensor = self.model(**given, use_cache=False, return_dict=True).logits
                return logits_BTV.float()
            except StageEnd as end:
                return end.hidden_1TH
            finally:
                self._call.leave()

    def go_back(self, output: Tensor, gradient: Tensor | None) -> None:
        """Add the gradients of what `output` came from; `gradient` is None for a loss."""
        with running():
            torch.autograd.backward(output, gradient)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that are trained, by their names in the whole model; what is tied has one name."""
        return {name: parameter for name, parameter in self._held() if parameter.requires_grad}

    def at_both_ends(self) -> frozenset[str]:
        """Names of parameters that the first and the last stage of a pipeline both hold, where those are apart."""
        return frozenset(self._both_ends & self.parameters().keys())

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers, by their names in the whole model."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if not tensor.is_meta}

    def _held(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.model.named_parameters():
            if not parameter.is_meta:
                yield tied_source(self.model, name) or name, parameter

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def build_trainable(
    weights: Weights, first: int, last: int, dtype: torch.dtype, device: torch.device, recompute: bool = False
) -> TrainableStage:
    """Weights are in float32; with `dtype` bfloat16, multiplications are in that (mixed precision).

    `recompute` keeps the input of each layer only, and computes the rest again on the way back (Chen et al., 2016).
    Raises `UnsupportedModel` (architecture), `WeightsInvalid` (missing tensor, wrong shape, unreadable file).
    """
    _refuse_codes(weights.config_json)
    config = parse_config(weights.config_json)
    parts = parts_of(config)
    model = _build(weights.config_json)
    prefix, layers = find_layers(model)
    check_range(first, last, len(layers))
    absent = frozenset(f"{prefix}.{index}" for index in range(len(layers)) if not first <= index < last)
    fill_buffers(model, skip=absent)
    needed = stage_tensors(model, parts, first, last)
    load_tensors(model, needed, weights, torch.float32, device, cuts={})
    move_buffers(model, device)
    _tie(model, needed)
    for name in needed:
        if isinstance(parameter := model.get_parameter_or_buffer(name), nn.Parameter):
            parameter.requires_grad_(parameter.is_floating_point())
    if recompute:
        for layer in layers[first:last]:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    both_ends = set() if (first, last) == (0, len(layers)) else _at_both_ends(model, parts, len(layers))
    return TrainableStage(model, first, last, device, dtype, both_ends)


def _refuse_codes(config_json: str) -> None:
    if packing := packing_of(read_config(config_json)):
        raise UnsupportedModel(
            f"This checkpoint is quantised ({packing}), and codes are not trained; choose the unquantised one."
        )


def _build(config_json: str) -> PreTrainedModel:
    """Fused attention where the family has it, else what it spells out itself."""
    try:
        return build_on_meta(parse_config(config_json), torch.float32, "sdpa")
    except UnsupportedModel:
        return build_on_meta(parse_config(config_json), torch.float32, "eager")


def _tie(model: PreTrainedModel, needed: list[str]) -> None:
    """Parameters that are tied are one, so that their gradients add up."""
    held: Mapping[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False))
    for name in needed:
        source = tied_source(model, name)
        if source is not None and source in needed:
            owner, _, key = name.rpartition(".")
            model.get_submodule(owner)._parameters[key] = held[source]


def _at_both_ends(model: PreTrainedModel, parts: ModelParts, count: int) -> set[str]:
    ends = [stage_tensors(model, parts, *end) for end in ((0, 0), (count, count))]
    first, last = ({tied_source(model, name) or name for name in end} for end in ends)
    return first & last
