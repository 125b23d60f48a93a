"""How is a model put together? One token through it on the meta device tells: what each layer hands to the attention
function, and which of the other modules run before the layers and which after.

No weights, no memory, no arithmetic: only shapes move. Layers that never call the function are named in the error.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig, PreTrainedModel

from muster.errors import UnsupportedModel
from muster.model.architecture import build_on_meta, find_layers, first_line, layer_window, outside_layers
from muster.model.attention import Binding, Options, StepState, bind
from muster.model.batch import Batch
from muster.model.cache import HeadSizes, KVCache
from muster.model.settings import running

FIRST_LAYER = "the first layer"


@dataclass(frozen=True, slots=True)
class ModelParts:
    head_sizes: tuple[HeadSizes, ...]
    """Per layer."""
    query_heads: tuple[int, ...]
    """Per layer."""
    windows: tuple[int, ...]
    """Per layer: how many tokens a token sees, itself among them; 0 is all."""
    softcaps: tuple[float, ...]
    """Per layer: the bound that scores are bent under; 0 is none."""
    before: frozenset[str]
    """Modules with parameters, outside the layers, that run before the first layer (embeddings)."""
    after: frozenset[str]
    """The same, after the last layer (norm, head)."""


class _HeadProbe:
    """A backend that computes nothing and notes the head sizes that each layer hands over."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, HeadSizes]] = []
        self.query_heads: list[int] = []
        self.windows: list[int | None] = []
        self.softcaps: list[float | None] = []

    def prepare(self, batch: Batch, cache: KVCache, dtype: torch.dtype) -> None:
        return None

    def attend(
        self, prepared: Any, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        self.calls.append((layer, HeadSizes(k_TKD.shape[1], k_TKD.shape[2], v_TKD.shape[2])))
        self.query_heads.append(q_TND.shape[1])
        self.windows.append(options.window)
        self.softcaps.append(options.softcap)
        return q_TND.new_zeros(*q_TND.shape[:2], v_TKD.shape[2])


def parts_of(config: PreTrainedConfig) -> ModelParts:
    """Raises `UnsupportedModel` naming the layers that never call the attention function."""
    model = build_on_meta(config, torch.bfloat16)  # the one type for which every grouped kernel knows its shapes
    layers = find_layers(model)[1]
    probe = _HeadProbe()
    for index, layer in enumerate(layers):
        bind(layer, Binding(StepState(backend=probe), index))
    calls: list[str] = []
    for name in outside_layers(model):
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    layers[0].register_forward_pre_hook(lambda *_: calls.append(FIRST_LAYER))
    _pass_one_token(model)
    called = [layer for layer, _ in probe.calls]
    if called != list(range(len(layers))):
        kinds = [type(_attention_of(layer)).__name__ for layer in layers]
        raise UnsupportedModel(_describe_calls(type(model).__name__, kinds, called))
    start = calls.index(FIRST_LAYER)
    return ModelParts(
        head_sizes=tuple(sizes for _, sizes in probe.calls),
        query_heads=tuple(probe.query_heads),
        windows=tuple(window or layer_window(config, layer) or 0 for layer, window in enumerate(probe.windows)),
        softcaps=tuple(softcap or 0.0 for softcap in probe.softcaps),
        before=frozenset(calls[:start]),
        after=frozenset(calls[start + 1 :]),
    )


class _ZeroForValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers 0 where a forward pass asks for a number that the meta device does not have.

    Some ask: dynamic rotary scaling for the longest position, GPT-2 whether a token is padding. The token is token 0 at
    position 0, and what is looked for here are shapes, which do not depend on it.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype).item()
        return func(*args, **(kwargs or {}))


def _pass_one_token(model: PreTrainedModel) -> None:
    token_1T = torch.zeros(1, 1, dtype=torch.long, device="meta")
    try:
        asked = _ZeroForValues()  # type: ignore[no-untyped-call]
        with running(), torch.no_grad(), asked:  # in inference mode a dispatch mode does not see what is asked
            model(input_ids=token_1T, position_ids=token_1T, past_key_values=None, use_cache=False, return_dict=True)
    except UnsupportedModel:
        raise
    except Exception as error:  # whatever the forward pass of an unknown family may raise
        raise UnsupportedModel(
            f"One token does not pass through {type(model).__name__}: {first_line(error)}; choose another architecture."
        ) from error


def _attention_of(layer: nn.Module) -> nn.Module:
    """The child that looks like the layer's token mixer; only used to name it in an error."""
    for name, child in layer.named_children():
        if "attn" in name.lower() or "attention" in name.lower():
            return child
    return layer


def _describe_calls(model: str, kinds: list[str], called: list[int]) -> str:
    silent = [layer for layer in range(len(kinds)) if layer not in called]
    if not silent:
        return f"Layers of {model} call the attention interface more than once or out of order; choose another one."
    numbers = ", ".join(map(str, silent[:8])) + (", …" if len(silent) > 8 else "")
    names = ", ".join(sorted({kinds[layer] for layer in silent}))
    return (
        f"Layers {numbers} of {model} ({names}) never called the attention interface, so what they remember cannot be "
        "kept in KV pages; choose another architecture."
    )
