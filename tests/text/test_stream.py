"""Streams release exactly the decoded text, never half a character, and stop where they should."""

from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from muster.text.stream import Released, StopStrings, TextStream, TokenSpan
from muster.text.tokenizer import Tokenizer
from tests.examples import examples

relaxed = examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stream(tokenizer: Tokenizer, ids: list[int], stops: list[str]) -> tuple[list[Released], TextStream]:
    text_stream = TextStream(tokenizer.token_bytes, stops)
    released = []
    for id in ids:
        released.append(text_stream.push(id))
        if text_stream.stopped:
            break
    released.append(text_stream.finish())
    return released, text_stream


def cut(text: str, stops: list[str]) -> str:
    """The plain reading: go through the text character by character and stop at the first completed stop string."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@relaxed
@given(ids=st.lists(st.integers(0, 401), max_size=40))
def test_the_pieces_of_any_ids_concatenate_to_the_full_decode(byte_level: Tokenizer, ids: list[int]) -> None:
    released, _ = stream(byte_level, ids, [])
    assert "".join(piece.text for piece in released) == byte_level.hugging_face.decode(ids, skip_special_tokens=True)


@relaxed
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: "\ufffd" not in text))
def test_no_piece_of_valid_text_holds_half_a_character(byte_level: Tokenizer, text: str) -> None:
    released, _ = stream(byte_level, byte_level.encode(text), [])
    assert not any("\ufffd" in piece.text for piece in released)


def test_a_character_of_four_tokens_comes_out_once_and_whole(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("🦀")
    assert len(ids) > 1
    released, _ = stream(byte_level, ids, [])
    assert [piece.text for piece in released] == [""] * (len(ids) - 1) + ["🦀", ""]


def test_an_unfinished_character_becomes_a_replacement_at_the_end(byte_level: Tokenizer) -> None:
    released, _ = stream(byte_level, byte_level.encode("🦀")[:-1], [])
    assert released[-1].text == "\ufffd"
    assert len(released[-1].tokens) == len(released) - 1


@relaxed
@given(
    text=st.text("abcé🎉 ", max_size=40),
    stops=st.lists(st.text("abcé🎉 ", min_size=1, max_size=4), max_size=4),
)
def test_stop_strings_cut_where_plain_reading_would(byte_level: Tokenizer, text: str, stops: list[str]) -> None:
    ids = byte_level.encode(text)
    released, text_stream = stream(byte_level, ids, stops)
    assert "".join(piece.text for piece in released) == cut(text, stops)
    assert text_stream.stopped == any(stop in text for stop in stops)


@relaxed
@given(pieces=st.lists(st.text("ab", max_size=4), max_size=12), stops=st.lists(st.text("ab", min_size=1), max_size=4))
def test_stopping_does_not_depend_on_how_the_text_was_cut_up(pieces: list[str], stops: list[str]) -> None:
    checker = StopStrings(stops)
    pushed = "".join([checker.push(piece) for piece in pieces])
    text = pushed + checker.finish()
    assert text == cut("".join(pieces), stops)


@relaxed
@given(text=st.text("abc", max_size=20), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_nothing_is_held_back_without_a_reason(text: str, stops: list[str]) -> None:
    checker = StopStrings(stops)
    out = checker.push(text)
    if checker.matched is None:
        held = text[len(out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


@relaxed
@given(
    ids=st.lists(st.integers(0, 401), max_size=30),
    stops=st.lists(st.sampled_from(["a", "the", "e q", "\n", "é"]), max_size=3),
)
def test_every_token_is_released_once_in_order_with_its_place_in_the_text(
    byte_level: Tokenizer, ids: list[int], stops: list[str]
) -> None:
    released, text_stream = stream(byte_level, ids, stops)
    spans = [span for piece in released for span in piece.tokens]
    assert [span.index for span in spans] == list(range(len(spans)))
    assert [span.start for span in spans] == sorted(span.start for span in spans)
    text = "".join(piece.text for piece in released)
    if not text_stream.stopped:
        assert len(spans) == len(ids)
    assert all(span.start <= len(text) for span in spans)


def test_tokens_wait_for_their_text_and_those_of_the_stop_string_never_come(byte_level: Tokenizer) -> None:
    text_stream = TextStream(byte_level.token_bytes, ["xyz"])
    a, x, y, z = (byte_level.encode(character)[0] for character in "axyz")
    assert text_stream.push(a) == Released("a", (TokenSpan(0, 0),))
    assert text_stream.push(x) == Released("", ())
    assert text_stream.push(a) == Released("xa", (TokenSpan(1, 1), TokenSpan(2, 2)))
    for token in (x, y, z):
        assert text_stream.push(token) == Released("", ())
    assert text_stream.stopped
    assert text_stream.finish() == Released("", ())


def test_a_stop_string_in_the_first_tokens_does_not_count_where_they_are_exempt(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("no STOP yet, STOP here")
    first = len(byte_level.encode("no STOP yet"))
    text_stream = TextStream(byte_level.token_bytes, ["STOP"], stops_after_tokens=first)
    text = "".join([text_stream.push(id).text for id in ids] + [text_stream.finish().text])
    assert (text, text_stream.stopped) == ("no STOP yet, ", True)
