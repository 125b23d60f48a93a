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
from muster.model.layout import DecodeRows, Layout

ATTENTION_NAME = "muster_paged"
CPU_GROUP_BYTES = 2 * 2**20
"""Keys and values of one padded decode call, so that they are still in the processor's cache when they are used."""
DEVICE_GROUP_BYTES = 256 * 2**20
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
    """The reference: PyTorch's scaled dot-product attention, on any device.

    Keys and values are first gathered into scratch memory that is kept: fresh memory for each layer would cost more in
    page faults than the attention itself.
    """

    def __init__(self) -> None:
        self._scratch: dict[str, Tensor] = {}

    def prepare(self, batch: Batch, cache: KVCache, dtype: torch.dtype) -> PreparedPages:
        group_bytes = CPU_GROUP_BYTES if batch.positions_T.device.type == "cpu" else DEVICE_GROUP_BYTES
        keys_per_group = max(1, group_bytes // max(1, cache.largest_token_bytes))
        return PreparedPages(batch, cache, Layout(batch, cache.page_size, dtype, keys_per_group))

    def attend(
        self, prepared: PreparedPages, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        keys, values = prepared.cache.layer(layer)
        self._store(keys, values, prepared.batch.slots_T, k_TKD, v_TKD)
        out_TND = q_TND.new_empty(*q_TND.shape[:2], v_TKD.shape[2])
        rows = prepared.layout.decode_rows(options.window)
        self._decode(rows, (keys, k_TKD.shape[2]), (values, v_TKD.shape[2]), q_TND, out_TND, options)
        for row in prepared.layout.prefill_rows(options.window):
            new = slice(row.start, row.stop)
            k_LKD, v_LKD = k_TKD[new], v_TKD[new]
            if row.pages_P is not None:
                k_LKD = self._gather("k", keys, row.pages_P, k_TKD.shape[2], q_TND.dtype)
                v_LKD = self._gather("v", values, row.pages_P, v_TKD.shape[2], q_TND.dtype)
            out_TND[new] = attend_prompt(q_TND[new], k_LKD, v_LKD, row.bias_TL, options)
        return out_TND

    def _store(self, keys: Tensor, values: Tensor, slots_T: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> None:
        store(keys, values, slots_T, k_TKD, v_TKD)

    def _decode(
        self,
        rows: DecodeRows,
        keys: tuple[Tensor, int],
        values: tuple[Tensor, int],
        q_TND: Tensor,
        out_TND: Tensor,
        options: Options,
    ) -> None:
        """`keys` and `values` are pages, each with the size of what is in them."""
        if not rows.groups:
            return
        q_DND = q_TND if rows.tokens_D is None else q_TND.index_select(0, rows.tokens_D)
        out_DND = out_TND if rows.tokens_D is None else out_TND.new_empty(len(q_DND), *out_TND.shape[1:])
        for group in rows.groups:
            k_LKD = self._gather("k", keys[0], group.pages, keys[1], q_TND.dtype)
            v_LKD = self._gather("v", values[0], group.pages, values[1], q_TND.dtype)
            members = slice(group.start, group.stop)
            out_DND[members] = attend_decodes(q_DND[members], k_LKD, v_LKD, group.bias_G11L, options)
        if rows.tokens_D is not None:
            out_TND.index_copy_(0, rows.tokens_D, out_DND)

    def _gather(self, name: str, cache: Tensor, pages: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        """The pages one after another, [pages * page size, K, D], valid until the next call with this name."""
        needed = len(pages) * cache[0].numel()
        held = self._scratch.get(name)
        if held is None or held.numel() < needed:
            held = self._scratch[name] = cache.new_empty(needed)
        gathered = held[:needed].view(len(pages), -1)
        torch.index_select(cache.flatten(1), 0, pages, out=gathered)
        return gathered.view(-1, *cache.shape[2:])


def store(keys: Tensor, values: Tensor, slots_T: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> None:
    """Write each new token's key and value to its slot."""
    # A page outlives its request, and masking does not contain NaN (0 · NaN): one that got in would spread to others.
    keys.flatten(0, 1).index_copy_(0, slots_T, k_TKD.nan_to_num())
    values.flatten(0, 1).index_copy_(0, slots_T, v_TKD.nan_to_num())


def attend_decodes(q_GND: Tensor, k_LKD: Tensor, v_LKD: Tensor, bias_G11L: Tensor, options: Options) -> Tensor:
    """All rows of a group in one call: query heads that share a key head stand where query tokens would."""
    rows, heads, size = q_GND.shape
    kv_heads = k_LKD.shape[1]
    k_GKLD, v_GKLD = (x_LKD.view(rows, -1, *x_LKD.shape[1:]).transpose(1, 2) for x_LKD in (k_LKD, v_LKD))
    q_GKMD = q_GND.reshape(rows, kv_heads, heads // kv_heads, size)
    sinks = None if options.sinks_N is None else options.sinks_N.view(1, kv_heads, -1, 1)
    return _attend(q_GKMD, k_GKLD, v_GKLD, bias_G11L, sinks, options).reshape(rows, heads, -1)


def attend_prompt(q_TND: Tensor, k_LKD: Tensor, v_LKD: Tensor, bias_TL: Tensor | None, options: Options) -> Tensor:
    """One row. Key heads take the batch dimension, so that sharing them among query heads copies nothing."""
    tokens, heads, size = q_TND.shape
    kv_heads = k_LKD.shape[1]
    group = heads // kv_heads
    q_KGTD = q_TND.reshape(tokens, kv_heads, group, size).permute(1, 2, 0, 3)
    k_KGLD, v_KGLD = (x_LKD.transpose(0, 1)[:, None].expand(-1, group, -1, -1) for x_LKD in (k_LKD, v_LKD))
    sinks = None if options.sinks_N is None else options.sinks_N.view(kv_heads, group, 1, 1)
    out_KGTD = _attend(q_KGTD, k_KGLD, v_KGLD, bias_TL, sinks, options)
    return out_KGTD.permute(2, 0, 1, 3).reshape(tokens, heads, -1)


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
