"""A stage of `model` whose large tensors come from disk while it runs. To whoever runs it, a stage like any other.

Each held layer enters its unit, computes all pieces of the step, and leaves it; what lies outside the layers does its
own (`outside`). Knows nothing of requests, and not who chose what stays in memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from muster.model.architecture import find_layers
from muster.model.attention import SdpaBackend
from muster.model.stage import Stage
from muster.offload.direct import CHUNK_BYTES, DEPTH, DirectFile, DirectReader
from muster.offload.microbatches import BlockBackend, PieceLimits
from muster.offload.outside import head_units, rows_from_disk, stream_head
from muster.offload.paging import PagedFromDisk
from muster.offload.parts import Lying, Unit, unit_of
from muster.offload.stream import OpenFile, WeightStream

LEAST_BUFFERS = 2


@dataclass(frozen=True, slots=True)
class WeightStreamOptions:
    """How a stage fetches what it does not keep."""

    limits: PieceLimits = field(default_factory=PieceLimits)
    num_buffers: int = LEAST_BUFFERS
    """Units in memory at once: one that is used, and those that come next."""
    waits: Literal["bytes", "barrier"] = "bytes"
    """`barrier` waits within each layer's first piece until the next layer is whole, as FlexGen's code does."""
    depth: int = DEPTH
    chunk_bytes: int = CHUNK_BYTES
    open_file: OpenFile = DirectFile
    staging_bytes: int = 0
    """Through which pages come from disk; 0 where all pages are in memory."""


def attach(stage: Stage, lying: Mapping[str, Lying], options: WeightStreamOptions) -> WeightStream:
    """From now on `stage` fetches the parameters in `lying` when it needs them.

    They must be on the meta device. Raises `StepFailed` where a file cannot be opened.
    """
    prefix, layers = find_layers(stage.model)
    units = [
        unit_of(f"{prefix}.{index}", _below(lying, f"{prefix}.{index}.")) for index in range(stage.first, stage.last)
    ]
    units = [unit for unit in units if unit.tensors]
    head, embeddings = _outside(stage.model, lying, prefix)
    largest = max((unit.buffer_bytes for unit in units), default=2**25)
    rows = [] if head is None else head_units(head[1], largest)
    reader = DirectReader(options.depth, options.chunk_bytes)
    stream = WeightStream([*units, *rows], reader, options.num_buffers, options.open_file)
    paged = PagedFromDisk(reader, options.staging_bytes) if options.staging_bytes else SdpaBackend()
    backend = BlockBackend(paged, options.limits)
    stage.backend = backend
    named = {unit.name: unit for unit in units}
    for index in range(stage.first, stage.last):
        layer = _Layer(layers[index], named.get(f"{prefix}.{index}"), stream, backend, options)
        layer.wrap(is_last=index == stage.last - 1)
    if head is not None:
        stream_head(head[0], rows, stream)
    for module, place in embeddings:
        rows_from_disk(module, place, reader, options.open_file)
    stream.start()
    return stream


def _below(lying: Mapping[str, Lying], prefix: str) -> list[tuple[str, Lying]]:
    return [(name.removeprefix(prefix), place) for name, place in lying.items() if name.startswith(prefix)]


def _outside(
    model: nn.Module, lying: Mapping[str, Lying], prefix: str
) -> tuple[tuple[nn.Linear, Lying] | None, list[tuple[nn.Embedding, Lying]]]:
    head, embeddings = None, []
    for name, place in lying.items():
        if name.startswith(f"{prefix}."):
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.Embedding):
            embeddings.append((module, place))
        else:
            assert isinstance(module, nn.Linear), "only embeddings and heads are offloaded outside the layers"
            head = (module, place)
    return head, embeddings


def can_leave(model: nn.Module, name: str, layer_prefix: str) -> bool:
    """Whether a tensor may be brought when it is needed: those of layers, of embeddings, and of a plain head."""
    if name.startswith(f"{layer_prefix}."):
        return True
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    if key != "weight":
        return False
    return isinstance(module, nn.Embedding) or type(module) is nn.Linear


class _Layer:
    """Wraps one layer's forward. Its large parameters are there while it runs."""

    def __init__(
        self,
        layer: nn.Module,
        unit: Unit | None,
        stream: WeightStream,
        backend: BlockBackend,
        options: WeightStreamOptions,
    ) -> None:
        self._layer, self._unit, self._stream, self._backend = layer, unit, stream, backend
        self._waits = options.waits == "barrier"
        self._inner = layer.forward
        names = [] if unit is None else [name for name, _, _ in unit.tensors]
        self._owners = {name: (layer.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}
        self._away: dict[str, Any] = {name: getattr(*self._owners[name]) for name in names}

    def wrap(self, is_last: bool) -> None:
        self._is_last = is_last
        self._layer.forward = self.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._unit is None:
            return self._compute(args, kwargs)
        self._put(self._stream.enter(self._unit.name))
        try:
            return self._compute(args, kwargs)
        finally:
            self._put(self._away)
            self._stream.leave(self._unit.name)

    def _compute(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        step = self._backend.step
        assert step is not None, "a layer runs within a step"
        between = self._stream.settle if self._waits else lambda: None
        result = step.run(self._inner, tuple(args), kwargs, between)
        if self._is_last:
            self._backend.finish()
        return result

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            module, key = self._owners[name]
            if key in module._parameters:
                module._parameters[key] = (
                    tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
                )
            else:
                module._buffers[key] = tensor


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """What is lent of a disk, and where."""

    folder: Path
    nbytes: int
