"""Receipts of a request: what is forged, replayed, out of order or of elsewhere is refused with one sentence."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as changed

from muster.broker.audits.shelf import ReceiptShelf
from muster.errors import InvalidRequest, ProtocolViolation
from muster.link.identity import Identity
from muster.spec.answer import Answer, Answers
from muster.spec.request import Request
from muster.verify.receipt_file import checked, read, written
from muster.verify.receipts import RequestReceipts
from muster.wire.messages.receipts import Receipts, SignedRoot
from tests.verify.signed_ring import (
    CUTS,
    HEAD,
    MACHINES,
    NAME,
    NOW_S,
    REQUEST,
    RING,
    TOKENS,
    books,
    filled,
    sent_and_received,
    sign,
)

FIRST = MACHINES[0].node_id
EVERY = [one for layer in CUTS[1:] for one in sent_and_received(layer)]


def test_a_ring_that_is_honest_has_two_signatures_under_everything() -> None:
    findings = filled(EVERY).findings(TOKENS)
    assert [(one.layer, one.start, one.end, one.both, one.problem) for one in findings] == [
        (2, 0, 260, 260, ""),
        (5, 0, 260, 260, ""),
        (8, 0, 260, 0, ""),
    ]


def test_where_two_ends_sign_different_rows_one_of_these_two_lies() -> None:
    every = [*sent_and_received(2), *sent_and_received(5, lying=True)]
    first, second = filled(every).findings()
    assert first.problem == ""
    assert "The two ends have signed different rows for positions 0 to 256" in second.problem
    assert second.suspects == (MACHINES[1].node_id, MACHINES[2].node_id)


def test_tokens_that_were_changed_on_their_way_are_the_first_stages_fault_or_the_lasts() -> None:
    delivered = [*TOKENS[:100], 7, *TOKENS[101:]]
    assert [one.problem != "" for one in filled(EVERY).findings(delivered)] == [False, False, True]
    assert filled(EVERY).findings(delivered)[2].suspects == (MACHINES[2].node_id, FIRST)


SENT = EVERY[0][1]
FAULTS: dict[str, tuple[Callable[[SignedRoot], SignedRoot], str]] = {
    "no blocks": (lambda one: changed(one, counts=()), "has 0 blocks of absurd sizes"),
    "a huge block": (lambda one: changed(one, counts=(2**40,)), "blocks of absurd sizes"),
    "a negative block": (lambda one: changed(one, counts=(-1, *one.counts[1:])), "blocks of absurd sizes"),
    "hundreds of blocks": (lambda one: changed(one, counts=(1,) * 257), "has 257 blocks of absurd sizes"),
    "a short name": (lambda one: changed(one, request=b"short"), "by 5 bytes where 16 are due"),
    "another request": (lambda one: changed(one, request=b"x" * 16), "is of another request"),
    "a place before all": (lambda one: changed(one, start=-1), "begins at position -1"),
    "a place behind all": (lambda one: changed(one, start=2**30), "begins at position 1073741824"),
    "cut digests": (lambda one: changed(one, digests=one.digests[:-1]), "it was cut short"),
    "cut values": (lambda one: changed(one, values=b""), "it was cut short"),
    "another boundary": (lambda one: changed(one, layer=5), "which is not its own"),
    "no boundary": (lambda one: changed(one, layer=3), "which is not its own"),
    "no layer": (lambda one: changed(one, layer=0), "which is not its own"),
    "the other role": (lambda one: changed(one, received=True, digests=b"", values=b""), "which is not its own"),
    "another root": (lambda one: changed(one, root=b"r" * 32), "forged or changed"),
    "a short root": (lambda one: changed(one, root=b"r"), "root of 1 bytes"),
    "another time": (lambda one: changed(one, at_s=NOW_S + 1), "forged or changed"),
    "a time of tomorrow": (lambda one: changed(one, at_s=NOW_S + 86_400), "forged or changed"),
    "no time": (lambda one: changed(one, at_s=float("nan")), "a time that is no number"),
    "no signature": (lambda one: changed(one, signature=b""), "a signature of 0 bytes"),
    "a forged signature": (lambda one: changed(one, signature=b"s" * 64), "forged or changed"),
    "other positions": (lambda one: changed(one, start=1), "forged or changed"),
    "other digests": (lambda one: changed(one, digests=bytes(len(one.digests))), "does not follow"),
    "other values": (lambda one: changed(one, values=bytes(len(one.values))), "does not follow"),
    "other cuts": (lambda one: changed(one, counts=(*one.counts[:-2], 31, 1 + 32), values=one.values), "absurd sizes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_changed_field_is_named(fault: str) -> None:
    change, words = FAULTS[fault]
    with pytest.raises(ProtocolViolation, match=words):
        RequestReceipts(NAME).add(RING, FIRST, change(SENT), NOW_S)


RINGS: dict[str, dict[str, Any]] = {
    "epoch": {"epoch": 8},
    "manifest": {"manifest": "cd" * 32},
    "dtype": {"dtype": "bfloat16"},
    "receiver": {"nodes": (FIRST, "e" * 64, MACHINES[2].node_id)},
    "layers": {"cuts": (0, 2, 6, 8)},
}


@pytest.mark.parametrize("name", RINGS)
def test_a_receipt_of_another_model_version_placement_or_node_is_refused(name: str) -> None:
    ring = replace(RING, **RINGS[name])
    layer = 5 if name == "layers" else 2
    node, one = sent_and_received(layer)[0]
    with pytest.raises(ProtocolViolation, match=r"forged or changed|not its own"):
        RequestReceipts(NAME).add(ring, node, one, NOW_S)


def test_a_receipt_by_a_machine_of_another_protocol_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="protocol 99"):
        RequestReceipts(NAME).add(replace(RING, protocol=99), FIRST, SENT, NOW_S)


def test_nobody_signs_for_somebody_else() -> None:
    (one,) = books(2, 256).due()
    forged = sign(one, 2, received=False, by=Identity.from_secret(b"9" * 32))
    with pytest.raises(ProtocolViolation, match="forged or changed"):
        RequestReceipts(NAME).add(RING, FIRST, forged, NOW_S)


def test_a_clock_that_is_wrong_is_named() -> None:
    with pytest.raises(ProtocolViolation, match="500 s before this machine's time"):
        RequestReceipts(NAME).add(RING, FIRST, SENT, NOW_S + 500)


def test_a_replayed_or_reordered_receipt_is_refused() -> None:
    mine = [one for one in sent_and_received(2) if one[0] == FIRST]
    with pytest.raises(ProtocolViolation, match="sent a receipt twice"):
        filled([mine[0], mine[0]])
    assert len(mine) > 1
    with pytest.raises(ProtocolViolation, match="does not follow from those before it"):
        filled([mine[1], mine[0]])


def test_the_shelf_keeps_the_last_requests_and_counts_what_is_missing() -> None:
    shelf = ReceiptShelf(max_bytes=6000)
    for node, one in EVERY:
        shelf.file(RING, node, Receipts(epoch=7, signed=(one,)), NOW_S)
        shelf.check()
    assert [one.problem for one in shelf.of(REQUEST).findings()] == [""] * 3
    small = ReceiptShelf(max_bytes=10)
    small.file(RING, FIRST, Receipts(epoch=7, signed=(SENT,)), NOW_S)
    small.check()
    with pytest.raises(InvalidRequest, match="There are no receipts of request 'chat-1'"):
        small.of(REQUEST)
    later = [one for one in EVERY if one[0] == FIRST and not one[1].received][1]
    small.file(RING, FIRST, Receipts(epoch=7, signed=(later[1],)), NOW_S)
    assert small.gaps == 1
    small.file(RING, FIRST, Receipts(epoch=7, signed=(SENT,)), NOW_S + 9999)  # a wrong clock is no lie
    assert small.gaps == 2
    with pytest.raises(ProtocolViolation, match="forged or changed"):
        small.file(RING, FIRST, Receipts(epoch=7, signed=(changed(SENT, at_s=NOW_S + 9999),)), NOW_S)


def test_a_file_holds_all_of_it_and_bad_files_are_refused() -> None:
    answer = Answer(Request(REQUEST, tuple(TOKENS[:1])), tuple(TOKENS[1:]))
    data = written(REQUEST, filled(EVERY), "tiny", answer)
    file = read(data)
    assert file.tokens == tuple(TOKENS)
    assert checked(file).findings(file.tokens) == filled(EVERY).findings(TOKENS)
    bad = {
        b"{": "no file of receipts",
        b"\xff": "no file of receipts",
        data.replace(b'"muster_receipts":1', b'"muster_receipts":9'): "version 9 where this Muster reads version 1",
        data.replace(b'"cuts":[0,2,5,8]', b'"cuts":[0,5,2,8]'): "stages that cannot be",
        data.replace(b'"cuts":[0,2,5,8]', b'"cuts":[]'): "stages that cannot be",
        data.replace(b'"model"', b'"mode"'): "no file of receipts",
    }
    for content, words in bad.items():
        assert content != data
        with pytest.raises(InvalidRequest, match=words):
            read(content)
    with pytest.raises(ProtocolViolation, match="before layer 2, which this ring has not"):
        checked(read(data.replace(b'"cuts":[0,2,5,8]', b'"cuts":[0,3,5,8]')))
    with pytest.raises(ProtocolViolation, match="forged or changed"):
        checked(read(data.replace(HEAD.encode(), b"e" * 64)))


def test_answers_are_kept_for_a_while() -> None:
    answers = Answers(max_answers=2, max_tokens=10)
    for number in range(3):
        answers.add(Request(f"r{number}", (1, 2)), (3,))
    assert answers.of("r0") is None
    assert answers.of("r2") == Answer(Request("r2", (1, 2)), (3,))
    answers.add(Request("long", (1,) * 9), (3,))
    assert answers.of("r2") is None
    assert answers.of("long") is not None
