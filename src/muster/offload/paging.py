"""Attention over pages that lie partly on disk: groups of rows come through a ring of memory, ahead of their turn.

    disk      group 1     group 2     group 0 of the next layer
    compute   group 0     group 1     group 2     rest of the layer

A record is read whole, gets the new token's key and value, is attended over, and is written back. The pieces of a step
are linked, so that what is read ahead goes on into the next piece, and from the last into the next layer. What an
earlier piece of the same layer writes (of a row that was cut) is not read ahead. Legend as in `model/batch`.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from muster.model.attention import Options, SdpaBackend, attend_decodes, attend_prompt, store
from muster.model.batch import Batch
from muster.model.cache import KVCache
from muster.model.layout import Layout
from muster.offload.direct import DirectRead, DirectReader
from muster.offload.fetches import Fetch, fetches_of
from muster.offload.pages import TieredCache
from muster.offload.staging import Staging, StagingRegion

GROUPS_AHEAD = 4
"""So many groups of rows fit into the ring at once."""


@dataclass(slots=True, eq=False)
class DiskStep:
    """One piece of a step, prepared."""

    batch: Batch
    cache: TieredCache
    layout: Layout
    fetches: dict[int | None, list[Fetch]] = field(default_factory=dict)
    """By window, in the order in which they are wanted."""
    earlier: "tuple[DiskStep, ...]" = ()
    following: "DiskStep | None" = None
    in_memory_T: Tensor | None = None
    """Tokens whose page lies in memory."""

    def fetches_for(self, window: int | None) -> list[Fetch]:
        if window not in self.fetches:
            before = [one for step in self.earlier for one in step.fetches_for(window)]
            self.fetches[window] = fetches_of(self.batch, self.cache, self.layout, window, before)
        return self.fetches[window]


@dataclass(frozen=True, slots=True)
class _Place:
    """One fetch of one layer."""

    step: DiskStep
    layer: int
    index: int


@dataclass(frozen=True, slots=True)
class _Coming:
    place: _Place
    region: StagingRegion | None
    reading: DirectRead | None


class PagedFromDisk(SdpaBackend):
    """Implements `Backend` over a `TieredCache`."""

    def __init__(self, reader: DirectReader, staging_bytes: int) -> None:
        super().__init__()
        self._reader = reader
        self._staging = Staging(staging_bytes)
        self._coming: deque[_Coming] = deque()
        self._windows: dict[int, int | None] = {}
        self._writes: list[Future[None]] = []
        self._first: DiskStep | None = None

    # --- a step -------------------------------------------------------------------------------------------------------

    def prepare(self, batch: Batch, cache: KVCache, dtype: torch.dtype) -> DiskStep:  # type: ignore[override]
        assert isinstance(cache, TieredCache), "this backend reads records"
        largest = max(record.nbytes for record in cache.records)
        keys = max(1, self._staging.nbytes // GROUPS_AHEAD * cache.page_size // largest)
        step = DiskStep(batch, cache, Layout(batch, cache.page_size, dtype, keys))
        if cache.in_memory:
            step.in_memory_T = (batch.slots_T < cache.in_memory * cache.page_size).nonzero()[:, 0]
        return step

    def link(self, steps: Sequence[DiskStep]) -> None:
        """These are the pieces of a new step, in order."""
        self._drain()
        self._first = steps[0]
        for index, step in enumerate(steps):
            step.earlier = tuple(steps[:index])
            step.following = steps[index + 1] if index + 1 < len(steps) else None

    def finish(self) -> None:
        """All layers are through. Raises `StepFailed` where something could not be written."""
        for write in self._writes:
            write.result()
        self._drain()

    def _drain(self) -> None:
        for one in self._coming:
            if one.reading is not None:
                one.reading.give_up()
        self._coming.clear()
        self._staging.clear()
        self._writes.clear()

    # --- a layer ------------------------------------------------------------------------------------------------------

    def attend(  # type: ignore[override]
        self, prepared: DiskStep, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        self._windows[layer] = options.window
        keys, values = prepared.cache.layer(layer)
        if (near_T := prepared.in_memory_T) is not None and len(near_T):
            store(keys, values, prepared.batch.slots_T[near_T], k_TKD[near_T], v_TKD[near_T])
        out_TND = q_TND.new_empty(*q_TND.shape[:2], v_TKD.shape[2])
        fetches = prepared.fetches_for(options.window)
        decodes = prepared.layout.decode_rows(options.window)
        for index, group in enumerate(decodes.groups):
            fetch = fetches[index]
            came = self._there(_Place(prepared, layer, index), fetch)
            k_LKD, v_LKD = self._bring(prepared.cache, layer, fetch, came, k_TKD, v_TKD)
            q_GND = q_TND.index_select(0, fetch.tokens)
            out_GND = attend_decodes(q_GND, k_LKD, v_LKD, group.bias_G11L, options)
            out_TND.index_copy_(0, fetch.tokens, out_GND)
        for index, row in enumerate(prepared.layout.prefill_rows(options.window), len(decodes.groups)):
            fetch = fetches[index]
            came = self._there(_Place(prepared, layer, index), fetch)
            new = slice(row.start, row.stop)
            k_LKD, v_LKD = self._bring(prepared.cache, layer, fetch, came, k_TKD, v_TKD)
            if row.pages_P is None:
                k_LKD, v_LKD = k_TKD[new], v_TKD[new]
            out_TND[new] = attend_prompt(q_TND[new], k_LKD, v_LKD, row.bias_TL, options)
        return out_TND

    def _bring(
        self, cache: TieredCache, layer: int, fetch: Fetch, came: StagingRegion | None, k_TKD: Tensor, v_TKD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all pages of the fetch, one after another; the new ones are stored on the way."""
        keys, values = cache.layer(layer)
        if came is None and len(fetch.named):
            return self._gathered("k", keys, fetch.named), self._gathered("v", values, fetch.named)
        if came is None:
            return k_TKD[:0], v_TKD[:0]
        near = cache.records[layer]
        k_RSKD, v_RSKD = near.views(came.memory)
        k_RSKD[fetch.record_of_new, fetch.offset_of_new] = k_TKD[fetch.new_tokens].nan_to_num()
        v_RSKD[fetch.record_of_new, fetch.offset_of_new] = v_TKD[fetch.new_tokens].nan_to_num()
        gathered = k_TKD[:0], v_TKD[:0]
        if len(fetch.named):
            gathered = self._gather_tiers("k", keys, k_RSKD, fetch), self._gather_tiers("v", values, v_RSKD, fetch)
        size = near.nbytes
        for first, last in fetch.written_runs:
            start = cache.disk.place(layer, int(fetch.pages[first]))
            write = self._reader.beside(cache.disk.write, start, came.memory[first * size : last * size])
            came.writes.append(write)
            self._writes.append(write)
        came.released = True
        return gathered

    def _gathered(self, name: str, pages: Tensor, chosen: Tensor) -> Tensor:
        """[pages * page size, K, D], valid until the next call with this name."""
        needed = len(chosen) * pages[0].numel()
        held = self._scratch.get(name)
        if held is None or held.numel() < needed:
            held = self._scratch[name] = pages.new_empty(needed)
        gathered = held[:needed].view(len(chosen), -1)
        rows, step = _as_rows(pages)
        torch.index_select(rows, 0, chosen * step, out=gathered)
        return gathered.view(-1, *pages.shape[2:])

    def _gather_tiers(self, name: str, near: Tensor, far: Tensor, fetch: Fetch) -> Tensor:
        """[pages * page size, K, D] of pages in memory and of records, in the order in which they are named."""
        if fetch.is_far:
            return self._gathered(name, far, fetch.record_of)
        shape = (len(fetch.named), *far.shape[1:])
        gathered = far.new_empty(shape)
        gathered[fetch.far_at] = far[fetch.record_of]
        gathered[fetch.near_at] = near[fetch.named[fetch.near_at]]
        return gathered.flatten(0, 1)

    # --- reading ahead ------------------------------------------------------------------------------------------------

    def _there(self, place: _Place, fetch: Fetch) -> StagingRegion | None:
        """The records of a fetch, read; None where all of its pages lie in memory. Raises `StepFailed`."""
        if self._coming and self._coming[0].place == place:
            one = self._coming.popleft()
        else:
            self._put_off()
            if fetch.alone:
                for write in self._writes:
                    write.result()
            region = self._staging.take(self._bytes(place, fetch)) if len(fetch.pages) else None
            one = self._begin(place, fetch, region)
        self._look_ahead(place)
        if one.reading is not None:
            one.reading.wait()
        return one.region

    def _put_off(self) -> None:
        """What was read ahead is not what is wanted."""
        for one in self._coming:
            if one.reading is not None:
                one.reading.give_up()
            if one.region is not None:
                one.region.released = True
        self._coming.clear()

    def _look_ahead(self, place: _Place) -> None:
        last: _Place | None = self._coming[-1].place if self._coming else place
        while last is not None and (last := self._after(last)) is not None:
            fetch = last.step.fetches_for(self._windows[last.layer])[last.index]
            if fetch.alone:
                return
            region = self._staging.try_take(self._bytes(last, fetch)) if len(fetch.pages) else None
            if region is None and len(fetch.pages):
                return
            self._coming.append(self._begin(last, fetch, region))

    def _after(self, place: _Place) -> _Place | None:
        """What is wanted after that, as far as it is known."""
        step, layer = place.step, place.layer
        if place.index + 1 < len(step.fetches_for(self._windows[layer])):
            return _Place(step, layer, place.index + 1)
        following = step.following
        if following is None:
            following, layer = self._first, layer + 1
        if following is None or layer >= len(step.cache.records) or layer not in self._windows:
            return None
        return _Place(following, layer, 0) if following.fetches_for(self._windows[layer]) else None

    def _begin(self, place: _Place, fetch: Fetch, region: StagingRegion | None) -> _Coming:
        if region is None or not fetch.read_runs:
            return _Coming(place, region, None)
        cache, size = place.step.cache, self._bytes(place, fetch) // len(fetch.pages)
        pieces = [
            (
                cache.disk.file,
                cache.disk.place(place.layer, int(fetch.pages[first])),
                (last - first) * size,
                region.memory[first * size : last * size],
            )
            for first, last in fetch.read_runs
        ]
        return _Coming(place, region, self._reader.read_beside(pieces))

    @staticmethod
    def _bytes(place: _Place, fetch: Fetch) -> int:
        return len(fetch.pages) * place.step.cache.records[place.layer].nbytes


def _as_rows(pages: Tensor) -> tuple[Tensor, int]:
    """Rows of which every so many-th is a page: `index_select` is a hundred times slower where rows have gaps."""
    size, stride = pages[0].numel(), pages.stride(0)
    if pages.is_contiguous() or stride % size:
        return pages.contiguous().flatten(1), 1
    step = stride // size
    count = (len(pages) - 1) * step + 1
    return pages.as_strided((count, size), (size, 1)), step
