"""Modules that work on parts: their shapes, and where members add up or put together. Knows no weights.

The forward passes stay those of `transformers`; hooks before and behind them do the rest.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from muster.model.parallel.cuts import CutModule, Cuts
from muster.model.parallel.group import Group, gather_last, part


def work_in_parts(model: PreTrainedModel, cuts: Cuts, group: Group) -> None:
    """Make of a whole model on the meta device what one member has of it."""
    for name, cut in cuts.parameters.items():
        owner, _, key = name.rpartition(".")
        module = model.get_submodule(owner)
        whole = module._parameters[key]
        assert whole is not None, "only what is there is cut"
        shape = [*whole.shape]
        shape[cut.dim] = cut.size
        empty = torch.empty(shape, dtype=whole.dtype, device="meta")
        module._parameters[key] = nn.Parameter(empty, requires_grad=False)
    for one in cuts.modules:
        _meet(model, one, group)


def _meet(model: PreTrainedModel, one: CutModule, group: Group) -> None:
    """Add what members do together to one module."""
    if not any(one.name == known for known, _ in model.named_modules()):
        return  # a stacked parameter, whose module has a line of its own in the plan
    module: Any = model.get_submodule(one.name)
    match one.style:
        case "vocabulary":
            _cut_vocabulary(module, group)
        case "logits" | "colwise_gather_output":
            whole = int(module.out_features)  # attributes still say what the whole module has
            module.register_forward_hook(lambda module, args, output: gather_last(group, output, whole))
        case "rowwise" | "moe_tp_experts":
            module.register_forward_hook(lambda module, args, output: group.sum(output))
        case "rowwise_split_input":
            mine = slice(*part(int(module.in_features), group.rank, group.size))
            module.register_forward_pre_hook(lambda module, args: (args[0][..., mine].contiguous(), *args[1:]))
            module.register_forward_hook(lambda module, args, output: group.sum(output))


def _cut_vocabulary(embedding: Any, group: Group) -> None:
    """Each member knows some tokens, and says nothing of the others; so the sum is what the whole would say."""
    start, stop = part(int(embedding.num_embeddings), group.rank, group.size)
    embedding.padding_idx = None  # of use in training alone, and it may be another member's
    looked_up = embedding.forward

    def forward(input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        is_mine = (input_ids >= start) & (input_ids < stop)
        own: Tensor = looked_up((input_ids - start).clamp(0, stop - start - 1), *args, **kwargs)
        return group.sum(own.masked_fill(~is_mine[..., None], 0))

    embedding.forward = forward
