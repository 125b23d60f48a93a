"""What a stage holds after some step, out of a checkpoint, by the names that the stage itself uses. Trains nothing."""

from pathlib import Path

import torch
from torch import Tensor

from muster.model.trainable import build_trainable
from muster.model.weights import open_directory
from muster.train.checkpoint import Checkpoint


def state_of(checkpoint: Checkpoint, first: int, last: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and optimizer of layers [first, last), on the CPU. Raises as `build_trainable` does."""
    stage = build_trainable(open_directory(checkpoint.path), first, last, torch.float32, torch.device("cpu"))
    names = stage.parameters().keys()
    optimizer = checkpoint.optimizer_state()
    return stage.tensors(), {key: tensor for key, tensor in optimizer.items() if key.partition(".")[2] in names}


def without_steps(path: Path) -> Checkpoint:
    """A model that no step has changed."""
    return Checkpoint(path, 0, {})
