"""Letters between places: what was sent comes out, and what is not due is refused before it is kept."""

from collections.abc import Callable

import pytest
import torch
from msgspec.structs import replace

from muster.errors import ProtocolViolation
from muster.train import pieces
from muster.train.pieces import Letter, LetterOrigin, as_they_are, origin_of, packed_texts, to_pieces
from muster.wire.messages.train import TensorPiece

ORIGIN = LetterOrigin(3, 1, 2, "shared", 1)
TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).view(3, 4),
    "empty": torch.zeros(0, 7),
    "one": torch.tensor(5.0),
    "b": torch.randn(5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


def numel(name: str) -> int | None:
    return SHAPES[name].numel() if name in SHAPES else None


def sent() -> list[tuple[TensorPiece, bytes]]:
    return list(to_pieces(as_they_are(TENSORS), ORIGIN, epoch=7, round=2))


def read(letters: list[tuple[TensorPiece, bytes]]) -> Letter:
    letter = Letter()
    for piece, payload in letters:
        letter.add(piece, payload, numel)
    return letter


@pytest.mark.parametrize("piece_bytes", [5, 16, 2**20])
def test_what_was_sent_comes_out_whatever_the_pieces(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    letters = sent()
    assert {origin_of(piece) for piece, _ in letters} == {ORIGIN}
    for count in range(1, len(letters)):
        assert not read(letters[:count]).is_whole
    letter = read(letters)
    assert letter.is_whole
    found = letter.open(SHAPES)
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def test_a_letter_without_tensors_is_whole_at_once() -> None:
    letter = read(list(to_pieces({}, ORIGIN, epoch=7, round=2)))
    assert letter.is_whole
    assert letter.open({}) == {}


def test_a_payload_is_a_copy() -> None:
    tensor = torch.zeros(4)
    ((_, payload),) = to_pieces(as_they_are({"a": tensor}), ORIGIN, epoch=7, round=2)
    tensor += 1
    assert payload == bytes(16)


Change = Callable[[list[tuple[TensorPiece, bytes]]], list[tuple[TensorPiece, bytes]]]
LIES: dict[str, Change] = {
    "an unknown name": lambda all: [(replace(all[0][0], name="other"), all[0][1])],
    "more bytes than are due": lambda all: [(replace(all[0][0], nbytes=2**40), all[0][1])],
    "negative bytes": lambda all: [(replace(all[0][0], nbytes=-1), all[0][1])],
    "a payload beyond its tensor": lambda all: [(all[0][0], all[0][1] + b"x")],
    "a hole": lambda all: [(replace(all[0][0], offset=1), all[0][1])],
    "the same again": lambda all: [all[0], all[0]],
    "one left out": lambda all: [all[0], all[2]],
    "one behind the end": lambda all: [*all, all[-1]],
    "an end too early": lambda all: [(replace(all[0][0], left=0), all[0][1]), all[1]],
    "fewer than none left": lambda all: [(replace(all[0][0], left=-1), all[0][1])],
    "nothing, and then something": lambda all: [(replace(all[0][0], name="", header=None), b""), all[0]],
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_due_is_refused(lie: str) -> None:
    with pytest.raises(ProtocolViolation):
        read(LIES[lie](sent()))


def test_a_tensor_of_another_shape_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="not due"):
        read(sent()).open(SHAPES | {"a": torch.Size((4, 3))})


def test_texts_travel_below_each_other_and_none_as_none() -> None:
    texts = [torch.arange(10).view(2, 5), torch.arange(5).view(1, 5)]
    header, payload = packed_texts(texts, 4)
    assert header.shape == (3, 5)
    assert len(payload) == 60
    assert packed_texts([], 4)[0].shape == (0, 5)
