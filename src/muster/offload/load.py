"""Builds a stage that offloads: what stays is read, of what goes it is noted where it lies.

Tensors that the checkpoint holds as they are used stay where they are; those that are cast, stacked, cut or quantised
on the way are written to the disk that is lent, one at a time.
"""

from typing import Any

import torch
from torch import Tensor

from muster.model.architecture import find_layers
from muster.model.checkpoint import Recipe, check_shape, parameter_dtype, recipes, untie
from muster.model.conformance import check_conformance
from muster.model.parallel.cuts import Cut
from muster.model.parallel.group import Seat
from muster.model.stage import Stage, assign, build_stage, recipes_for
from muster.model.tensor_file import check_dtype
from muster.model.weights import LiesInFiles, Weights
from muster.offload.choice import LEAST_BYTES, Sizes, kept
from muster.offload.direct import BLOCK
from muster.offload.parts import Lying
from muster.offload.stage import DiskRoom, WeightStreamOptions, attach, can_leave
from muster.offload.store import SpillFile
from muster.offload.stream import WeightStream

SHARE_STEP = 0.01


def load_offloaded(
    weights: Weights,
    first: int,
    last: int,
    dtype: torch.dtype,
    device: torch.device,
    share: float,
    room: DiskRoom,
    options: WeightStreamOptions = WeightStreamOptions(),
    seat: Seat | None = None,
    most_bytes: int | None = None,
) -> tuple[Stage, WeightStream]:
    """Layers [first, last) of which about `share` of the weights' bytes stay in memory, and what brings the rest.

    With `most_bytes`, fewer stay where these and the buffers of the others would take more.

    Raises as `load_stage` does, `MachineTrouble` where the disk has no room.
    """
    check_conformance(weights.config_json, 1 if seat is None else seat.size)
    loader = _Loader(share, SpillFile(room.folder, room.nbytes), most_bytes, options.num_buffers)
    stage = build_stage(weights, first, last, dtype, device, seat, loader.load)
    return stage, attach(stage, loader.lying, options)


class _Loader:
    """Stands for `load_tensors`."""

    def __init__(self, share: float, spill: SpillFile, most_bytes: int | None, num_buffers: int) -> None:
        self._share, self._spill = share, spill
        self._most_bytes, self._num_buffers = most_bytes, num_buffers
        self.lying: dict[str, Lying] = {}

    def load(
        self,
        model: Any,
        needed: list[str],
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        cuts: dict[str, Cut],
    ) -> None:
        made = recipes(model, weights.names())
        untie(model, made, weights, needed)
        stays = self._stays(model, needed)
        for recipe, names in recipes_for(model, made, needed):
            wanted = parameter_dtype(model, names[0], dtype)
            going = [name for name in names if name not in stays]
            if len(going) == len(names) and self._lies(model, recipe, names, weights, wanted, cuts):
                continue
            converted = recipe.convert(model, weights, wanted, cuts)
            for name in names:
                tensor = converted[name] if name in converted else next(iter(converted.values()))
                self._place(model, name, tensor, device, name in stays)

    def _stays(self, model: Any, needed: list[str]) -> frozenset[str]:
        prefix, layers = find_layers(model)
        tensors = {name: model.get_parameter_or_buffer(name) for name in needed}
        sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
        by_layer = [
            [(name, sizes[name]) for name in needed if name.startswith(f"{prefix}.{index}.")]
            for index in range(len(layers))
        ]
        stays = set(self._kept([layer for layer in by_layer if layer]))
        for name in needed:
            if not name.startswith(f"{prefix}."):
                small = sizes[name] < LEAST_BYTES or not can_leave(model, name, prefix)
                if small or self._share >= 1:
                    stays.add(name)
        return frozenset(stays)

    def _kept(self, layers: list[Sizes]) -> frozenset[str]:
        """About the share that was asked for, or as much less as it takes for all to fit."""
        share, chosen = self._share, kept(layers, self._share)
        while self._most_bytes is not None and share > 0 and self._taken(layers, chosen) > self._most_bytes:
            share = max(0.0, share - SHARE_STEP)
            chosen = kept(layers, share)
        return chosen

    def _taken(self, layers: list[Sizes], chosen: frozenset[str]) -> int:
        here = sum(nbytes for sizes in layers for name, nbytes in sizes if name in chosen)
        largest = max(sum(nbytes + 2 * BLOCK for name, nbytes in sizes if name not in chosen) for sizes in layers)
        return here + self._num_buffers * largest

    def _lies(
        self,
        model: Any,
        recipe: Recipe,
        names: list[str],
        weights: Weights,
        dtype: torch.dtype,
        cuts: dict[str, Cut],
    ) -> bool:
        """Note where a tensor lies that is used as the checkpoint has it; False where it is not."""
        if recipe.converter is not None or not isinstance(weights, LiesInFiles) or any(name in cuts for name in names):
            return False
        path, span = weights.lies(recipe.sources[0][0])
        place = Lying(path, span.start, check_dtype(names[0], span.dtype), span.shape)
        if place.dtype != dtype or not place.can_be_viewed:
            return False
        for name in names:
            check_shape(name, place.shape, tuple(model.get_parameter_or_buffer(name).shape))
            self.lying[name] = place
        return True

    def _place(self, model: Any, name: str, tensor: Tensor, device: torch.device, stays: bool) -> None:
        if stays:
            assign(model, name, tensor.to(device))
            return
        check_shape(name, tuple(tensor.shape), tuple(model.get_parameter_or_buffer(name).shape))
        self.lying[name] = self._spill.write(name, tensor)
