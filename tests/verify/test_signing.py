"""Commitments: every field counts, and what cannot be is refused with one sentence."""

from dataclasses import fields, replace
from typing import Any

import pytest

from muster.errors import ProtocolViolation
from muster.link.identity import Identity
from muster.spec.receipt import Commitment
from muster.verify.signing import MAX_SKEW_S, check_commitment, check_expected, meet, signed
from muster.wire.messages.base import PROTOCOL

SENDER, RECEIVER = Identity.from_secret(bytes(range(32))), Identity.from_secret(bytes(range(1, 33)))
NOW_S = 1.8e9


def commitment(**changes: Any) -> Commitment:
    plain = Commitment(
        role="sent",
        sender=SENDER.node_id,
        receiver=RECEIVER.node_id,
        request="ab" * 16,
        epoch=3,
        layer=2,
        start=32,
        end=64,
        manifest="cd" * 32,
        dtype="bfloat16",
        root=b"r" * 32,
        at_s=NOW_S,
        protocol=PROTOCOL,
    )
    return replace(plain, **changes)


GOOD = signed(commitment(), SENDER)


def test_a_signed_commitment_is_taken_whenever_it_is_read() -> None:
    check_commitment(GOOD, NOW_S + 1)
    check_commitment(GOOD)


OTHERS: dict[str, Any] = {
    "role": "received",
    "sender": RECEIVER.node_id,
    "receiver": SENDER.node_id,
    "request": "ac" * 16,
    "epoch": 4,
    "layer": 3,
    "start": 31,
    "end": 63,
    "manifest": "ce" * 32,
    "dtype": "float16",
    "root": b"s" * 32,
    "at_s": NOW_S + 1,
    "protocol": PROTOCOL + 1,
    "signature": bytes(64),
}


@pytest.mark.parametrize("field", [field.name for field in fields(Commitment)])
def test_no_field_can_be_changed_under_the_signature(field: str) -> None:
    with pytest.raises(ProtocolViolation):
        check_commitment(replace(GOOD, **{field: OTHERS[field]}))


IMPOSSIBLE: list[tuple[str, Any]] = [
    ("role", "forwarded"),
    ("sender", "not a node"),
    ("receiver", "AB" * 32),
    ("request", "ab" * 17),
    ("epoch", -1),
    ("layer", 2**16),
    ("start", 64),
    ("start", -1),
    ("end", 2**40),
    ("manifest", ""),
    ("dtype", "bfloat17"),
    ("root", b"r" * 31),
    ("at_s", float("nan")),
    ("at_s", float("inf")),
    ("protocol", 0),
]


@pytest.mark.parametrize(("field", "value"), IMPOSSIBLE, ids=[f"{field}={value!r:.12}" for field, value in IMPOSSIBLE])
def test_what_cannot_be_is_refused_even_where_it_is_signed(field: str, value: Any) -> None:
    bad = commitment(**{field: value})
    who = SENDER if bad.role != "received" and bad.sender == SENDER.node_id else None
    one = signed(bad, who) if who is not None and field != "role" else replace(bad, signature=bytes(64))
    with pytest.raises(ProtocolViolation, match=r"^A receipt .*; update Muster on that machine\.$"):
        check_commitment(one)


@pytest.mark.parametrize("off_s", [MAX_SKEW_S + 1, -MAX_SKEW_S - 1])
def test_a_clock_that_is_far_off_is_named(off_s: float) -> None:
    with pytest.raises(ProtocolViolation, match="set the clock"):
        check_commitment(signed(commitment(at_s=NOW_S + off_s), SENDER), NOW_S)


@pytest.mark.parametrize("field", ["role", "sender", "receiver", "request", "epoch", "layer", "manifest", "dtype"])
def test_a_receipt_of_something_else_is_refused_by_the_field_that_differs(field: str) -> None:
    with pytest.raises(ProtocolViolation, match=f"is of {field} "):
        check_expected(replace(GOOD, **{field: OTHERS[field]}), GOOD)


def test_two_ends_meet_where_they_say_the_same() -> None:
    received = signed(commitment(role="received"), RECEIVER)
    assert meet(GOOD, received)
    assert not meet(GOOD, replace(received, root=b"s" * 32))
