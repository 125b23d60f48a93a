"""Attention over KV pages: the one function that every model of `transformers` calls, and its reference backend.

`paged_attention` is registered with `AttentionInterface`. `transformers` makes no mask for a function it does not know,
so causality, sliding window, soft-capping and sinks are applied here, from the `Batch`. The batch and the cache reach
the function through a `Binding` on the attention module: some families drop the keyword arguments of the forward
call on the way down.

Legend as in `batch`; G query heads per key/value head, L keys read, B any batch dimension.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from muster.errors import UnsupportedModel
from muster.model.batch import Batch
from muster.model.cache import KVCache
from muster.model.layout import DecodeGroup, Layout, PrefillRow

ATTENTION_NAME = "muster_paged"
HARMLESS = frozenset({"position_ids", "cache_position", "position_embeddings"})
"""Tensors that some families pass along although the queries and keys already reflect them."""


@dataclass(frozen=True, slots=True)
class Options:
    """How one layer attends. `window` keys are visible, the query's own among them."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks_N: Tensor | None = None


class Backend(Protocol):
    """A way to attend over pages. `prepare` runs once per step, `attend` once per layer."""

    def prepare(self, batch: Batch, cache: KVCache, dtype: torch.dtype) -> Any: ...

    def attend(
        self, prepared: Any, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        """Store the new keys and values of the `layer`-th held layer, then attend. Returns [T, N, size of a value]."""
        ...


@dataclass
class StepState:
    """What the attention modules of a stage share while it runs. One per stage; set and cleared by `Stage.run`."""

    backend: Backend | None = None
    prepared: Any = None


@dataclass(frozen=True, slots=True)
class Binding:
    """Ties an attention module to its stage and to its place in the cache."""

    state: StepState
    layer: int
    window: int | None = None
    """Window of the layer's type in the configuration, for families that keep it in the mask alone."""


def bind(layer: nn.Module, binding: Binding) -> None:
    """Let every module of `layer` find its stage; only those that attend will look."""
    for module in layer.modules():
        module.muster_binding = binding  # type: ignore[assignment]  # a plain attribute, not a submodule


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Called by `transformers` with [1, heads, T, size of a head]; returns [1, T, N, size of a value]."""
    binding: Binding | None = getattr(module, "muster_binding", None)
    if binding is None or binding.state.backend is None:
        raise UnsupportedModel(
            f"{type(module).__name__} attends outside the model's layers; choose another architecture."
        )
    _refuse_unknown(module, attention_mask=attention_mask, **others)
    options = Options(
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=sliding_window or binding.window,
        softcap=softcap,
        sinks_N=s_aux,
    )
    q_TND, k_TKD, v_TKD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out_TND = binding.state.backend.attend(binding.state.prepared, binding.layer, q_TND, k_TKD, v_TKD, options)
    return out_TND[None], None


def _refuse_unknown(module: nn.Module, **arguments: Any) -> None:
    """A tensor that we ignored (a mask, a position bias, an index of chosen keys) would change the answer."""
    for name, value in arguments.items():
        if isinstance(value, Tensor) and name not in HARMLESS:
            raise UnsupportedModel(
                f"{type(module).__name__} gives the attention function a tensor {name}, which is not applied over KV "
                "pages; choose another architecture."
            )


AttentionInterface.register(ATTENTION_NAME, paged_attention)


@dataclass(frozen=True, slots=True)
class PreparedPages:
    batch: Batch
    cache: KVCache
    layout: Layout


class SdpaBackend:
    """The reference: PyTorch's scaled dot-product attention, on any device."""

    def prepare(self, batch: Batch, cache: KVCache, dtype: torch.dtype) -> PreparedPages:
        return PreparedPages(batch, cache, Layout(batch, cache.page_size, dtype))

    def attend(
        self, prepared: PreparedPages, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        keys, values = prepared.cache.layer(layer)
        store(keys, values, prepared.batch.slots_T, k_TKD, v_TKD)
        out_TND = q_TND.new_empty(*q_TND.shape[:2], v_TKD.shape[2])
        for group in prepared.layout.decode_groups(options.window):
            out_GND = _decode(group, keys, values, q_TND, options)
            if group.tokens_G is None:
                return out_GND
            out_TND.index_copy_(0, group.tokens_G, out_GND)
        for row in prepared.layout.prefill_rows(options.window):
            out_TND[row.start : row.stop] = _prefill(row, keys, values, q_TND, k_TKD, v_TKD, options)
        return out_TND


def store(keys: Tensor, values: Tensor, slots_T: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> None:
    """Write each new token's key and value to its slot."""
    keys.flatten(0, 1).index_copy_(0, slots_T, k_TKD)
    values.flatten(0, 1).index_copy_(0, slots_T, v_TKD)


def _decode(group: DecodeGroup, keys: Tensor, values: Tensor, q_TND: Tensor, options: Options) -> Tensor:
    """All rows of the group in one call: query heads that share a key head stand where query tokens would."""
    q_GND = q_TND if group.tokens_G is None else q_TND.index_select(0, group.tokens_G)
    rows, heads, size = q_GND.shape
    k_GKLD, v_GKLD = (_gather(cache, group.pages_GP).transpose(1, 2) for cache in (keys, values))
    q_GKMD = q_GND.reshape(rows, k_GKLD.shape[1], -1, size)
    sinks = None if options.sinks_N is None else options.sinks_N.view(1, k_GKLD.shape[1], -1, 1)
    return _attend(q_GKMD, k_GKLD, v_GKLD, group.bias_G11L, sinks, options).reshape(rows, heads, -1)


def _prefill(
    row: PrefillRow, keys: Tensor, values: Tensor, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
) -> Tensor:
    """One row. Key heads take the batch dimension, so that sharing them among query heads copies nothing."""
    q_TND = q_TND[row.start : row.stop]
    tokens, heads, size = q_TND.shape
    if row.pages_P is None:
        k_LKD, v_LKD = k_TKD[row.start : row.stop], v_TKD[row.start : row.stop]
    else:
        k_LKD, v_LKD = (_gather(cache, row.pages_P[None])[0] for cache in (keys, values))
    kv_heads = k_LKD.shape[1]
    group = heads // kv_heads
    q_KGTD = q_TND.reshape(tokens, kv_heads, group, size).permute(1, 2, 0, 3)
    k_KGLD, v_KGLD = (x_LKD.transpose(0, 1)[:, None].expand(-1, group, -1, -1) for x_LKD in (k_LKD, v_LKD))
    sinks = None if options.sinks_N is None else options.sinks_N.view(kv_heads, group, 1, 1)
    bias_TL = row.bias_TL
    out_KGTD = _attend(q_KGTD, k_KGLD, v_KGLD, bias_TL, sinks, options)
    return out_KGTD.permute(2, 0, 1, 3).reshape(tokens, heads, -1)


def _gather(cache: Tensor, pages_GP: Tensor) -> Tensor:
    """Pages of each row, in order: [G, L, K, D]."""
    rows, pages = pages_GP.shape
    _, page_size, heads, size = cache.shape
    return cache.index_select(0, pages_GP.flatten()).view(rows, pages * page_size, heads, size)


def _attend(
    q_BHTD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, bias: Tensor | None, sinks: Tensor | None, options: Options
) -> Tensor:
    """`bias` None means plain causal attention, T = L. Soft-capping and sinks are what the fused kernels lack."""
    if options.softcap is None and sinks is None:
        return scaled_dot_product_attention(
            q_BHTD, k_BHLD, v_BHLD, attn_mask=bias, is_causal=bias is None, scale=options.scale
        )
    scores_BHTL = q_BHTD @ k_BHLD.transpose(2, 3) * options.scale
    if options.softcap is not None:
        scores_BHTL = torch.tanh(scores_BHTL / options.softcap) * options.softcap
    if bias is None:
        bias = torch.full(scores_BHTL.shape[2:], -torch.inf, dtype=scores_BHTL.dtype, device=scores_BHTL.device).triu(1)
    scores_BHTL = scores_BHTL + bias
    if sinks is not None:
        sink_BHT1 = sinks.to(scores_BHTL.dtype).expand(*scores_BHTL.shape[:3], 1)
        scores_BHTL = torch.cat([scores_BHTL, sink_BHT1], dim=-1)
    weights_BHTL = torch.softmax(scores_BHTL, dim=-1, dtype=torch.float32).to(v_BHLD.dtype)
    return weights_BHTL[..., : v_BHLD.shape[2]] @ v_BHLD
