"""Which part of which parameter belongs to which member. Knows no group and no weights.

The plan is the model's own, as `transformers` has it (`base_model_tp_plan`):

    colwise                 a member has some of the outputs (heads, inner width)
    rowwise                 a member has the inputs that fit to those; the outputs are summed
    packed_colwise          the same as colwise for two matrices in one (gate and up of stacked experts)
    moe_tp_experts          the sum behind experts that are cut this way
    colwise_gather_output   some of the outputs, which are put together again
    rowwise_split_input     some of the inputs, cut from the whole

What the plan does not name stays whole at every member. Of key/value heads that are fewer than the degree, a member has
the one that its query heads look at. Embedding and output projection are cut along the vocabulary.
"""

import re
from dataclasses import dataclass, replace
from math import gcd

from torch import nn
from transformers import PreTrainedModel

from muster.errors import UnsupportedModel
from muster.model.cache import HeadSizes
from muster.model.parallel.group import part
from muster.model.probe import ModelParts

MAX_DEGREE = 8
WHOLE_STYLES = frozenset({"replicated_with_grad_allreduce", "replicate", "mla_kv_a_proj"})
"""Of these, every member has all; they differ in what happens to gradients."""
CUT_STYLES = frozenset(
    {"colwise", "rowwise", "packed_colwise", "moe_tp_experts", "colwise_gather_output", "rowwise_split_input"}
)
GROUPED_BYTES = 16
"""Kernels that multiply stacked matrices take only rows of a multiple of this."""
KEY_VALUE = frozenset({"k_proj", "v_proj"})


@dataclass(frozen=True, slots=True)
class Cut:
    """What one member has of a parameter: these ranges of one dimension, one after another."""

    dim: int
    ranges: tuple[tuple[int, int], ...]
    is_zero: bool = False
    """Zeros of the parameter's whole shape: a bias that only one member adds to the sum."""

    @property
    def size(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


@dataclass(frozen=True, slots=True)
class CutModule:
    """One module that works on a part."""

    name: str
    style: str
    """As in the plan, or `vocabulary` for the embedding, or `logits` for the output projection."""


@dataclass(frozen=True, slots=True)
class Cuts:
    parameters: dict[str, Cut]
    modules: tuple[CutModule, ...]
    head_sizes: tuple[HeadSizes, ...]
    """Per layer, of the heads that the member has."""


def cuts_of(model: PreTrainedModel, parts: ModelParts, rank: int, degree: int) -> Cuts:
    """Of a whole model on the meta device. `parts` are those of the whole model.

    Raises `UnsupportedModel` where the model has no plan, or cannot be cut into so many parts; then it says which
    degrees would do.
    """
    styles = _styles(model)
    if why := _indivisible(model, parts, styles, degree):
        would = degrees_of(model, parts)
        advice = f"degrees {', '.join(map(str, would))} would do" if would else "keep its stages whole"
        raise UnsupportedModel(f"{type(model).__name__} cannot be cut into {degree} parts ({why}); {advice}.")
    parameters: dict[str, Cut] = {}
    modules: list[CutModule] = []
    for name, style in styles.items():
        modules.append(CutModule(name, style))
        parameters |= _of_module(model, parts, name, style, rank, degree)
    for module, style in ((model.get_input_embeddings(), "vocabulary"), (model.get_output_embeddings(), "logits")):
        name = _name_of(model, module)
        modules.append(CutModule(name, style))
        for key, parameter in module.named_parameters(recurse=False):
            parameters[f"{name}.{key}"] = Cut(0, (part(parameter.shape[0], rank, degree),))
    cut_layers = {_attention_layer(name) for name, style in styles.items() if style == "colwise"}
    head_sizes = tuple(
        replace(sizes, num_heads=max(1, sizes.num_heads // degree)) if layer in cut_layers else sizes
        for layer, sizes in enumerate(parts.head_sizes)
    )
    return Cuts(parameters, tuple(modules), head_sizes)


def _name_of(model: PreTrainedModel, module: nn.Module | None) -> str:
    return next((name for name, one in model.named_modules() if one is module), "")


def degrees_of(model: PreTrainedModel, parts: ModelParts) -> tuple[int, ...]:
    """All degrees above 1 at which `cuts_of` would cut it; none where it stays whole."""
    try:
        styles = _styles(model)
    except UnsupportedModel:
        return ()
    return tuple(degree for degree in range(2, MAX_DEGREE + 1) if not _indivisible(model, parts, styles, degree))


def _styles(model: PreTrainedModel) -> dict[str, str]:
    """Of modules and stacked parameters within the layers. Raises `UnsupportedModel`."""
    plan = {key: style for key, style in model.tp_plan.items() if ".*." in key}
    family = type(model).__name__
    if not plan:
        raise UnsupportedModel(f"transformers has no tensor-parallel plan for {family}; keep its stages whole.")
    if unknown := set(plan.values()) - CUT_STYLES - WHOLE_STYLES:
        raise UnsupportedModel(
            f"{family} is cut in a way that is not done here ({min(unknown)}); keep its stages whole."
        )
    ends_are_plain = isinstance(model.get_input_embeddings(), nn.Embedding) and isinstance(
        model.get_output_embeddings(), nn.Linear
    )
    if not ends_are_plain:
        raise UnsupportedModel(f"{family} has no plain embedding and output projection; keep its stages whole.")
    patterns = [(re.compile(re.escape(key).replace(r"\*", r"\d+")), style) for key, style in plan.items()]
    names = [name for name, _ in model.named_modules()]
    names += [name for name, parameter in model.named_parameters() if parameter.dim() == 3]
    found = {name: style for name in names for pattern, style in patterns if pattern.fullmatch(name)}
    return {name: style for name, style in found.items() if style in CUT_STYLES}


def _indivisible(model: PreTrainedModel, parts: ModelParts, styles: dict[str, str], degree: int) -> str:
    """Why not, in words; empty where it can be cut."""
    for name, style in styles.items():
        size = _size(model, name, style)
        if size % degree:
            return f"{name} has {size} {'outputs' if 'col' in style else 'inputs'}"
        if size // degree * model.dtype.itemsize % GROUPED_BYTES and _is_stacked(model, name):
            return f"{name} has {size} {'outputs' if 'col' in style else 'inputs'}, too few for the kernels of experts"
        layer = _attention_layer(name)
        if layer is None or style != "colwise":
            continue
        queries, heads = parts.query_heads[layer], parts.head_sizes[layer].num_heads
        if queries % degree:
            return f"there are {queries} attention heads"
        if heads % degree and degree % heads:
            return f"there are {heads} key/value heads"
    return ""


def _size(model: PreTrainedModel, name: str, style: str) -> int:
    """Of what is cut; 0 where nothing is."""
    if style == "moe_tp_experts":
        return 0
    dim = _dimension(style)
    weight = model.get_parameter(name if _is_stacked(model, name) else f"{name}.weight")
    return int(weight.shape[dim]) // (2 if style == "packed_colwise" else 1)


def _is_stacked(model: PreTrainedModel, name: str) -> bool:
    """A parameter by itself, [experts, out, in], rather than a module."""
    return any(name == parameter for parameter, _ in model.named_parameters())


def _dimension(style: str) -> int:
    """Of a weight [..., out, in]."""
    return -2 if "col" in style else -1


def _attention_layer(name: str) -> int | None:
    """The number of the layer whose attention this belongs to."""
    found = re.search(r"\.(\d+)\.(?:[a-z_]*attn|attention)\.", name)
    return int(found[1]) if found else None


def _of_module(
    model: PreTrainedModel, parts: ModelParts, name: str, style: str, rank: int, degree: int
) -> dict[str, Cut]:
    if style == "moe_tp_experts":
        return {}
    size, dim = _size(model, name, style), _dimension(style)
    mine = part(size, rank, degree)
    layer = _attention_layer(name)
    if layer is not None and style == "colwise" and name.rpartition(".")[2] in KEY_VALUE:
        heads = parts.head_sizes[layer].num_heads
        mine = part(size, rank * gcd(heads, degree) // degree, gcd(heads, degree))
    if _is_stacked(model, name):
        ranges = (mine, (size + mine[0], size + mine[1])) if style == "packed_colwise" else (mine,)
        return {name: Cut(model.get_parameter(name).dim() + dim, ranges)}
    module = model.get_submodule(name)
    cuts = {f"{name}.weight": Cut(2 + dim, (mine,))}
    if getattr(module, "bias", None) is not None:
        cuts[f"{name}.bias"] = Cut(0, (mine,)) if "col" in style else Cut(0, ((0, module.bias.shape[0]),), rank > 0)
    return cuts
