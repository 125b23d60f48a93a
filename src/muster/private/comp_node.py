"""The role that computes: all layers for its own rows, with attention left to others.

Runs the model's own forward pass over its rows. When a layer attends, queries, keys and values go to the AttnNodes of
their shards, and the pass waits until all parts are back. So a step runs in a thread, and what arrives meanwhile is put
into its mailbox. Knows nothing of how messages travel.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from muster.compress.raw import decode, encode, expect
from muster.errors import LinkDown, MusterError, ProtocolViolation
from muster.model.attention import Options
from muster.model.batch import Batch
from muster.model.cache import KVCache
from muster.model.stage import Stage
from muster.private.attn_node import RoleRefused
from muster.private.partial import merge
from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.frame import Payload
from muster.wire.messages.private import HiddenRows, PartialRows, PrivateMessage, ProjectedRows, RoleMessage

Post = Callable[[PrivateMessage, Payload], None]
"""Sends a message to the role that it names; never waits."""
WAIT_S = 60.0
"""For the parts of one layer, before the step is given up."""


@dataclass
class _ShardRows:
    """Rows of this step by shard: where they stand here, and their ranks in the shard."""

    here: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


class _RemoteAttention:
    """A `Backend` of one step: what attention a layer asks for is done by others."""

    def __init__(self, node: "CompNode", rows: HiddenRows) -> None:
        self._node, self._rows = node, rows
        self._by_shard: dict[int, _ShardRows] = {}
        for here, (shard, rank) in enumerate(zip(rows.shards, rows.ranks, strict=True)):
            mine = self._by_shard.setdefault(shard, _ShardRows())
            mine.here.append(here)
            mine.ranks.append(rank)

    def prepare(self, batch: Batch, cache: KVCache, dtype: torch.dtype) -> None:
        return None

    def attend(
        self, prepared: Any, layer: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, options: Options
    ) -> Tensor:
        scaled_TND = q_TND * options.scale
        shards = range(self._node.rule.shards)
        for queries in shards:
            for keys in shards:
                if queries in self._by_shard or keys in self._by_shard:
                    self._send(layer, queries, keys, scaled_TND, k_TKD, v_TKD)
        shape = (self._node.rule.shards, len(q_TND), q_TND.shape[1], v_TKD.shape[2] + 2)
        parts_STNE = self._collect(layer, torch.empty(shape))
        return merge(parts_STNE, options.sinks_N).to(v_TKD.dtype)

    def _send(self, layer: int, queries: int, keys: int, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> None:
        asked, told = self._by_shard.get(queries, _ShardRows()), self._by_shard.get(keys, _ShardRows())
        flat = torch.cat([q_TND[asked.here].flatten(), k_TKD[told.here].flatten(), v_TKD[told.here].flatten()])
        header, payload = encode(flat)
        message = ProjectedRows(
            epoch=self._rows.epoch,
            sender=self._node.role,
            receiver=self._node.rule.attn_role(queries, keys),
            step=self._rows.step,
            layer=layer,
            tensor=header,
            queries=tuple(asked.ranks),
            keys=tuple(told.ranks),
        )
        self._node.post(message, payload)

    def _collect(self, layer: int, parts_STNE: Tensor) -> Tensor:
        missing = {(queries, keys) for queries in self._by_shard for keys in range(self._node.rule.shards)}
        while missing:
            message, payload = self._node.wait_for(self._rows.step, layer)
            queries, keys = self._node.rule.attn_of(message.sender)
            mine = self._by_shard.get(queries, _ShardRows())
            if (queries, keys) not in missing or list(message.queries) != mine.ranks:
                raise self._node.refuse(message, "answered with rows that are not due")
            shape = (len(mine.here), *parts_STNE.shape[2:])
            expect(message.tensor, torch.float32, shape)
            part_TNE = decode(message.tensor, payload, parts_STNE.nbytes)
            most_TN = part_TNE[..., -2]  # minus infinity where no key of that shard is visible
            if not (part_TNE[..., :-2].isfinite().all() and (most_TN < torch.inf).all()):
                raise self._node.refuse(message, "answered with entries that are not finite numbers")
            parts_STNE[keys, mine.here] = part_TNE
            missing.remove((queries, keys))
        return parts_STNE


class CompNode:
    """One step at a time. `post` may be called from the thread of a step."""

    def __init__(self, role: int, rule: TokenShards, stage: Stage, post: Post, wait_s: float = WAIT_S) -> None:
        """`stage` is a body: all layers, no embedding, no head."""
        self.role, self.rule, self.post = role, rule, post
        self._stage, self._wait_s = stage, wait_s
        self._mailbox: SimpleQueue[tuple[PartialRows, Payload] | MusterError] = SimpleQueue()
        self._no_pages = KVCache((), 1, 1, stage.dtype, stage.device)

    def take(self, message: PartialRows, payload: Payload) -> None:
        """A part has come, in whatever thread."""
        self._mailbox.put((message, payload))

    def give_up(self, error: MusterError) -> None:
        """The step at hand cannot be finished."""
        self._mailbox.put(error)

    def run(self, message: HiddenRows, payload: Payload) -> None:
        """All layers for these rows; the result is posted. Blocks. Raises `MusterError`."""
        positions = torch.tensor(message.positions, dtype=torch.long)
        self._check(message)
        hidden_TH = decode(message.tensor, payload, len(positions) * self._row_bytes)
        if not hidden_TH.isfinite().all():
            raise self.refuse(message, "sent rows with entries that are not finite numbers")
        none = positions[:0]
        batch = Batch(positions, none, none[None].int(), (len(positions),), (len(positions),), none)
        self._stage.backend = _RemoteAttention(self, message)
        header, body = encode(self._stage.run(batch, self._no_pages, hidden_TH))
        done = HiddenRows(epoch=message.epoch, sender=self.role, receiver=CLIENT, step=message.step, tensor=header)
        self.post(done, body)

    @property
    def _row_bytes(self) -> int:
        return int(self._stage.hidden_size * self._stage.dtype.itemsize)

    def _check(self, message: HiddenRows) -> None:
        count = len(message.positions)
        if message.sender != CLIENT:
            raise self.refuse(message, "sent hidden states, which only the client may")
        if not count or len(message.shards) != count or len(message.ranks) != count:
            raise self.refuse(message, "sent rows without saying of each where it belongs")
        for position, shard in zip(message.positions, message.shards, strict=True):
            if position < 0 or self.rule.comp_of(position) != self.role:
                raise self.refuse(message, f"sent the row of position {position}, which is another's")
            if shard != self.rule.shard_of(position):
                raise self.refuse(message, f"says that position {position} is in shard {shard}, which it is not")
        expect(message.tensor, self._stage.dtype, (count, self._stage.hidden_size))

    def wait_for(self, step: int, layer: int) -> tuple[PartialRows, Payload]:
        """The next part for a layer. Parts of steps that were given up are dropped."""
        while True:
            try:
                found = self._mailbox.get(timeout=self._wait_s)
            except Empty:
                raise LinkDown(
                    f"Parts of layer {layer} did not come within {self._wait_s:g} s; check that all machines of the "
                    "private session run and are reachable."
                ) from None
            if isinstance(found, MusterError):
                raise found
            if found[0].step < step:
                continue
            if (found[0].step, found[0].layer) != (step, layer):
                raise self.refuse(found[0], "answered for another layer than was asked for")
            return found

    def refuse(self, message: RoleMessage, what: str) -> ProtocolViolation:
        return RoleRefused(self.rule, message, what)
