"""A model's tokenizer: text to ids, ids to text, one id to its bytes. Knows nothing of requests or streams.

Ids become text through *bytes*: every token has its own bytes (`token_bytes`) and a text is the UTF-8 reading of
their concatenation, invalid bytes replaced. For byte-level tokenizers this equals the library's own `decode`, token
by token and in linear time. For the SentencePiece kind it differs in one intended way: a leading space of the first
token is kept, because an output continues a prompt ("Hello" + " world") and is not a text of its own.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from muster.errors import WeightsInvalid

_SOURCES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


class Tokenizer:
    """Wraps a fast tokenizer of `transformers` (`hugging_face`). Safe to use from several threads."""

    def __init__(self, hugging_face: Any, end_of_text_ids: Sequence[int] = ()) -> None:
        self.hugging_face = hugging_face
        self._rust = hugging_face.backend_tokenizer
        self.vocabulary_size: int = self._rust.get_vocab_size(with_added_tokens=True)
        self.end_of_text_ids = tuple(end_of_text_ids)
        self._special = {id for id, token in self._rust.get_added_tokens_decoder().items() if token.special}
        self._decoder = _Decoder.read(self._rust)
        self._anchor: list[int] = self._rust.encode("a", add_special_tokens=False).ids
        self._anchor_text: str = self._rust.decode(self._anchor)
        self._bytes: dict[int, bytes] = {}

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        template: str | dict[str, str] | None = self.hugging_face.chat_template
        return template

    @property
    def start_id(self) -> int | None:
        """What an empty prompt begins with: the begin-of-text token, else the end-of-text token, else nothing."""
        start: int | None = self.hugging_face.bos_token_id
        if start is None:
            start = self.hugging_face.eos_token_id
        return start

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        # Of a batch, even of one: `encode` holds the interpreter's lock for as long as a long text takes (seconds).
        (encoded,) = self._rust.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoded.ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """What the token adds to the text: nothing for special and unknown ids, maybe part of a character."""
        known = self._bytes.get(id)
        if known is None:
            known = self._bytes[id] = self._find_bytes(id)
        return known

    def display(self, id: int) -> tuple[str, list[int]]:
        """A token on its own, as log probabilities show it: readable text and bytes.

        A special token shows its name, and part of a character shows as `bytes:\\xe2\\x80`.
        """
        data = self.token_bytes(id) or (self._rust.id_to_token(id) or "").encode()
        try:
            return data.decode(), list(data)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), list(data)

    def _find_bytes(self, id: int) -> bytes:
        piece: str | None = self._rust.id_to_token(id) if 0 <= id < self.vocabulary_size else None
        if piece is None or id in self._special:
            return b""
        direct = self._decoder.piece_bytes(piece)
        if direct is not None:
            return direct
        # No rule of our own: what the library's decoder adds after a known text.
        text: str = self._rust.decode([*self._anchor, id])
        return text[len(self._anchor_text) :].encode("utf-8", errors="replace")


class _Decoder:
    """How a vocabulary entry spells bytes, read from the tokenizer's own decoder description."""

    def __init__(self, byte_level: bool, byte_fallback: bool, word_end: str | None) -> None:
        self.byte_level = byte_level
        self.byte_fallback = byte_fallback
        self.word_end = word_end

    @staticmethod
    def read(rust: Any) -> "_Decoder":
        described = json.loads(rust.to_str())["decoder"]
        steps = {step["type"]: step for step in _decoder_steps(described)}
        word_end = steps["BPEDecoder"]["suffix"] if "BPEDecoder" in steps else None
        return _Decoder("ByteLevel" in steps, "ByteFallback" in steps, word_end)

    def piece_bytes(self, piece: str) -> bytes | None:
        if self.byte_level:
            try:
                return bytes(_BYTE_OF_CHARACTER[character] for character in piece)
            except KeyError:  # an added token, spelled as itself
                return piece.encode()
        if self.byte_fallback and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        if self.word_end:
            return piece.replace(self.word_end, " ").encode()
        return None


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


def load_tokenizer(path: Path) -> Tokenizer:
    """Load from a model directory, or from a `tokenizer.json` beside its companions. Never runs code of the model.

    Raises `WeightsInvalid` where there is no tokenizer or where it cannot be read.
    """
    directory = path.parent if path.is_file() else path
    if not any((directory / name).is_file() for name in _SOURCES):
        raise WeightsInvalid(
            f"No tokenizer in {directory} (looked for tokenizer.json); copy the model's tokenizer.json there."
        )
    hugging_face = _load_hugging_face(directory)
    if not hasattr(hugging_face, "backend_tokenizer"):
        raise WeightsInvalid(
            f"The tokenizer in {directory} has no fast form; save a tokenizer.json there "
            "with transformers' AutoTokenizer and save_pretrained."
        )
    return Tokenizer(hugging_face, _end_of_text_ids(directory, hugging_face.eos_token_id))


def _load_hugging_face(directory: Path) -> Any:
    # Imported here because it takes seconds, and most commands need no tokenizer.
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsInvalid(
            f"The tokenizer in {directory} cannot be read ({reason[:200]}); "
            "put a valid tokenizer.json there, for example by downloading the model again."
        ) from error


def _end_of_text_ids(directory: Path, of_tokenizer: int | None) -> list[int]:
    """As `transformers` decides it: generation_config.json, else config.json, else the tokenizer's own."""
    for name in ("generation_config.json", "config.json"):
        described = _read_json(directory / name)
        found = described.get("eos_token_id")
        if found is None and isinstance(described.get("text_config"), dict):
            found = described["text_config"].get("eos_token_id")
        if isinstance(found, int):
            return [found]
        if isinstance(found, list) and found and all(isinstance(id, int) for id in found):
            return found
    return [] if of_tokenizer is None else [of_tokenizer]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsInvalid(f"{path} cannot be read ({error}); download the model again.") from error
    return described if isinstance(described, dict) else {}
