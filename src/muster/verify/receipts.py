"""The receipts of one request, as the head keeps them and as anybody reads them in a file: who signed what, whether it
fits together, and who may have lied where it does not. Knows no numbers of a model, no link and no clock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from blake3 import blake3

from muster.errors import ProtocolViolation
from muster.link.base import short_id
from muster.spec.pool import NodeId
from muster.spec.receipt import (
    DIGEST_BYTES,
    MAX_BLOCKS,
    MAX_POSITIONS,
    NAME_BYTES,
    TOKENS_PER_BLOCK,
    VALUE_BYTES,
    VALUES_PER_TOKEN,
    Commitment,
    ReceiptBlock,
)
from muster.verify.merkle import GrowingTree, block_leaf
from muster.verify.signing import check_commitment
from muster.wire.messages.base import PROTOCOL
from muster.wire.messages.receipts import SignedRoot

SIZE = VALUE_BYTES * VALUES_PER_TOKEN


class BrokenChain(ProtocolViolation):
    """A receipt is good by itself, but not behind those that are here: where a link broke, it is nobody's fault."""


@dataclass(frozen=True, slots=True)
class ReceiptRing:
    """Which machines served, and what: all that a receipt does not say itself."""

    epoch: int
    head: NodeId
    nodes: tuple[NodeId, ...]
    cuts: tuple[int, ...]
    """The layers at which the stages begin, and their number at the end."""
    manifest: str
    dtype: str
    protocol: int = PROTOCOL

    def ends(self, layer: int) -> tuple[NodeId, NodeId]:
        """Who sends and who receives at the boundary before `layer`. Raises `ValueError` where there is none."""
        place = self.cuts.index(layer)
        if place == 0:
            raise ValueError(layer)
        return self.nodes[place - 1], self.nodes[place] if place < len(self.nodes) else self.head

    def commitment(self, node: NodeId, one: SignedRoot) -> Commitment:
        """What was signed. Raises `ProtocolViolation` where this machine has nothing to sign there."""
        try:
            sender, receiver = self.ends(one.layer)
        except ValueError:
            sender = receiver = ""
        if node != (receiver if one.received else sender):
            raise ProtocolViolation(
                f"Node {short_id(node)} sent a receipt of a boundary before layer {one.layer}, which is not its own; "
                "update Muster on that machine."
            )
        return Commitment(
            role="received" if one.received else "sent",
            sender=sender,
            receiver=receiver,
            request=one.request.hex(),
            epoch=self.epoch,
            layer=one.layer,
            start=one.start,
            end=one.end,
            manifest=self.manifest,
            dtype=self.dtype,
            root=one.root,
            at_s=one.at_s,
            protocol=self.protocol,
            signature=one.signature,
        )


@dataclass(slots=True)
class _Chain:
    """Receipts by one end of a boundary that follow each other."""

    start: int
    end: int
    tree: GrowingTree = field(default_factory=GrowingTree)


@dataclass(slots=True)
class Boundary:
    """All receipts of one boundary in one epoch."""

    sent: list[SignedRoot] = field(default_factory=list)
    received: list[SignedRoot] = field(default_factory=list)
    chain: _Chain | None = None

    def blocks(self) -> Iterator[ReceiptBlock]:
        for one in self.sent:
            yield from blocks_of(one)


@dataclass(frozen=True, slots=True)
class BoundaryFinding:
    """Of one boundary."""

    epoch: int
    layer: int
    sender: NodeId
    receiver: NodeId
    start: int
    end: int
    """Positions of which the sender has signed."""
    both: int
    """Of them, those of which both ends have signed the same."""
    problem: str = ""
    """A sentence; empty where all is well."""
    suspects: tuple[NodeId, ...] = ()


@dataclass(slots=True)
class RequestReceipts:
    """`add` what comes, then ask for `findings`."""

    name: bytes
    rings: dict[int, ReceiptRing] = field(default_factory=dict)
    boundaries: dict[tuple[int, int], Boundary] = field(default_factory=dict)
    """By epoch and layer."""
    nbytes: int = 0

    def add(self, ring: ReceiptRing, node: NodeId, one: SignedRoot, now_s: float | None = None) -> None:
        """Raises `ProtocolViolation`, with one sentence, for what is forged, replayed, out of order or of elsewhere.

        `now_s`, seconds since the Unix epoch, is when it came; None where it is read later.
        """
        check_sizes(node, one)
        if one.request != self.name:
            raise ProtocolViolation(f"A receipt of node {short_id(node)} is of another request; it belongs elsewhere.")
        check_commitment(ring.commitment(node, one), now_s)
        boundary = self.boundaries.setdefault((ring.epoch, one.layer), Boundary())
        ours = boundary.received if one.received else boundary.sent
        if any(other.signature == one.signature for other in ours):
            raise ProtocolViolation(f"Node {short_id(node)} sent a receipt twice; update Muster on that machine.")
        if not one.received:
            _follow(boundary, node, one)
        self.rings[ring.epoch] = ring
        ours.append(one)
        self.nbytes += size_of(one)

    def findings(self, tokens: Sequence[int] | None = None) -> list[BoundaryFinding]:
        """Of every boundary that anything was signed of. `tokens` are those of prompt and answer, where known."""
        found = []
        for (epoch, layer), boundary in sorted(self.boundaries.items()):
            ring = self.rings[epoch]
            sender, receiver = ring.ends(layer)
            covered, both, problem, suspects = _agreement(boundary)
            if not problem and tokens is not None and layer == ring.cuts[-1] and not _names(boundary, tokens):
                problem = "The tokens that were delivered are not those that the last stage has signed."
                suspects = "sender and first"
            blamed = {"": (), "both": (sender, receiver), "sender and first": (sender, ring.nodes[0])}[suspects]
            found.append(BoundaryFinding(epoch, layer, sender, receiver, *covered, both, problem, blamed))
        return found


def check_sizes(node: NodeId, one: SignedRoot) -> None:
    """Raise `ProtocolViolation` for what no machine would send: before anything is counted, hashed or kept."""
    blocks, who = len(one.counts), f"A receipt of node {short_id(node)}"
    if not 0 < blocks <= MAX_BLOCKS or not all(0 < count <= TOKENS_PER_BLOCK for count in one.counts):
        raise ProtocolViolation(
            f"{who} has {blocks} blocks of absurd sizes; there may be 1 to {MAX_BLOCKS} of 1 to {TOKENS_PER_BLOCK} "
            "positions each."
        )
    if len(one.request) != NAME_BYTES:
        raise ProtocolViolation(f"{who} names a request by {len(one.request)} bytes where {NAME_BYTES} are due.")
    if not 0 <= one.start < MAX_POSITIONS:
        raise ProtocolViolation(f"{who} begins at position {one.start}, which cannot be.")
    digests, values = (0, 0) if one.received else (DIGEST_BYTES * blocks, SIZE * sum(one.counts))
    if (len(one.digests), len(one.values)) != (digests, values):
        raise ProtocolViolation(
            f"{who} has {len(one.digests)} bytes of digests and {len(one.values)} of values where {digests} and "
            f"{values} are due; it was cut short."
        )


def size_of(one: SignedRoot) -> int:
    """Bytes that it takes, about."""
    return (
        len(one.digests) + len(one.values) + len(one.signature) + len(one.root) + NAME_BYTES + 2 * len(one.counts) + 24
    )


def blocks_of(one: SignedRoot) -> Iterator[ReceiptBlock]:
    """Of what a sender has signed."""
    start, at = one.start, 0
    for index, count in enumerate(one.counts):
        digest = one.digests[DIGEST_BYTES * index : DIGEST_BYTES * (index + 1)]
        yield ReceiptBlock(start, count, digest, one.values[at : at + SIZE * count])
        start, at = start + count, at + SIZE * count


def _follow(boundary: Boundary, node: NodeId, one: SignedRoot) -> None:
    """The root must be of all blocks since this chain began; a request may begin again, as after a preemption."""
    chain = boundary.chain
    if chain is None or one.start != chain.end:
        chain = _Chain(one.start, one.start)
    tree = chain.tree.copy()
    for block in blocks_of(one):
        tree.add(block_leaf(block.start, block.count, block.digest, block.values))
    if tree.root != one.root:
        raise BrokenChain(
            f"A receipt of node {short_id(node)} does not follow from those before it; some are missing, or they were "
            "changed or put in another order."
        )
    boundary.chain = _Chain(chain.start, one.end, tree)


def _agreement(boundary: Boundary) -> tuple[tuple[int, int], int, str, str]:
    """What positions, how many of them twice, a sentence about what is wrong, and whose it may be."""
    by_start = {(one.start, one.end): one.root for one in boundary.sent}
    both, problem = 0, ""
    for one in boundary.received:
        root = by_start.get((one.start, one.end))
        if root is None:
            continue  # of something that the sender has not told, or of an earlier beginning
        if root == one.root:
            both += one.end - one.start
        elif not any(other.root == one.root for other in boundary.sent):
            problem = problem or f"The two ends have signed different rows for positions {one.start} to {one.end}."
    starts = [one.start for one in boundary.sent]
    covered = (min(starts, default=0), max((one.end for one in boundary.sent), default=0))
    if not problem and (gap := _gap(boundary)):
        return covered, both, f"Nothing was signed for positions {gap[0]} to {gap[1]}.", ""
    return covered, both, problem, "both" if problem else ""


def _gap(boundary: Boundary) -> tuple[int, int] | None:
    spans = sorted((one.start, one.end) for one in boundary.sent)
    reached = spans[0][1] if spans else 0
    for _, (start, end) in pairwise(spans):
        if start > reached:
            return reached, start
        reached = max(reached, end)
    return None


def _names(boundary: Boundary, tokens: Sequence[int]) -> bool:
    """Whether the blocks behind the last layer are of these tokens, as far as there are so many."""
    for block in boundary.blocks():
        chosen = tokens[block.start + 1 : block.end + 1]
        if len(chosen) < block.count:
            continue  # behind the end of what was wanted
        if not all(0 <= token < 2**32 for token in chosen):
            return False
        written = b"".join(token.to_bytes(4, "little") for token in chosen)
        if blake3(written).digest() != block.digest:
            return False
    return True
