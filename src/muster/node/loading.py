"""From an assignment to a stage that can run: manifest, weights, pages, engine. Knows nothing of leases.

Weights come from the nearest place that has them: a copy of the model on this machine, blobs of earlier loads, the
head. Whatever the place, every tensor is checked against the manifest's digests, which the head vouches for.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import torch

from muster.cost.memory import WorkspaceOptions, stage_bytes
from muster.errors import DoesNotFit, MusterError, ProtocolViolation, WeightsInvalid
from muster.link.base import Channel, Connection
from muster.model.blobs import BlobStore, Manifest, matching_directory
from muster.model.conformance import check_conformance
from muster.model.load import load_stage
from muster.model.shape import shape_of, tensor_names, torch_dtype
from muster.model.weights import Weights
from muster.node.fetch import Wanted, fetch_blobs
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.options import EngineOptions
from muster.spec.model_shape import ModelShape
from muster.wire.messages import Assign, LoadProgress

log = structlog.get_logger()
REPORT_EVERY_S = 0.5
CHECKPOINT_SHARE = 4
"""A checkpoint's numbers take at most so many times the memory that they take here: float64 against half precision."""
Report = Callable[[LoadProgress], None]
AnyEngine = Engine[Any] | Follower[Any]


class StageLoader:
    def __init__(self, cache_dir: Path, device: torch.device, memory_cap_bytes: int) -> None:
        self._store = BlobStore(cache_dir / "blobs")
        self._device = device
        self._memory_cap_bytes = memory_cap_bytes

    async def load(self, assign: Assign, head: Connection, report: Report) -> AnyEngine:
        """Raises `MusterError`: the weights cannot be had, do not fit, or the architecture does not come out right."""
        bulk = await head.open("bulk")
        try:
            manifest = await self._manifest(assign.manifest, bulk)
            mine = assign.stages[assign.index]
            shape = await asyncio.to_thread(shape_of, manifest.config_json, assign.model, assign.dtype)
            self._check_fits(assign, shape)
            await asyncio.to_thread(check_conformance, manifest.config_json)
            weights = self._store.open(manifest)
            names = await asyncio.to_thread(tensor_names, weights, mine.first, mine.last)
            local = await asyncio.to_thread(matching_directory, assign.model, manifest, names)
            if local is None:
                await self._fetch(assign, manifest, names, bulk, report)
        finally:
            await bulk.close()
        work = await asyncio.to_thread(self._build, assign, local or weights, shape)
        # The last word before the ring is closed: whoever waits for our weights to arrive may now make way for us.
        nbytes = shape.weight_bytes(mine.first, mine.last)
        report(LoadProgress(epoch=assign.epoch, done_bytes=nbytes, total_bytes=nbytes))
        return work

    async def _manifest(self, digest: str, bulk: Channel) -> Manifest:
        await fetch_blobs(bulk, self._store, [Wanted(digest, None)])
        return Manifest.from_bytes(await asyncio.to_thread(self._store.read, digest))

    def _check_fits(self, assign: Assign, shape: ModelShape) -> None:
        """The head's arithmetic, done again: a cap is a promise to the owner of this machine."""
        mine = assign.stages[assign.index]
        if shape.num_layers != assign.stages[-1].last:
            raise WeightsInvalid(
                f"The placement covers {assign.stages[-1].last} layers but the model has {shape.num_layers}; "
                "restart `muster serve`."
            )
        tokens = assign.num_pages * assign.page_size
        workspace = WorkspaceOptions(prefill_tokens=assign.prefill_tokens)
        needed = stage_bytes(shape, mine.first, mine.last, tokens, workspace)
        if needed > self._memory_cap_bytes:
            raise DoesNotFit(
                f"Layers {mine.first}–{mine.last - 1} need {needed / 1e6:.0f} MB here, and this machine lends "
                f"{self._memory_cap_bytes / 1e6:.0f} MB; raise --memory or let the head place fewer layers here."
            )

    async def _fetch(self, assign: Assign, manifest: Manifest, names: list[str], bulk: Channel, report: Report) -> None:
        wanted = set(names)
        entries = [entry for entry in manifest.tensors if entry.name in wanted]
        missing = {entry.digest: entry.nbytes for entry in entries if not self._store.has(entry.digest)}
        total = sum(missing.values())
        if total > CHECKPOINT_SHARE * self._memory_cap_bytes:
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

        await fetch_blobs(bulk, self._store, [Wanted(d, nbytes) for d, nbytes in missing.items()], progress)

    def _build(self, assign: Assign, weights: Weights, shape: ModelShape) -> AnyEngine:
        mine = assign.stages[assign.index]
        try:
            stage = load_stage(weights, mine.first, mine.last, torch_dtype(assign.dtype), self._device)
            cache = stage.new_cache(assign.num_pages, assign.page_size)
        except MusterError:
            raise
        except (RuntimeError, MemoryError) as error:  # torch raises RuntimeError for CPU memory, its subclass on CUDA
            raise DoesNotFit(f"Loading the stage failed ({error}); lend less with --memory.") from error
        if assign.index > 0:
            return Follower(stage, cache, assign.epoch, assign.prefill_tokens)
        options = EngineOptions(
            max_context=min(shape.max_context, assign.num_pages * assign.page_size),
            eos_token_ids=frozenset(assign.eos_token_ids),
            epoch=assign.epoch,
            num_microbatches=assign.num_microbatches,
            prefill_tokens=assign.prefill_tokens,
        )
        return Engine(stage, cache, options=options)
