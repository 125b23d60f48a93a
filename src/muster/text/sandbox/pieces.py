"""What each id adds to a text, in bytes: read from the tokenizer's own decoder description where there is a rule."""

import json
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from muster.text.calls import Failed, Spellings
from muster.text.sandbox.loop import Refusal

MAX_ID = 2**24

_METASPACE = "▁"


def spellings(rust: Any) -> Spellings:
    """Of every id up to the largest. Between them there may be some that no entry has."""
    special = {id for id, token in rust.get_added_tokens_decoder().items() if token.special}
    entries = {id: entry for entry, id in rust.get_vocab(with_added_tokens=True).items()}
    size = max(entries, default=-1) + 1
    if size > MAX_ID:
        raise Refusal(Failed("refused", f"it has the id {size - 1}, and {MAX_ID} is the limit"))
    spell = speller(rust)
    spelled, ends, names = bytearray(), array("I"), {}
    for id in range(size):
        entry = entries.get(id)
        added = b"" if entry is None or id in special else spell(id, entry)
        spelled += added
        ends.append(len(spelled))
        if entry is not None and not added:
            names[id] = entry
    return Spellings(bytes(spelled), ends.tobytes(), names)


def speller(rust: Any) -> Callable[[int, str], bytes]:
    """A function of an id and its entry: the bytes that it adds to a text, a leading space included.

    Where no rule of our own fits, it is what the library's decoder adds after a known text.
    """
    steps = list(_decoder_steps(_description_of(rust.decoder)))
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return lambda id, piece: _byte_level(piece)
    if "BPEDecoder" in kinds:
        word_end = next(step["suffix"] for step in steps if step["type"] == "BPEDecoder")
        return lambda id, piece: piece.replace(word_end, " ").encode()
    if all(_is_of_sentence_piece(step) for step in steps) and kinds & {"Metaspace", "Replace"}:
        falls_back = "ByteFallback" in kinds
        return lambda id, piece: _sentence_piece(piece, falls_back)
    return _after_known_text(rust, "ByteFallback" in kinds)


def _byte_level(piece: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in piece)
    except KeyError:  # an added token, spelled as itself
        return piece.encode()


def _is_of_sentence_piece(step: dict[str, Any]) -> bool:
    """Spaces are spelled ▁, bytes may be spelled <0xNN>, and the space before the first word is dropped."""
    kind = step["type"]
    if kind == "Metaspace":
        return bool(step["replacement"] == _METASPACE)
    if kind == "Replace":
        return bool(step["pattern"] == {"String": _METASPACE} and step["content"] == " ")
    if kind == "Strip":
        return bool(step["content"] == " " and step["start"] <= 1 and step["stop"] == 0)
    return kind in ("ByteFallback", "Fuse")


def _sentence_piece(piece: str, falls_back: bool) -> bytes:
    byte = _fallen_back(piece) if falls_back else None
    return piece.replace(_METASPACE, " ").encode() if byte is None else byte


def _fallen_back(piece: str) -> bytes | None:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            return None
    return None


def _after_known_text(rust: Any, falls_back: bool) -> Callable[[int, str], bytes]:
    anchor: list[int] = rust.encode("a", add_special_tokens=False).ids
    anchor_text: str = rust.decode(anchor)

    def spell(id: int, piece: str) -> bytes:
        byte = _fallen_back(piece) if falls_back else None
        if byte is not None:
            return byte
        text: str = rust.decode([*anchor, id])
        return text[len(anchor_text) :].encode("utf-8", errors="replace")

    return spell


def _description_of(decoder: Any) -> dict[str, Any] | None:
    if decoder is None:
        return None
    described: dict[str, Any] = json.loads(decoder.__getstate__())
    return described


def _decoder_steps(described: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if described is None:
        return
    if described["type"] == "Sequence":
        for step in described["decoders"]:
            yield from _decoder_steps(step)
    else:
        yield described


def _byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_characters()
