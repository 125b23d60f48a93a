"""Several bodies of one model, all layers each, on one copy of the weights: for passes that wait for each other."""

import torch
from transformers import PreTrainedModel

from muster.model.parallel.cuts import Cut
from muster.model.stage import LoadTensors, Stage, assign, build_stage
from muster.model.weights import Weights


def build_bodies(weights: Weights, layers: int, count: int, dtype: torch.dtype, device: torch.device) -> list[Stage]:
    """Stages without embedding and head. Raises as `build_stage` does.

    Where there are several, their weights stay as they are (no packing for the processor), so that all can have them.
    """

    def build(load: LoadTensors | None = None) -> Stage:
        return build_stage(weights, 0, layers, dtype, device, load=load, plain=count > 1, body=True)

    if not count:
        return []
    first = build()
    tensors = first.tensors()

    def share(
        model: PreTrainedModel, needed: list[str], _: Weights, kind: torch.dtype, at: torch.device, cuts: dict[str, Cut]
    ) -> None:
        for name in needed:
            assign(model, name, tensors[name])

    return [first, *(build(share) for _ in range(1, count))]
