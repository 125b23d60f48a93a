"""A checkpoint in few bits, seen as if its matrices were plain: names, shapes and values; and as codes, if wanted.

So whatever renames, fuses or stacks tensors of plain checkpoints does the same with these, and a stage reads only its
own, from wherever they come.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from muster.cost.config_fields import read_config
from muster.cost.published import PublishedFormat, published_of
from muster.errors import UnsupportedModel, WeightsInvalid
from muster.model.quantized.layouts.awq import Awq
from muster.model.quantized.layouts.base import Described, PublishedLayout
from muster.model.quantized.layouts.compressed_tensors import Packed, Plain
from muster.model.quantized.layouts.fp8 import Fp8
from muster.model.quantized.layouts.gptq import Gptq
from muster.model.quantized.layouts.mxfp4 import Mxfp4
from muster.model.quantized.matrix import QuantizedMatrix, behind_each_other, stacked
from muster.model.tensor_file import Ranges, dtype_name, take
from muster.model.weights import Weights

_LAYOUTS: tuple[PublishedLayout, ...] = (Gptq(), Awq(), Packed(), Plain(), Fp8(), Mxfp4())


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensors of one matrix."""

    layout: PublishedLayout
    names: Mapping[str, str]
    """By their ends."""

    @property
    def is_transposed(self) -> bool:
        """Whether the module has it as [..., I, O]."""
        return self.layout.method == "mxfp4"


def stored_matrices(published: PublishedFormat, names: Collection[str]) -> dict[str, Stored]:
    """By the name that the matrix would have in a plain checkpoint."""
    known, found = frozenset(names), {}
    packed = published.variant == "pack-quantized"
    layouts = [layout for layout in _LAYOUTS if layout.method == published.method]
    if published.method == "compressed-tensors":
        layouts = [layout for layout in layouts if isinstance(layout, Packed) == packed]
    for layout in layouts:
        for name in known:
            stem = name.removesuffix(layout.main)
            if stem == name:
                continue
            beside = {end: stem + end for end in layout.beside if stem + end in known}
            if beside:  # a plain matrix of the same name has nothing beside it
                found[stem + layout.stands_for] = Stored(layout, {layout.main: name, **beside})
    return found


def plain_names(published: PublishedFormat | None, names: Collection[str]) -> frozenset[str]:
    """As a plain checkpoint would have them."""
    if published is None:
        return frozenset(names)
    found = stored_matrices(published, names)
    parts = {name for one in found.values() for name in one.names.values()}
    return (frozenset(names) - parts) | found.keys()


Headers = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype as a file names it, shape."""


def described_plainly(config_json: str, tensors: Headers) -> Headers:
    """As a plain checkpoint would have them. Raises `WeightsInvalid` on parts that do not fit."""
    published = published_of(read_config(config_json))
    if published is None:
        return dict(tensors)
    found = stored_matrices(published, tensors)
    parts = {name for one in found.values() for name in one.names.values()}
    made = {name: tensor for name, tensor in tensors.items() if name not in parts}
    for name, one in found.items():
        described = {end: Described(*tensors[part]) for end, part in one.names.items()}
        shape = one.layout.describe(name, described, published)
        made[name] = ("F32", (*shape[:-2], shape[-1], shape[-2]) if one.is_transposed else shape)
    return made


class QuantizedWeights:
    """`Weights` over others, whose matrices are read as plain float32."""

    def __init__(self, weights: Weights, published: PublishedFormat) -> None:
        self.config_json = weights.config_json
        self.published = published
        self._weights = weights
        self._stored = stored_matrices(published, weights.names())

    def names(self) -> frozenset[str]:
        return plain_names(self.published, self._weights.names())

    def sources(self, name: str) -> list[str]:
        """The checkpoint's own tensors behind one."""
        return list(self._stored[name].names.values()) if name in self._stored else [name]

    def holds_codes(self, name: str) -> bool:
        return name in self._stored

    def matrix(self, name: str) -> QuantizedMatrix:
        """[..., O, I]. Raises `WeightsInvalid` on parts that do not fit together."""
        stored = self._stored[name]
        parts = {end: self._weights.read(part) for end, part in stored.names.items()}
        described = {end: _described(part) for end, part in parts.items()}
        shape = stored.layout.describe(name, described, self.published)
        return stored.layout.read(parts, shape, self.published)

    def read(self, name: str) -> Tensor:
        if name not in self._stored:
            return self._weights.read(name)
        values = self.matrix(name).values(torch.float32)
        return values.transpose(-1, -2).contiguous() if self._stored[name].is_transposed else values

    def read_part(self, name: str, dim: int, ranges: Ranges) -> Tensor:
        if name not in self._stored:
            return self._weights.read_part(name, dim, ranges)
        return take(self.read(name), dim, ranges)

    def same(self, one: str, other: str) -> bool:
        if one not in self._stored and other not in self._stored:
            return self._weights.same(one, other)
        return False


def _described(part: Tensor) -> Described:
    return Described(dtype_name(part.dtype), tuple(part.shape))


def plainly(weights: Weights) -> Weights:
    """The same where they are plain. Raises `UnsupportedModel` on a method that is not read."""
    if isinstance(weights, QuantizedWeights):
        return weights
    published = published_of(read_config(weights.config_json))
    return weights if published is None else QuantizedWeights(weights, published)


def together(weights: Weights, name: str, kinds: Mapping[str, list[str]]) -> QuantizedMatrix:
    """The codes of one parameter. `kinds`: the tensors that make it, by kind (gate, up), one of each for each expert.

    Raises `WeightsInvalid` where one of them is plain, though config.json says that it is not.
    """
    every = [source for sources in kinds.values() for source in sources]
    if not isinstance(weights, QuantizedWeights) or not all(map(weights.holds_codes, every)):
        raise WeightsInvalid(
            f"config.json says that {name} is quantised, and the checkpoint holds it plain; download the model again, "
            "or check that weights and config.json belong together."
        )
    if len(every) == 1:
        return weights.matrix(every[0])
    experts = []
    for sources in zip(*kinds.values(), strict=True):
        parts = [weights.matrix(source) for source in sources]
        if any(part.order is not None or (len(parts) > 1 and part.rows % part.block[0]) for part in parts):
            raise UnsupportedModel(
                f"The experts of {name} are quantised in blocks that do not end where their matrices do, or in an "
                "order of their own; choose another checkpoint."
            )
        experts.append(behind_each_other(parts) if len(parts) > 1 else parts[0])
    return stacked(experts)
