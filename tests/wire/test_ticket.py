import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muster.errors import TicketInvalid
from muster.wire.ticket import Ticket, parse, proof, proof_holds

HEAD, NODE = "1a" * 32, "2b" * 32
TICKET = Ticket(HEAD, ("192.0.2.7:4711", "[2001:db8::1]:4711"), bytes(range(32)), 2_000_000_000.0)
NOW_S = 1_900_000_000.0
LINE = TICKET.encode()


def test_a_ticket_is_one_line_and_reads_back() -> None:
    assert LINE.isalnum()
    assert parse(LINE, NOW_S) == TICKET
    relayed = Ticket(HEAD, (), bytes(32), 2e9, "https://relay.example/")
    assert parse(relayed.encode(), NOW_S) == relayed
    assert parse(f"  {LINE[:40]}\r\n  {LINE[40:]}\n".upper(), NOW_S) == TICKET


def test_the_secret_stays_out_of_logs() -> None:
    assert "secret" not in repr(TICKET)


def test_an_expired_ticket_says_so() -> None:
    with pytest.raises(TicketInvalid, match="has expired; ask"):
        parse(LINE, 2_000_000_000.0)


@given(st.integers(7, len(LINE) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
@example(len(LINE) - 1, "t")  # the last character holds bits that carry nothing
def test_one_wrong_character_is_called_mangled_never_expired(at: int, character: str) -> None:
    line = LINE[:at] + character + LINE[at + 1 :]
    if line == LINE:
        return
    with pytest.raises(TicketInvalid, match="mangled"):
        parse(line, 3e9)


@given(st.integers(7, len(LINE) - 1))
def test_a_ticket_cut_short_is_called_mangled(length: int) -> None:
    with pytest.raises(TicketInvalid, match="mangled"):
        parse(LINE[:length], NOW_S)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("endpointabc", "not a Muster ticket"),
        ("muster2abcdef", "another version"),
        ("muster1" + "a" * 10_000, "mangled"),
        ("muster1é", "mangled"),
    ],
)
def test_what_is_no_ticket_gets_a_sentence(text: str, said: str) -> None:
    with pytest.raises(TicketInvalid, match=said):
        parse(text, NOW_S)


@given(st.text(max_size=200))
def test_any_text_is_a_ticket_or_an_error(text: str) -> None:
    for line in (text, "muster1" + text):
        with pytest.raises(TicketInvalid, match=";"):
            parse(line, NOW_S)


@pytest.mark.parametrize("address", ["example.com:1", "192.0.2.7", "192.0.2.7:0", "192.0.2.7:99999", ":1"])
def test_an_address_that_cannot_be_dialled_is_refused(address: str) -> None:
    with pytest.raises(TicketInvalid, match="no ip:port"):
        parse(Ticket(HEAD, (address,), bytes(32), 2e9).encode(), NOW_S)


def test_a_proof_is_good_for_one_node_one_head_and_one_secret() -> None:
    good = proof(TICKET.secret, NODE, HEAD)
    assert proof_holds(good, TICKET.secret, NODE, HEAD)
    assert not proof_holds(good, TICKET.secret, HEAD, NODE)
    assert not proof_holds(good, bytes(32), NODE, HEAD)
    assert not proof_holds(good, TICKET.secret, "3c" * 32, HEAD)
    assert not proof_holds(b"", TICKET.secret, NODE, HEAD)
