"""Commitments signed and held against what they say: by whom, for whom, of what, when. Knows no numbers of a model.

A signature covers every field, so nothing of a commitment can be changed, and nothing of it fits another place:
protocol, role, both ends, request, epoch, layer, positions, manifest, dtype, root and time.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import isfinite
from string import hexdigits

import msgspec

from muster.errors import ProtocolViolation
from muster.link.base import short_id
from muster.link.identity import Identity, is_signed
from muster.spec.receipt import DIGEST_BYTES, MAX_LAYERS, MAX_POSITIONS, SIGNATURE_BYTES, Commitment
from muster.wire.messages.base import PROTOCOL
from muster.wire.tensor import DTYPE_BYTES

PURPOSE = b"muster receipt\x00"
"""What the key signs here is signed for nothing else."""
MAX_SKEW_S = 120.0
"""Clocks of two machines may differ by so much."""


class ClockSkew(ProtocolViolation):
    """A commitment is good but for its time: a clock that is wrong is no lie."""


def signed(commitment: Commitment, identity: Identity) -> Commitment:
    """The commitment with the signature of its signer, whose `identity` it must be."""
    assert commitment.signer == identity.node_id, "nobody signs for somebody else"
    return replace(commitment, signature=identity.sign(to_be_signed(commitment)))


def to_be_signed(commitment: Commitment) -> bytes:
    return PURPOSE + msgspec.msgpack.encode(replace(commitment, signature=b""))


def check_commitment(one: Commitment, now_s: float | None = None) -> None:
    """Raise `ProtocolViolation`, with one sentence, unless its fields can be and its signature is the signer's.

    `now_s` is when it came; None where it is read later, so that its time says nothing.
    """
    who = f"A receipt of node {short_id(one.signer)}" if _is_hex(one.signer, 64) else "A receipt"
    for is_wrong, what in _faults(one):
        if is_wrong:
            raise ProtocolViolation(f"{who} {what}; update Muster on that machine.")
    if not is_signed(one.signer, to_be_signed(one), one.signature):
        raise ProtocolViolation(f"{who} bears a signature that is not that machine's; it was forged or changed.")
    if now_s is not None and abs(one.at_s - now_s) > MAX_SKEW_S:
        ahead = one.at_s - now_s
        raise ClockSkew(
            f"{who} was signed {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'before'} this machine's time; "
            "set the clock of one of the two."
        )


def _faults(one: Commitment) -> Iterable[tuple[bool, str]]:
    yield one.role not in ("sent", "received"), f"has the unknown role {one.role[:20]!r}"
    yield not (_is_hex(one.sender, 64) and _is_hex(one.receiver, 64)), "names a machine by what is no node id"
    yield not _is_hex(one.request, 32), "names a request by other than 32 hexadecimal digits"
    yield not 0 <= one.epoch < 2**63, f"has the impossible epoch {one.epoch}"
    yield not 0 <= one.layer < MAX_LAYERS, f"has the impossible layer {one.layer}"
    yield not 0 <= one.start < one.end <= MAX_POSITIONS, f"is of positions {one.start} to {one.end}, which cannot be"
    yield not _is_hex(one.manifest, 64), "names a model by what is no digest"
    yield one.dtype not in DTYPE_BYTES, f"has the unknown dtype {one.dtype[:20]!r}"
    yield len(one.root) != DIGEST_BYTES, f"has a root of {len(one.root)} bytes where {DIGEST_BYTES} are due"
    yield not isfinite(one.at_s), "has a time that is no number"
    yield one.protocol != PROTOCOL, f"is of protocol {one.protocol} where this is protocol {PROTOCOL}"
    yield len(one.signature) != SIGNATURE_BYTES, f"has a signature of {len(one.signature)} bytes"


def check_expected(one: Commitment, expected: Commitment) -> None:
    """Raise `ProtocolViolation` where it is about something else than `expected`: another model, node, request, place.

    Root, times, signature and positions are not compared here.
    """
    for field in ("role", "sender", "receiver", "request", "epoch", "layer", "manifest", "dtype", "protocol"):
        has, due = getattr(one, field), getattr(expected, field)
        if has != due:
            raise ProtocolViolation(
                f"A receipt of node {short_id(one.signer)} is of {field} {has!r:.70} where {due!r:.70} was due; it "
                "belongs elsewhere."
            )


def meet(sent: Commitment, received: Commitment) -> bool:
    """Whether two ends say the same of a boundary. Where they do not, one of them lies."""
    return (sent.start, sent.end, sent.root) == (received.start, received.end, received.root)


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set(hexdigits.lower())
