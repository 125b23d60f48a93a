"""The role that attends: queries of one shard of the tokens against keys and values of one shard.

Holds no weights. Keeps the keys and values of its shard of every sequence, in the order of the prompt. It takes
messages and gives messages; how they travel is for others. What comes is held against the client's order for the step:
a CompNode speaks for its own rows, for each once, and in numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muster.compress.raw import decode, encode, expect
from muster.errors import ProtocolViolation
from muster.private.partial import AttnLayer, attend_partly
from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.frame import Payload
from muster.wire.messages.private import (
    AttentionOrder,
    ForgetSequence,
    PartialRows,
    PrivateMessage,
    ProjectedRows,
    RoleMessage,
)

Letter = tuple[PrivateMessage, Payload]
"""A message and its payload, on the way to the role that it names."""
MAX_EARLY = 256
"""Messages of CompNodes that may be here before the client's order."""
MAX_SEQUENCES = 256


class RoleRefused(ProtocolViolation):
    """What a role said is not what was due."""

    def __init__(self, rule: TokenShards, message: RoleMessage, what: str) -> None:
        name = rule.name(message.sender)
        super().__init__(f"{name[0].upper()}{name[1:]} {what}; run the same version of Muster on all machines.")
        self.role = message.sender


@dataclass
class _LayerRows:
    """What has come for one layer of a step."""

    query_TND: Tensor
    keys_TX: Tensor
    """Of each row its keys, then its values."""
    missing_queries: set[int]
    missing_keys: set[int]


class _Held:
    """Keys and values of one sequence in one layer; room is doubled when it is used up."""

    def __init__(self, width: int) -> None:
        self._rows_LX = torch.empty(0, width)
        self.count = 0

    def add(self, rows_TX: Tensor) -> Tensor:
        """All rows, with the new ones at the end."""
        needed = self.count + len(rows_TX)
        if needed > len(self._rows_LX):
            grown = rows_TX.new_empty(max(needed, 2 * self.count), rows_TX.shape[1])
            grown[: self.count] = self._rows_LX[: self.count]
            self._rows_LX = grown
        self._rows_LX[self.count : needed] = rows_TX
        self.count = needed
        return self._rows_LX[:needed]


class AttnNode:
    def __init__(
        self,
        role: int,
        rule: TokenShards,
        layers: Sequence[AttnLayer],
        dtype: torch.dtype,
        max_tokens: int,
        max_rows: int = 0,
    ) -> None:
        """`max_tokens` of a sequence, `max_rows` of keys in all that there is memory for; 0 sets no limit.

        `dtype` is what queries, keys and values come in.
        """
        self.role, self.rule = role, rule
        self._layers, self._dtype, self._max_tokens = layers, dtype, max_tokens
        self._max_rows = max_rows
        self._windows = 1 + max((layer.window for layer in layers), default=0)
        self._orders: dict[int, AttentionOrder] = {}
        self._coming: dict[tuple[int, int], _LayerRows] = {}
        self._early: list[tuple[ProjectedRows, Payload]] = []
        self._held: dict[int, list[_Held]] = {}
        """By sequence, for each layer."""

    @property
    def sequences(self) -> int:
        return len(self._held)

    def handle(self, message: PrivateMessage, payload: Payload) -> list[Letter]:
        """Whoever gave this has checked that `message.sender` is who says it. Raises `ProtocolViolation`."""
        if isinstance(message, AttentionOrder) and message.sender == CLIENT:
            return self._take_order(message)
        if isinstance(message, ForgetSequence) and message.sender == CLIENT:
            self._held.pop(message.sequence, None)
            return []
        if isinstance(message, ProjectedRows) and self.rule.is_comp(message.sender):
            return self._take_rows(message, payload)
        raise self._refuse(message, f"sent a {type(message).__name__}, which its role forbids")

    def _take_order(self, order: AttentionOrder) -> list[Letter]:
        self._check_order(order)
        self._orders[order.step] = order
        early, self._early = self._early, []
        return [letter for message, payload in early for letter in self._take_rows(message, payload)]

    def _check_order(self, order: AttentionOrder) -> None:
        if order.step in self._orders:
            raise self._refuse(order, f"ordered step {order.step} twice")
        counts = [(rows.queries, rows.keys) for rows in order.sequences]
        if [len(order.query_from), len(order.key_from)] != [sum(of) for of in zip(*counts, strict=True)]:
            raise self._refuse(order, "ordered a step whose rows do not add up")
        for rows in order.sequences:
            for firsts, lasts in ((rows.starts, rows.stops),):
                per_window = [len(each) for each in (*firsts, *lasts)]
                if min(rows.queries, rows.keys) < 0 or per_window != [rows.queries] * 2 * self._windows:
                    raise self._refuse(order, "ordered a step that does not say for each query what it sees")
            held = self._held[rows.sequence][0].count if rows.sequence in self._held else 0
            if held + rows.keys > self._max_tokens:
                raise self._refuse(order, f"ordered more than the {self._max_tokens} tokens that a sequence may have")
            if any(not 0 <= at <= held + rows.keys for each in (*rows.starts, *rows.stops) for at in each):
                raise self._refuse(order, "ordered a query to see keys that are not here")
        held_rows = sum(layers[0].count for layers in self._held.values()) + sum(keys for _, keys in counts)
        if self._max_rows and held_rows > self._max_rows:
            raise self._refuse(order, f"ordered more than the {self._max_rows} keys that this machine has room for")
        if len(self._held.keys() | {rows.sequence for rows in order.sequences}) > MAX_SEQUENCES:
            raise self._refuse(order, f"ordered more than {MAX_SEQUENCES} sequences at once")

    def _take_rows(self, message: ProjectedRows, payload: Payload) -> list[Letter]:
        order = self._orders.get(message.step)
        if order is None:
            if len(self._early) >= MAX_EARLY:
                raise self._refuse(message, "sent rows of steps that the client has not ordered")
            self._early.append((message, payload))
            return []
        if not 0 <= message.layer < len(self._layers):
            raise self._refuse(message, f"sent rows of layer {message.layer}; the model has {len(self._layers)}")
        key = (message.step, message.layer)
        coming = self._coming.get(key) or self._expect(order, self._layers[message.layer])
        self._check_rows(message, "query", message.queries, order.query_from, coming.missing_queries)
        self._check_rows(message, "key", message.keys, order.key_from, coming.missing_keys)
        self._write(message, payload, coming, self._layers[message.layer])
        self._coming[key] = coming
        if coming.missing_queries or coming.missing_keys:
            return []
        del self._coming[key]
        letters = self._attend(order, message.layer, coming)
        if message.layer == len(self._layers) - 1:
            del self._orders[message.step]
        return letters

    def _expect(self, order: AttentionOrder, layer: AttnLayer) -> _LayerRows:
        queries, keys = len(order.query_from), len(order.key_from)
        return _LayerRows(
            torch.empty(queries, layer.query_heads, layer.key_size, dtype=self._dtype),
            torch.empty(keys, layer.key_values, dtype=self._dtype),
            set(range(queries)),
            set(range(keys)),
        )

    def _check_rows(
        self, message: ProjectedRows, kind: str, rows: Sequence[int], owners: Sequence[int], missing: set[int]
    ) -> None:
        for row in rows:
            if not 0 <= row < len(owners):
                raise self._refuse(message, f"sent {kind} row {row} of {len(owners)}, which does not exist")
            if owners[row] != message.sender:
                raise self._refuse(message, f"sent {kind} row {row}, which is a row of {self.rule.name(owners[row])}")
            if row not in missing:
                raise self._refuse(message, f"sent {kind} row {row} twice")
        if len(set(rows)) != len(rows):
            raise self._refuse(message, f"sent a {kind} row twice")

    def _write(self, message: ProjectedRows, payload: Payload, coming: _LayerRows, layer: AttnLayer) -> None:
        cut = len(message.queries) * layer.query_values
        total = cut + len(message.keys) * layer.key_values
        expect(message.tensor, self._dtype, (total,))
        flat = decode(message.tensor, payload, total * self._dtype.itemsize)
        if not flat.isfinite().all():
            raise self._refuse(message, "sent rows with entries that are not finite numbers")
        queries, keys = list(message.queries), list(message.keys)
        coming.query_TND[queries] = flat[:cut].view(len(queries), layer.query_heads, layer.key_size)
        keys_end = cut + len(keys) * layer.kv_heads * layer.key_size
        coming.keys_TX[keys] = torch.cat(
            [flat[cut:keys_end].view(len(keys), -1), flat[keys_end:].view(len(keys), -1)]
            if keys
            else [coming.keys_TX[:0]],
            dim=1,
        )
        coming.missing_queries.difference_update(queries)
        coming.missing_keys.difference_update(keys)

    def _attend(self, order: AttentionOrder, index: int, coming: _LayerRows) -> list[Letter]:
        layer = self._layers[index]
        counts = [(rows.queries, rows.keys) for rows in order.sequences]
        query_parts = torch.split(coming.query_TND, [queries for queries, _ in counts])
        key_parts = torch.split(coming.keys_TX, [keys for _, keys in counts])
        parts = []
        for rows, query_TND, keys_TX in zip(order.sequences, query_parts, key_parts, strict=True):
            held = self._held.setdefault(rows.sequence, [_Held(each.key_values) for each in self._layers])
            all_LX = held[index].add(keys_TX)
            if rows.queries:
                k_LX, v_LX = all_LX.tensor_split([layer.kv_heads * layer.key_size], dim=1)
                parts.append(
                    attend_partly(
                        query_TND,
                        k_LX.view(-1, layer.kv_heads, layer.key_size),
                        v_LX.view(-1, layer.kv_heads, layer.value_size),
                        torch.tensor(rows.starts[layer.window]),
                        torch.tensor(rows.stops[layer.window]),
                        layer.softcap,
                    )
                )
        return self._answers(order, index, torch.cat(parts)) if parts else []

    def _answers(self, order: AttentionOrder, index: int, part_TNE: Tensor) -> list[Letter]:
        """To each CompNode the rows that are its own."""
        letters: list[Letter] = []
        for owner in sorted(set(order.query_from)):
            rows = [row for row, comp in enumerate(order.query_from) if comp == owner]
            header, body = encode(part_TNE[rows])
            answer = PartialRows(
                epoch=order.epoch,
                sender=self.role,
                receiver=owner,
                step=order.step,
                layer=index,
                tensor=header,
                queries=tuple(rows),
            )
            letters.append((answer, body))
        return letters

    def _refuse(self, message: RoleMessage, what: str) -> ProtocolViolation:
        return RoleRefused(self.rule, message, what)
