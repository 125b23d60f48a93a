"""What a stage holds and may be sent: weights, optimizer, and the sizes of everything that comes. Knows no messages."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from muster.errors import ProtocolViolation
from muster.model.trainable import TrainableStage
from muster.spec.plan import TrainSettings
from muster.train.buckets import PACKED, ROW, WHOLE
from muster.train.instructions import LetterLabel
from muster.train.optimizer import MOMENTS
from muster.train.pieces import WIDEST_BYTES, Letter, LetterOrigin
from muster.train.step import StageTrainer
from muster.wire.messages.train import TensorKind

OUTER = "outer"
"""What an exchange with local steps keeps of each weight."""


class Held:
    """Of one round."""

    def __init__(
        self, stage: TrainableStage, trainer: StageTrainer, settings: TrainSettings, hidden_size: int, places: int
    ) -> None:
        self.trainer = trainer
        self._stage, self._settings, self._hidden_size = stage, settings, hidden_size
        self._weights = {name: tensor.shape for name, tensor in stage.tensors().items()}
        self._shared = {name: parameter.shape for name, parameter in trainer.parameters.items()}
        self._optimizer = {f"step.{name}": torch.Size(()) for name in self._shared}
        for moment in (*MOMENTS, OUTER):
            self._optimizer |= {f"{moment}.{name}": shape for name, shape in self._shared.items()}
        self._together = sum(shape.numel() for shape in self._shared.values()) + ROW * places
        """Numbers of what an exchange packs together, at most."""

    def numel(self, origin: LetterOrigin, name: str) -> int | None:
        """How many numbers a tensor of this name in such a letter has at most; None: there is none."""
        if origin.kind in ("activations", "gradients"):
            return self._settings.microbatch * self._settings.length * self._hidden_size if name == "hidden" else None
        if origin.kind == "shared" and name in (PACKED, WHOLE):
            return self._together
        shapes = {"weights": self._weights, "optimizer": self._optimizer, "shared": self._shared}[origin.kind]
        return shapes[name].numel() if name in shapes else None

    def most_bytes(self, label: LetterLabel) -> int:
        """Of one tensor in a letter with this label, unpacked."""
        if label.kind == "shared":
            return WIDEST_BYTES * self._together
        return WIDEST_BYTES * self._settings.microbatch * self._settings.length * self._hidden_size

    def check(self, label: LetterLabel, texts: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """What travels by its own name has its own shape; what is packed together, `train/buckets` checks.

        Raises `ProtocolViolation`.
        """
        for name, tensor in tensors.items():
            if label.kind == "shared":
                due = self._shared.get(name, tensor.shape)
            else:
                due = torch.Size((texts[label.microbatch], self._settings.length, self._hidden_size))
            if tensor.shape != due:
                raise ProtocolViolation(
                    f"A tensor {name[:80]!r} of shape {list(tensor.shape)} came where {list(due)} is due; update both "
                    "machines."
                )

    def state(self) -> dict[TensorKind, Mapping[str, Tensor]]:
        """By kind of letter."""
        optimizer = {**self.trainer.optimizer.state(), **self.trainer.exchange.state()}
        return {"weights": self._stage.tensors(), "optimizer": optimizer}

    def restore(self, weights: Letter, optimizer: Letter) -> None:
        """Raises `ProtocolViolation` where something is missing, or not as it must be."""
        given, held = weights.open(self._weights), self._stage.tensors()
        missing = self._weights.keys() - given.keys()
        if missing:
            raise ProtocolViolation(f"The weights of {min(missing)} did not come; update both machines.")
        with torch.no_grad():
            for name, tensor in given.items():
                held[name].copy_(tensor)
        state = optimizer.open(self._optimizer)
        self.trainer.optimizer.restore(state)
        self.trainer.exchange.restore(state)
