"""From an assignment to a stage that trains: weights in float32, gradients and an optimizer beside them."""

import torch

from muster.errors import Unsupported
from muster.model.trainable import TrainableStage, build_trainable
from muster.model.weights import Weights
from muster.node.runners.base import Kind, Runner
from muster.node.runners.base import Place as NodePlace
from muster.node.runners.train.accept import check_settings
from muster.node.runners.train.stage import TrainingStage
from muster.plan.train.memory import placed_bytes
from muster.spec.model_shape import ModelShape


async def build(place: NodePlace) -> Runner:
    assign, work = place.assign, place.assign.pipeline.train
    if assign.mine.degree > 1:
        raise Unsupported("Several machines cannot train one stage together yet; let the head place one on each.")
    mine = assign.mine

    def needed_bytes(shape: ModelShape) -> int:
        return placed_bytes(shape, assign.pipeline, assign.index)

    def assemble(weights: Weights, shape: ModelShape, device: torch.device) -> tuple[TrainableStage, int]:
        dtype = torch.bfloat16 if work.precision == "bfloat16" else torch.float32
        stage = build_trainable(weights, mine.first, mine.last, dtype, device, work.recompute)
        return stage, shape.hidden_size

    stage, hidden_size = await place.load_weights(needed_bytes, assemble)
    return TrainingStage(place, stage, hidden_size)


TRAIN = Kind(check_settings, build, verb="Training")
