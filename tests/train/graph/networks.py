"""Networks of pieces in this process, and the same network trained by torch alone."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from muster.model.backends.base import Array, Plane, StepOptions
from muster.model.backends.torch_plane import TorchPlane
from muster.model.graph.capture import CapturedGraph
from muster.model.graph.joint import pieces
from muster.model.graph.program import GraphPiece, decode_piece, encode_piece
from muster.train.graph.network import LocalNetwork


def sgd(rate: float) -> StepOptions:
    return StepOptions("sgd", learning_rate=rate, momentum=0.0)


def arrays(captured: CapturedGraph, batch: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: value.numpy() for name, value in zip(captured.inputs, batch.values(), strict=True)}


def network(
    captured: CapturedGraph,
    cut: Sequence[Sequence[str]],
    options: StepOptions,
    microbatches: int = 1,
    recompute: bool = False,
    plane: Callable[[GraphPiece], Plane] = lambda piece: TorchPlane(),
) -> LocalNetwork:
    """Every piece as it comes over a wire."""
    made = [decode_piece(encode_piece(piece)) for piece in pieces(captured, cut, recompute=recompute)]
    weights = {name: tensor.numpy().copy() for name, tensor in captured.weights.items()}
    return LocalNetwork(made, [plane(one) for one in made], weights, captured.outputs, microbatches, options)


def alone(
    module: nn.Module, batches: Sequence[Mapping[str, Tensor]], rate: float
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses, and weights after as many steps of SGD."""
    optimizer, losses = torch.optim.SGD(module.parameters(), rate), []
    for batch in batches:
        optimizer.zero_grad()
        loss = module(*batch.values())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {name: value.detach() for name, value in module.state_dict().items()}
