"""From an assignment to layers in memory: manifest, weights, stage. Knows nothing of leases, nor of what is done there.

Weights come from the nearest place that has them: a stage that is still in memory, a copy of the model on this machine,
blobs of earlier loads, a head that is near, the hub that the head took them from, the head wherever it is. Whatever the
place, every tensor is checked against the manifest's digests, which the head vouches for.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
import torch
from huggingface_hub import is_offline_mode

from muster.cost.offload.booked import booked
from muster.errors import DoesNotFit, MachineTrouble, MusterError, ProtocolViolation, WeightsInvalid
from muster.link.base import Channel, Connection
from muster.model.blobs import BlobStore, Manifest, TensorEntry, matching_directory
from muster.model.conformance import check_conformance
from muster.model.load import load_stage
from muster.model.parallel.group import Seat
from muster.model.shape import shape_of, tensor_names, torch_dtype
from muster.model.stage import Stage
from muster.model.weights import Weights
from muster.node.fetch import Wanted, fetch_blobs
from muster.node.hub import HubUnusable, fetch_from_hub
from muster.node.memory import give_back
from muster.node.probes import greet
from muster.node.stage_cache import CachedStage, StageCache, StageKey
from muster.offload.promised import load_promised
from muster.offload.stage import DiskRoom
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device
from muster.wire.messages.placement import Assign, LoadProgress

log = structlog.get_logger()
REPORT_EVERY_S = 0.5
MAX_CHECKPOINT_SHARE = 4
"""A checkpoint's numbers take at most so many times the memory that they take here: float64 against half precision."""
NEAR_S = 0.010
"""A head with a shorter round trip is mostly on the same network, where it gives faster than the hub would."""
HUB_REST_S = 600.0
"""A hub that gave no weights is not asked again for so long."""
Report = Callable[[LoadProgress], None]
Result = TypeVar("Result")
Build = Callable[[Weights, ModelShape, torch.device], Result]
"""Runs in a thread."""


@dataclass(frozen=True, slots=True)
class Wish(Generic[Result]):
    """What a kind of work makes of a stage. `needed_bytes` and `assemble` are told the shape of the whole model."""

    assign: Assign
    needed_bytes: Callable[[ModelShape], int]
    """Of the weights and everything beside them."""
    host_bytes: Callable[[ModelShape], int]
    """Of cache that waits in host memory."""
    assemble: Callable[[Stage, ModelShape], Result]
    """Runs in a thread."""
    rank: int = 0
    """Which member of the stage this machine is."""


@dataclass(slots=True)
class _Use:
    """What one epoch holds."""

    key: StageKey | None
    """None: its kind of work keeps the weights itself, and nothing is left of them afterwards."""
    nbytes: int
    """Weights, and what its kind of work has beside them."""
    host_bytes: int


@dataclass(frozen=True, slots=True)
class _Head:
    bulk: Channel
    peer: str


class StageLoader:
    def __init__(self, cache_dir: Path, device: torch.device, lent: Device, disk_dir: Path | None = None) -> None:
        """`lent` says how much memory, and how much of the disk that has `disk_dir`."""
        self._disk = DiskRoom(disk_dir or cache_dir / "offload", lent.disk_bytes)
        self._store = BlobStore(cache_dir / "blobs")
        self._device = device
        self._memory_cap_bytes, self._host_cap_bytes = lent.memory_bytes, lent.host_memory_bytes
        self._cache = StageCache()
        self._uses: dict[int, list[_Use]] = {}
        self._building: asyncio.Future[Stage] | None = None
        self._hub_rests_until_s = -inf

    async def load(self, wish: Wish[Result], head: Connection, report: Report) -> Result:
        """Until `release` of its epoch. A stage that is still in memory is not read again.

        Raises `MusterError`: the weights cannot be had, do not fit, or the architecture does not come out right.
        """
        assign, mine = wish.assign, wish.assign.mine
        key = StageKey(assign.manifest, mine.first, mine.last, assign.dtype, wish.rank, mine.degree, assign.few_bits)
        if mine.memory.offloads:
            key = replace(key, memory=mine.memory, work=assign.pipeline.serve)
        cached = self._cache.take(key) or await self._fresh(wish, key, head, report)
        try:
            needed = self._check_fits(wish, cached.shape)
            self._make_room(needed)
            use = _Use(key, needed, wish.host_bytes(cached.shape))
            self._uses.setdefault(assign.epoch, []).append(use)
        except BaseException:
            self._cache.give_back(key, time.monotonic())
            raise
        try:
            work = await asyncio.to_thread(_assemble, wish, cached)
        except BaseException:
            self._uses[assign.epoch].remove(use)
            self._cache.give_back(key, time.monotonic())
            raise
        # The last word before neighbours are dialled: whoever waits for our weights may now make way for us.
        nbytes = cached.shape.weight_bytes(mine.first, mine.last)
        report(LoadProgress(epoch=assign.epoch, done_bytes=nbytes, total_bytes=nbytes))
        return work

    async def load_weights(self, wish: Wish[Any], build: Build[Result], head: Connection, report: Report) -> Result:
        """Likewise what `build` makes of the weights themselves, instead of a stage that serves."""
        assign, mine = wish.assign, wish.assign.mine
        weights, shape, at_once_bytes = await self._bring(wish, mine.first, mine.last, head, report)
        while self._building is not None:  # two at once might not fit
            await asyncio.wait([self._building])
        needed = self._check_fits(wish, shape, at_once_bytes)
        self._make_room(needed)
        use = _Use(None, needed, 0)
        self._uses.setdefault(assign.epoch, []).append(use)
        try:
            work = await asyncio.to_thread(_built, build, weights, shape, self._device)
        except BaseException:
            self._uses[assign.epoch].remove(use)
            raise
        nbytes = shape.weight_bytes(mine.first, mine.last)
        report(LoadProgress(epoch=assign.epoch, done_bytes=nbytes, total_bytes=nbytes))
        return work

    def release(self, epoch: int) -> None:
        """What was loaded for this epoch runs no more. A stage that served stays in memory for a while."""
        for use in self._uses.pop(epoch, ()):
            if use.key is not None:
                self._cache.give_back(use.key, time.monotonic())

    def vocabulary(self, digest: str) -> bytes:
        """What came with the last layers of the model whose manifest this is. Blocks. Raises `MusterError`."""
        try:
            words = Manifest.from_bytes(self._store.read(digest)).vocabulary
            data = self._store.read(words.digest) if words is not None else b""
        except OSError as error:
            raise MachineTrouble(f"A file is gone from {self._store.root} ({error.strerror})") from error
        return data

    def tidy(self) -> None:
        """Free what was idle for too long; called now and then."""
        self._cache.tidy(time.monotonic())

    @property
    def used_bytes(self) -> int:
        """Of memory that is lent: what works here, and what is kept in case that it is wanted again."""
        return self._held_bytes + self._cache.idle_bytes

    @property
    def idle_bytes(self) -> int:
        """Memory that is taken and would be freed for the next load."""
        return self._cache.idle_bytes

    @property
    def _held_bytes(self) -> int:
        return sum(use.nbytes for uses in self._uses.values() for use in uses)

    def _make_room(self, needed: int) -> None:
        self._cache.make_room(max(0, self._memory_cap_bytes - self._held_bytes - needed))

    async def _fresh(self, wish: Wish[Any], key: StageKey, head: Connection, report: Report) -> CachedStage:
        """A stage from its weights, in use from now on."""
        weights, shape, at_once_bytes = await self._bring(wish, key.first, key.last, head, report)
        needed = self._check_fits(wish, shape, at_once_bytes)
        while self._building is not None:  # two at once might not fit; and it may be the very one that we want
            await asyncio.wait([self._building])
        cached = self._cache.take(key)
        if cached is None:
            self._make_room(needed)
            await self._build(key, weights, shape)
            cached = self._cache.take(key)
        assert cached is not None, "what was just built is in the cache"
        return cached

    async def _bring(
        self, wish: Wish[Any], first: int, last: int, head: Connection, report: Report
    ) -> tuple[Weights, ModelShape, int]:
        """Weights of layers [first, last) on this machine's disk, the model's shape, and `_at_once_bytes`."""
        assign = wish.assign
        bulk = await head.open("bulk")
        try:
            manifest = await self._manifest(assign.manifest, bulk)
            shape = await asyncio.to_thread(shape_of, manifest.config_json, assign.model, assign.dtype, assign.few_bits)
            self._check_fits(wish, shape)
            await asyncio.to_thread(check_conformance, manifest.config_json, assign.mine.degree)
            weights: Weights = self._store.open(manifest)
            names = await asyncio.to_thread(tensor_names, weights, first, last)
            local = await asyncio.to_thread(matching_directory, assign.model, manifest, names)
            if local is None:
                await self._fetch(assign, manifest, names, _Head(bulk, head.peer), report)
            at_once_bytes = _at_once_bytes(manifest, names, shape)
            self._check_fits(wish, shape, at_once_bytes)
            if last == shape.num_layers and (words := manifest.vocabulary) is not None:
                await fetch_blobs(bulk, self._store, [Wanted(words.digest, words.nbytes)])
        finally:
            await bulk.close()
        return local or weights, shape, at_once_bytes

    async def _build(self, key: StageKey, weights: Weights, shape: ModelShape) -> None:
        """Put the stage into the cache, even if whoever wants it gives up meanwhile: a thread cannot be stopped."""
        building = asyncio.ensure_future(asyncio.to_thread(_read_stage, key, weights, shape, self._device, self._disk))
        self._building = building

        def built(done: "asyncio.Future[Stage]") -> None:
            self._building = None
            if not done.cancelled() and done.exception() is None:
                self._cache.put(key, done.result(), shape, time.monotonic())

        building.add_done_callback(built)
        await asyncio.shield(building)

    async def _manifest(self, digest: str, bulk: Channel) -> Manifest:
        await fetch_blobs(bulk, self._store, [Wanted(digest, None)])
        return Manifest.from_bytes(await asyncio.to_thread(self._store.read, digest))

    def _check_fits(self, wish: Wish[Any], shape: ModelShape, at_once_bytes: int = 0) -> int:
        """The bytes that the stage takes. The head's arithmetic, done again: a cap is a promise to this owner.

        While weights are read there is neither cache nor workspace, but `at_once_bytes` of one tensor twice.
        """
        mine, num_layers = wish.assign.mine, wish.assign.stages[-1].last
        if shape.num_layers != num_layers:
            raise WeightsInvalid(
                f"The placement covers {num_layers} layers but the model has {shape.num_layers}; "
                "restart `muster serve`."
            )
        weights = -(-shape.weight_bytes(mine.first, mine.last) // mine.degree)
        needed = wish.needed_bytes(shape)
        if mine.memory.offloads:
            self._check_disk(wish.assign, shape)
        else:
            needed = max(needed, weights + at_once_bytes)
        held = self._held_bytes
        if held + needed > self._memory_cap_bytes:
            beside = f" beside {held / 1e6:.0f} MB of another placement" if held else ""
            raise DoesNotFit(
                f"Layers {mine.first}–{mine.last - 1} need {needed / 1e6:.0f} MB here{beside}, and this machine lends "
                f"{self._memory_cap_bytes / 1e6:.0f} MB; raise --memory or let the head place fewer layers here."
            )
        host = wish.host_bytes(shape)
        if host + sum(use.host_bytes for uses in self._uses.values() for use in uses) > self._host_cap_bytes:
            raise DoesNotFit(
                f"The cache of layers {mine.first}–{mine.last - 1} needs {host / 1e6:.0f} MB of host memory, and this "
                f"machine lends {self._host_cap_bytes / 1e6:.0f} MB; raise --host-memory or let the head place less "
                "here."
            )
        return needed

    def _check_disk(self, assign: Assign, shape: ModelShape) -> None:
        mine, work = assign.mine, assign.pipeline.serve
        booked(shape, mine.first, mine.last, mine.memory, work)
        cache = work.cache_tokens * shape.cache_bytes_per_token(mine.first, mine.last)
        if cache > self._disk.nbytes:
            raise DoesNotFit(
                f"The cache of layers {mine.first}–{mine.last - 1} may take {cache / 1e9:.3g} GB of disk, and this "
                f"machine lends {self._disk.nbytes / 1e9:.3g} GB; raise --disk, or let the head place less here."
            )

    async def _fetch(self, assign: Assign, manifest: Manifest, names: list[str], head: _Head, report: Report) -> None:
        wanted = set(names)
        entries = [entry for entry in manifest.tensors if entry.name in wanted]
        missing = {entry.digest: entry for entry in entries if not self._store.has(entry.digest)}
        total = sum(entry.nbytes for entry in missing.values())
        if total > MAX_CHECKPOINT_SHARE * (self._memory_cap_bytes + self._disk.nbytes):
            raise ProtocolViolation(
                f"The head's manifest holds {total / 1e9:.0f} GB for a stage that fits in memory; it contradicts the "
                "model's config.json."
            )
        done, reported_at = 0, 0.0

        def progress(more: int) -> None:
            nonlocal done, reported_at
            done += more
            if time.monotonic() - reported_at > REPORT_EVERY_S:
                reported_at = time.monotonic()
                report(LoadProgress(epoch=assign.epoch, done_bytes=done, total_bytes=total))

        if missing and await self._hub_is_nearer(manifest, head):
            await self._fetch_from_hub(manifest, list(missing.values()), progress)
        rest = [Wanted(entry.digest, entry.nbytes) for entry in missing.values()]
        await fetch_blobs(head.bulk, self._store, rest, progress)

    async def _hub_is_nearer(self, manifest: Manifest, head: _Head) -> bool:
        if not manifest.revision or is_offline_mode() or time.monotonic() < self._hub_rests_until_s:
            return False
        return await greet(head.bulk, head.peer) > NEAR_S

    async def _fetch_from_hub(
        self, manifest: Manifest, missing: list[TensorEntry], progress: Callable[[int], None]
    ) -> None:
        try:
            await fetch_from_hub(manifest, missing, self._store, progress)
        except HubUnusable as error:
            self._hub_rests_until_s = time.monotonic() + HUB_REST_S
            log.warning("hub.unused", model=manifest.model, reason=f"{error}; the head gives what is missing")


def _at_once_bytes(manifest: Manifest, names: Sequence[str], shape: ModelShape) -> int:
    """Of the largest part that is in memory twice while it is read: as stored and as served, or plain and packed."""
    wanted = set(names)
    largest = max((entry.nbytes for entry in manifest.tensors if entry.name in wanted), default=0)
    return max(largest, *shape.expert_bytes) if shape.expert_bytes else largest


def _read_stage(key: StageKey, weights: Weights, shape: ModelShape, device: torch.device, disk: DiskRoom) -> Stage:
    with memory_trouble():
        if key.work is not None:
            return load_promised(weights, shape, (key.first, key.last), device, key.memory, key.work, disk)
        seat = Seat(key.rank, key.degree) if key.degree > 1 else None
        stage = load_stage(weights, key.first, key.last, torch_dtype(key.dtype), device, seat, key.few_bits)
    give_back()
    return stage


def _assemble(wish: Wish[Result], cached: CachedStage) -> Result:
    with memory_trouble():
        return wish.assemble(cached.stage, cached.shape)


def _built(build: Build[Result], weights: Weights, shape: ModelShape, device: torch.device) -> Result:
    with memory_trouble():
        return build(weights, shape, device)


@contextmanager
def memory_trouble() -> Iterator[None]:
    """A lack of memory as a `MusterError`."""
    try:
        yield
    except MusterError:
        raise
    except (RuntimeError, MemoryError) as error:  # torch raises RuntimeError for CPU memory, its subclass on CUDA
        raise DoesNotFit(f"Loading the stage failed ({error}); lend less with --memory.") from error
