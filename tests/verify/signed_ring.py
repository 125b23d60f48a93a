"""Receipts of a ring of three, as its machines would sign them."""

from collections.abc import Callable

import torch

from muster.link.identity import Identity
from muster.spec.receipt import Commitment, receipt_name
from muster.verify.book import BoundaryBook, RowSpan, Unsigned
from muster.verify.receipts import ReceiptRing, RequestReceipts
from muster.verify.signing import signed
from muster.wire.messages.base import PROTOCOL
from muster.wire.messages.receipts import SignedRoot

REQUEST, NOW_S = "chat-1", 1000.0
NAME = receipt_name(REQUEST)
MACHINES = [Identity.from_secret(bytes([number]) * 32) for number in (1, 2, 3)]
HEAD = "f" * 64
CUTS = (0, 2, 5, 8)
RING = ReceiptRing(7, HEAD, tuple(one.node_id for one in MACHINES), CUTS, "ab" * 32, "float32")
TOKENS = list(range(500, 800))
"""Of prompt and answer; the prompt has one."""


def books(layer: int, count: int, seed: int = 1) -> BoundaryBook:
    """Of one end of a boundary that so many rows have crossed."""
    book = BoundaryBook(layer)
    book.begin(0, NAME.hex())
    rows = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed + layer))
    span = [RowSpan(0, 0, count, count)]
    if layer == CUTS[-1]:
        tokens = b"".join(token.to_bytes(4, "little") for token in TOKENS[1 : count + 1])
        book.saw(span, tokens, "int32", bytes(4 * count))
    else:
        book.saw(span, rows.numpy().tobytes(), "float32")
    return book


def sign(one: Unsigned, layer: int, received: bool, by: Identity | None = None, ring: ReceiptRing = RING) -> SignedRoot:
    sender, receiver = ring.ends(layer)
    signer = by or next(one for one in MACHINES if one.node_id == (receiver if received else sender))
    role = "received" if received else "sent"
    commitment = Commitment(
        role, sender, receiver, one.request, ring.epoch, layer, one.start, one.end, ring.manifest, ring.dtype, one.root,
        NOW_S, PROTOCOL,
    )  # fmt: skip
    if signer.node_id == commitment.signer:
        signature = signed(commitment, signer).signature
    else:  # a forger
        signature = signer.sign(b"something")
    return SignedRoot(
        received, bytes.fromhex(one.request), layer, one.start, tuple(b.count for b in one.blocks), one.root, NOW_S,
        signature, b"" if received else b"".join(b.digest for b in one.blocks),
        b"" if received else b"".join(b.values for b in one.blocks),
    )  # fmt: skip


def sent_and_received(layer: int, count: int = 260, lying: bool = False) -> list[tuple[str, SignedRoot]]:
    """By whom, in order. Whoever `lying` received signs other rows."""
    sender, receiver = RING.ends(layer)
    giving, getting = books(layer, count), books(layer, count, seed=9 if lying else 1)
    found = []
    for one in (*giving.due(), *giving.due()):
        found.append((sender, sign(one, layer, received=False)))
        if receiver != HEAD:
            agreed = getting.agree(NAME.hex(), one.start, [block.count for block in one.blocks])
            assert agreed is not None
            found.append((receiver, sign(agreed, layer, received=True)))
    return found


def filled(
    every: list[tuple[str, SignedRoot]], change: Callable[[SignedRoot], SignedRoot] = lambda one: one
) -> RequestReceipts:
    receipts = RequestReceipts(NAME)
    for node, one in every:
        receipts.add(RING, node, change(one), NOW_S)
    return receipts
