"""Pieces of a stream are what `json.dumps` would write, in ASCII, whatever they say."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.api.framing import CHUNKS, LINES, MESSAGES
from tests.examples import examples

PIECES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@examples(100)
@given(st.dictionaries(st.text(), PIECES, max_size=4))
def test_a_piece_is_one_line_of_ascii_that_says_what_it_is_to_say(piece: dict[str, object]) -> None:
    for written in (CHUNKS.frame(piece).removeprefix(b"data: ").removesuffix(b"\n\n"), LINES.frame(piece)[:-1]):
        assert json.loads(written) == piece
        assert len(written.decode("ascii").splitlines()) == 1


@pytest.mark.parametrize("text", ["plain", "naïve", "\u2028", "\ud800", "a\x7fb\x1c"])
def test_plain_text_and_text_that_needs_escapes_look_alike(text: str) -> None:
    piece = {"type": "delta", "text": text, "more": [1, None]}
    assert (
        MESSAGES.frame(piece).replace(b"\x7f", rb"\u007f") == b"event: delta\ndata: %b\n\n" % json.dumps(piece).encode()
    )
