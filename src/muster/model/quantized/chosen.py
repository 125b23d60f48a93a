"""Which parameters of a model may be kept in few bits: the large matrices inside the layers. Knows no file.

Those are the weights of linear layers and the stacked matrices of experts. Embeddings, norms, routers, whatever is tied
to another parameter, and matrices with few outputs stay as they are; so does what a family multiplies in its own way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from muster.cost.config_fields import read_config
from muster.cost.few_bits import FEWEST_OUTPUTS, WEIGHT_FORMATS, BlockFormat, check_cache, check_weights
from muster.cost.published import check_plain, published_of
from muster.errors import WeightsInvalid
from muster.model.architecture import find_layers
from muster.model.checkpoint import Recipe, check_shape, parameter_dtype
from muster.model.parallel.cuts import Cut
from muster.model.quantized.layouts.view import together
from muster.model.quantized.linear import quantize_experts, quantize_linear
from muster.model.quantized.matrix import QuantizedMatrix, quantized
from muster.model.weights import Weights
from muster.spec.few_bits import FewBits

NO_FORMATS: Mapping[str, BlockFormat] = MappingProxyType({})
EXPERT_MATRICES = ("gate_up_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Matrix:
    """A parameter that may be kept in few bits."""

    experts: int
    """0: no stack."""
    rows: int
    """Outputs."""
    columns: int
    """Inputs."""
    transposed: bool = False
    """Kept as [inputs, outputs] by the module."""

    def bytes_of(self, form: BlockFormat, itemsize: int) -> int:
        return max(1, self.experts) * form.bytes_of(self.rows, self.columns, itemsize)


def formats_of(model: PreTrainedModel, config_json: str, few_bits: FewBits) -> dict[str, BlockFormat]:
    """Parameter name -> how it is kept, of a model on the meta device. Raises `InvalidRequest` on an unknown name."""
    check_cache(few_bits.cache)
    published = published_of(read_config(config_json))
    wanted = check_weights(few_bits.weights)
    if published is None:
        return dict.fromkeys(matrices(model), WEIGHT_FORMATS[wanted]) if wanted else {}
    check_plain(published.method, few_bits)
    large = matrices(model) | (head_matrix(model) if published.head else {})
    found = {name: published.format_of(name, matrix.experts > 0) for name, matrix in large.items()}
    return {name: form for name, form in found.items() if form is not None}


def take_parameter(
    model: PreTrainedModel, name: str, recipe: Recipe, weights: Weights, form: BlockFormat, cut: Cut | None
) -> None:
    """Let the owner of a parameter have the codes that the checkpoint holds. Raises `WeightsInvalid`."""
    owner, _, key = name.rpartition(".")
    module, parameter = model.get_submodule(owner), model.get_parameter(name)
    dtype = parameter_dtype(model, name, parameter.dtype)
    matrix = together(weights, name, recipe.kinds()).in_dtype(dtype)
    transposed = bool(getattr(module, "is_transposed", False))
    if cut is not None:
        dim = cut.dim - parameter.dim()
        matrix = matrix.take(-3 - dim if transposed else dim, cut.ranges)
    shape = (*matrix.shape[:-2], *reversed(matrix.shape[-2:])) if transposed else matrix.shape
    check_shape(name, shape, tuple(parameter.shape))
    if cut is None:
        experts = parameter.shape[0] if len(shape) == 3 else 1
        promised = experts * form.bytes_of(matrix.rows, matrix.columns, dtype.itemsize)
        if matrix.nbytes > promised:
            raise WeightsInvalid(
                f"{name} takes {matrix.nbytes} bytes where config.json promises {promised}; download the model again."
            )
    put(module, key, matrix, dtype)


def quantize_parameter(model: PreTrainedModel, name: str, values: Tensor, form: BlockFormat) -> None:
    """Let the owner of a parameter have it in few bits: `values` are as the parameter stands in the model."""
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    dtype = parameter_dtype(model, name, model.get_parameter(name).dtype)
    if getattr(module, "is_transposed", False):
        values = values.transpose(-1, -2)
    put(module, key, quantized(values, form, dtype), dtype)


def put(module: nn.Module, key: str, matrix: QuantizedMatrix, dtype: torch.dtype) -> None:
    if isinstance(module, nn.Linear):
        quantize_linear(module, matrix, dtype)
    else:
        quantize_experts(module, key, matrix, dtype)


def matrices(model: PreTrainedModel) -> dict[str, Matrix]:
    """By parameter name, in the layers and the output projection of a model on the meta device."""
    prefix, layers = find_layers(model)
    found: dict[str, Matrix] = {}
    for index, layer in enumerate(layers):
        for name, module in layer.named_modules():
            for key, matrix in _of(module).items():
                found[f"{prefix}.{index}.{name}.{key}" if name else f"{prefix}.{index}.{key}"] = matrix
    return found


def head_matrix(model: PreTrainedModel) -> dict[str, Matrix]:
    """The output projection where it is a plain one of its own. Published checkpoints may have it in few bits."""
    head = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if module is head), "")
    tied = f"{name}.weight" in model.all_tied_weights_keys
    return {f"{name}.weight": _of(head)["weight"]} if name and not tied and _of(head) else {}


def _of(module: nn.Module | None) -> dict[str, Matrix]:
    if type(module) is nn.Linear:
        rows, columns = module.weight.shape
        return {"weight": Matrix(0, rows, columns)} if rows >= FEWEST_OUTPUTS else {}
    if module is None or not hasattr(module, "is_transposed") or not hasattr(module, "has_gate"):
        return {}  # not an experts module as `transformers` declares one
    return {
        name: _stack(parameter, bool(module.is_transposed))
        for name in EXPERT_MATRICES
        if isinstance(parameter := module._parameters.get(name), torch.Tensor) and parameter.dim() == 3
    }


def _stack(parameter: torch.Tensor, transposed: bool) -> Matrix:
    experts, rows, columns = parameter.shape
    return Matrix(experts, columns, rows, True) if transposed else Matrix(experts, rows, columns)
