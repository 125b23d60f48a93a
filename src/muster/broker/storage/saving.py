"""Records on their way to the store, in order, and what is known of nodes that were here. Knows nothing of the pool.

Of each node only the latest is written, so that one that joins again and again does not keep the disk busy.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from muster.broker.events import NodeForgotten, NodeSeen, Save
from muster.broker.storage.store import Store
from muster.errors import MusterError
from muster.spec.pool import NodeId

log = structlog.get_logger()


class Saving:
    def __init__(self, store: Store, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self.past: dict[NodeId, dict[str, Any]] = {}
        """What is known of every node that was ever here."""
        self.trouble = ""
        """Why the last record could not be written."""
        self._store = store
        self._unsaved: asyncio.Queue[Save | None] = asyncio.Queue()
        """None: nothing comes any more."""
        self._unsaved_nodes: dict[NodeId, NodeSeen] = {}

    async def load(self) -> None:
        past = await asyncio.to_thread(self._store.nodes)
        self.past = {str(record["id"]): record for record in past}

    def put(self, save: Save) -> None:
        if isinstance(save.record, NodeForgotten):
            self.past.pop(save.record.node, None)
        if not isinstance(save.record, NodeSeen) or self._remember(save.record):
            self._unsaved.put_nowait(save)

    def last_seen_before(self, moment_s: float) -> list[NodeId]:
        """Who was not here since `moment_s`, seconds since the Unix epoch."""
        return [node for node, record in self.past.items() if record["seen_s"] < moment_s]

    def end(self) -> None:
        """`run` returns once everything before this is written."""
        self._unsaved.put_nowait(None)

    async def run(self) -> None:
        """Write records in order, to the last: the latest is the one that a restarted head needs most."""
        while (save := await self._unsaved.get()) is not None:
            await self._write(save)

    def _remember(self, seen: NodeSeen) -> bool:
        """Whether this must be queued for the store."""
        before = self.past.get(seen.node, {})
        claim = seen.claim_bytes or before.get("claim_bytes", 0)
        record = {"id": seen.node, "name": seen.name, "region": seen.region, "claim_bytes": claim}
        self.past[seen.node] = record | {"seen_s": self._wall_clock()}
        queued = seen.node in self._unsaved_nodes
        self._unsaved_nodes[seen.node] = replace(seen, claim_bytes=claim)
        return not queued

    async def _write(self, save: Save) -> None:
        record = save.record
        if isinstance(record, NodeSeen):
            record = self._unsaved_nodes.pop(record.node)
        try:
            await asyncio.to_thread(self._store.save, record)
            self.trouble = ""
        except MusterError as error:
            # A full disk must not stop what serves; the status says so.
            self.trouble = str(error)
            log.error("store.failed", reason=str(error))
