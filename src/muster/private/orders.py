"""Who gets which rows of a step, from the rule of sharding alone. Pure: no tensor, no link.

step            sequence 7: tokens 5..9         cluster 2, two shards
position        5   6   7   8   9
shard           0   1   1   0   0
rank in shard   0   0   1   1   2      of this step; AttnNodes know nothing else of positions but what a query sees
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.messages.private import AttentionOrder, SequenceRows


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Tokens [start, start + count) of a sequence, which all before them have gone ahead of."""

    sequence: int
    start: int
    count: int

    @property
    def positions(self) -> range:
        return range(self.start, self.start + self.count)


@dataclass
class CompRows:
    """The rows of one CompNode in a step, in the order in which they are sent."""

    rows: list[int] = field(default_factory=list)
    """Where they stand among all tokens of the step."""
    positions: list[int] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


def comp_rows(rule: TokenShards, new: Sequence[NewTokens]) -> dict[int, CompRows]:
    """By CompNode, for those that get any."""
    found: dict[int, CompRows] = {}
    in_shard = [0] * rule.shards
    row = 0
    for tokens in new:
        for position in tokens.positions:
            shard = rule.shard_of(position)
            mine = found.setdefault(rule.comp_of(position), CompRows())
            mine.rows.append(row)
            mine.positions.append(position)
            mine.shards.append(shard)
            mine.ranks.append(in_shard[shard])
            in_shard[shard] += 1
            row += 1
    return found


def attention_orders(
    rule: TokenShards, windows: Sequence[int], new: Sequence[NewTokens], epoch: int, step: int
) -> list[AttentionOrder]:
    """One for each AttnNode that gets a query or a key. `windows`: the different ones of the layers, 0 for none."""
    held = {shard: [_positions(rule, tokens, shard) for tokens in new] for shard in range(rule.shards)}
    owners = {shard: tuple(rule.comp_of(at) for each in of for at in each) for shard, of in held.items()}
    orders = []
    for queries in range(rule.shards):
        for keys in range(rule.shards):
            if not owners[queries] and not owners[keys]:
                continue
            rows = [
                _sequence_rows(rule, windows, tokens, held[queries][index], (keys, len(held[keys][index])))
                for index, tokens in enumerate(new)
                if held[queries][index] or held[keys][index]
            ]
            orders.append(
                AttentionOrder(
                    epoch=epoch,
                    sender=CLIENT,
                    receiver=rule.attn_role(queries, keys),
                    step=step,
                    sequences=tuple(rows),
                    query_from=owners[queries],
                    key_from=owners[keys],
                )
            )
    return orders


def _positions(rule: TokenShards, tokens: NewTokens, shard: int) -> list[int]:
    return [position for position in tokens.positions if rule.shard_of(position) == shard]


def _sequence_rows(
    rule: TokenShards, windows: Sequence[int], tokens: NewTokens, queries: list[int], keys: tuple[int, int]
) -> SequenceRows:
    """`keys`: their shard, and how many are new."""
    shard, count = keys
    first = [[max(0, at + 1 - window) if window else 0 for at in queries] for window in windows]
    return SequenceRows(
        sequence=tokens.sequence,
        queries=len(queries),
        keys=count,
        starts=tuple(tuple(rule.count_before(shard, at) for at in of) for of in first),
        stops=tuple(tuple(rule.count_before(shard, at + 1) for at in queries) for _ in windows),
    )
