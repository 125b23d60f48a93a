"""The fast path on NVIDIA GPUs: FlashInfer's kernels read the pages where they lie. Needs the extra `cuda`.

One kernel serves prefill chunks and single tokens in the same call. What it does not do (sinks, unusual head sizes,
float32) goes to the reference, layer by layer. `choose_backend` trusts it only after it has agreed with the reference
on this very machine, because a kernel may be missing for a GPU, or may not compile there.

Not yet run on a GPU by its authors; the indices that it is given are tested against a stand-in.
"""

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import structlog
import torch
from torch import Tensor

from muster.model.attention import Backend, Options, PreparedPages, SdpaBackend, store
from muster.model.batch import Batch
from muster.model.cache import HeadSizes, KVCache
from muster.model.quantized.attention import FewBitsBackend

WORKSPACE_BYTES = 128 * 2**20
SERVED_SIZES = (64, 128, 256)
SERVED_DTYPES = (torch.float16, torch.bfloat16)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Layers that agree in this share one plan per step."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    window: int | None
    softcap: float | None


@dataclass
class PreparedPlans:
    pages: PreparedPages
    qo_indptr: Tensor
    """First query token of each row, and the end; on the CPU, as planning happens there."""
    kv_indptr: Tensor
    """First entry of each row in `kv_pages`, and the end; on the CPU."""
    kv_pages: Tensor
    """Pages of all rows, one after another; on the device."""
    last_page_lengths: Tensor
    """How many tokens the last page of each row holds; on the CPU."""
    dtype: torch.dtype
    planned: set[PlanKey] = field(default_factory=set)


class FlashInferBackend:
    def __init__(self, device: torch.device) -> None:
        self._wrapper_class = import_module("flashinfer").BatchPrefillWithPagedKVCacheWrapper
        self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._wrappers: dict[PlanKey, Any] = {}
        self._reference = SdpaBackend()

    def prepare(self, batch: Batch, cache: KVCache, dtype: torch.dtype) -> PreparedPlans:
        pages = [-(-length // cache.page_size) for length in batch.context_lengths]
        last = [
            length - (count - 1) * cache.page_size for length, count in zip(batch.context_lengths, pages, strict=True)
        ]
        counts = torch.tensor(pages)
        row_of_entry = torch.repeat_interleave(torch.arange(len(pages)), counts)
        column_of_entry = torch.cat([torch.arange(count) for count in pages])
        flat = row_of_entry * batch.page_tables_RP.shape[1] + column_of_entry
        return PreparedPlans(
            pages=self._reference.prepare(batch, cache, dtype),
            qo_indptr=torch.tensor([0, *accumulate(batch.query_lengths)], dtype=torch.int32),
            kv_indptr=torch.tensor([0, *accumulate(pages)], dtype=torch.int32),
            kv_pages=batch.page_tables_RP.flatten().index_select(0, flat.to(batch.page_tables_RP.device)).int(),
            last_page_lengths=torch.tensor(last, dtype=torch.int32),
            dtype=dtype,
        )

    def attend(
        self, prepared: PreparedPlans, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        if not serves(q_TND, v_TKD, options):
            return self._reference.attend(prepared.pages, layer, q_TND, k_TKD, v_TKD, options)
        keys, values = prepared.pages.cache.layer(layer)
        store(keys, values, prepared.pages.batch.slots_T, k_TKD, v_TKD)
        key = PlanKey(q_TND.shape[1], k_TKD.shape[1], q_TND.shape[2], options.scale, options.window, options.softcap)
        out_TND: Tensor = self._planned(key, prepared).run(q_TND.contiguous(), (keys, values))
        return out_TND

    def _planned(self, key: PlanKey, prepared: PreparedPlans) -> Any:
        """The wrapper for this kind of layer, planned for this step."""
        if key not in self._wrappers:
            self._wrappers[key] = self._wrapper_class(self._workspace, "NHD")
        wrapper = self._wrappers[key]
        if key not in prepared.planned:
            wrapper.plan(
                prepared.qo_indptr,
                prepared.kv_indptr,
                prepared.kv_pages,
                prepared.last_page_lengths,
                key.num_heads,
                key.num_kv_heads,
                key.head_size,
                prepared.pages.cache.page_size,
                causal=True,
                sm_scale=key.scale,
                window_left=key.window - 1 if key.window else -1,  # keys before the query's own
                logits_soft_cap=key.softcap or 0.0,
                q_data_type=prepared.dtype,
                kv_data_type=prepared.dtype,
            )
            prepared.planned.add(key)
        return wrapper


def serves(q_TND: Tensor, v_TKD: Tensor, options: Options) -> bool:
    """Whether the kernels know this kind of layer."""
    return (
        options.sinks_N is None
        and q_TND.dtype in SERVED_DTYPES
        and q_TND.shape[2] in SERVED_SIZES
        and q_TND.shape[2] == v_TKD.shape[2]
    )


def choose_backend(device: torch.device, dtype: torch.dtype, sizes: tuple[HeadSizes, ...], kept: str = "") -> Backend:
    """FlashInfer where it is installed, knows the layers and agrees with the reference; else the reference.

    `kept` is the format of KV pages in few bits, which only the reference reads.
    """
    if kept:
        return FewBitsBackend(kept)
    known = any(each.key_size == each.value_size and each.key_size in SERVED_SIZES for each in sizes)
    if device.type != "cuda" or dtype not in SERVED_DTYPES or not known:
        return SdpaBackend()
    if find_spec("flashinfer") is None:
        log.info("attention", backend="sdpa", hint="install the extra `cuda` for faster attention")
        return SdpaBackend()
    try:
        backend = FlashInferBackend(device)
        difference = max(difference_from_reference(backend, each, dtype, device) for each in set(sizes))
    except Exception as error:  # a kernel that does not compile here fails in as many ways as there are compilers
        log.warning("attention", backend="sdpa", reason=f"FlashInfer does not run here: {error}")
        return SdpaBackend()
    if not difference < 0.05:
        log.warning("attention", backend="sdpa", reason=f"FlashInfer is off by {difference:.2g} here")
        return SdpaBackend()
    log.info("attention", backend="flashinfer")
    return backend


def difference_from_reference(backend: Backend, sizes: HeadSizes, dtype: torch.dtype, device: torch.device) -> float:
    """Largest difference on one chunk beside one single token, on values of the order of one."""
    generator = torch.Generator().manual_seed(0)
    page_size, lengths, context = 16, (7, 1), (23, 40)
    tables_RP = torch.tensor([[4, 1, 0], [2, 5, 3]], dtype=torch.int32)
    positions = [torch.arange(end - new, end) for new, end in zip(lengths, context, strict=True)]
    slots = [
        row[at // page_size].long() * page_size + at % page_size for row, at in zip(tables_RP, positions, strict=True)
    ]
    batch = Batch(
        torch.cat(positions).to(device),
        torch.cat(slots).to(device),
        tables_RP.to(device),
        lengths,
        context,
        torch.zeros(0, dtype=torch.long, device=device),
    )

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)

    q_TND = random(sum(lengths), 2 * sizes.num_heads, sizes.key_size)
    k_TKD = random(sum(lengths), sizes.num_heads, sizes.key_size)
    v_TKD = random(sum(lengths), sizes.num_heads, sizes.value_size)
    old = [random(6, page_size, sizes.num_heads, size) for size in (sizes.key_size, sizes.value_size)]
    outputs = []
    for each in (backend, SdpaBackend()):
        cache = KVCache([sizes], 6, page_size, dtype, device)
        for tensor, content in zip(cache.layer(0), old, strict=True):
            tensor.copy_(content)
        prepared = each.prepare(batch, cache, dtype)
        outputs.append(each.attend(prepared, 0, q_TND, k_TKD, v_TKD, Options(sizes.key_size**-0.5)).float())
    return float((outputs[0] - outputs[1]).abs().max())
