"""From an assignment to a stage that can run: manifest, weights, pages, engine. Knows nothing of leases or channels' use.

Weights come from the nearest place that has them: a directory or hub cache on this machine whose tensors match the
manifest, the blob store of earlier loads, the head.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import torch

from muster.link.base import Connection
from muster.model.blobs import BlobStore, Manifest
from muster.model.conformance import check_conformance
from muster.node.fetch import Wanted, fetch_blobs
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.wire.messages import Assign, LoadProgress

Say = Callable[[LoadProgress], None]
REPORT_EVERY_S = 0.5


class StageLoader:
    """One at a time would waste the link; several epochs may load side by side, each in its own task."""

    def __init__(self, cache_dir: Path, device: torch.device, memory_cap_bytes: int) -> None:
        self._store = BlobStore(cache_dir / "blobs")
        self._device = device
        self._memory_cap_bytes = memory_cap_bytes

    async def load(self, assign: Assign, head: Connection, say: Say) -> Engine | Follower:
        """Raises `MusterError`: the weights cannot be had, do not fit, or the architecture does not come out right."""
        bulk = await head.open("bulk")
        try:
            await fetch_blobs(bulk, self._store, [Wanted(assign.manifest, None)])
            manifest = Manifest.from_bytes(await asyncio.to_thread(self._store.read, assign.manifest))
            await asyncio.to_thread(check_conformance, manifest.config_json)
            self._check_memory(assign, manifest)
            weights = await self._weights(assign, manifest, bulk, say)
        finally:
            await bulk.close()
        return await asyncio.to_thread(self._build, assign, manifest, weights)
