"""What both ends of a link remember of the texts that crossed it: the last hidden state of each, packed.

    text  ->  a codec's header and bytes, and their digest

Both ends write the same in the same order, and forget the same when it gets too much, so their memories are equal. They
need not be believed to be: `compress/delta` holds digests against each other in every message.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3
from torch import Tensor

from muster.compress.registry import make_coder
from muster.spec.codec import Codec
from muster.wire.messages.base import TensorHeader

DIGEST_BYTES = 8
NOTHING = bytes(DIGEST_BYTES)
"""The digest of what is not remembered."""


@dataclass(frozen=True, slots=True)
class HeldText:
    header: TensorHeader
    payload: bytes
    digest: bytes


class RememberedTexts:
    def __init__(self, codec: str, max_bytes: int) -> None:
        """`codec` packs what is kept; the same bytes must come of the same values on every machine."""
        self.codec = codec
        self._coder = make_coder(Codec(codec))
        self._max_bytes = max_bytes
        self._held: OrderedDict[int, HeldText] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def pack(self, tensor: Tensor) -> HeldText:
        """As it would be kept."""
        header, payload = self._coder.encode(tensor)
        return held(header, bytes(payload))

    def unpack(self, kept: HeldText) -> Tensor:
        return self._coder.decode(kept.header, kept.payload, max_bytes=2**62)

    def keep(self, text: int, kept: HeldText) -> None:
        """What was kept longest without a new visit goes where there is no room."""
        self.forget((text,))
        self._held[text] = kept
        self.nbytes += len(kept.payload)
        while self.nbytes > self._max_bytes and len(self._held) > 1:
            self.forget((next(iter(self._held)),))

    def get(self, text: int) -> HeldText | None:
        return self._held.get(text)

    def forget(self, texts: Sequence[int] | None = None) -> None:
        """Of all texts, without `texts`."""
        for text in list(self._held) if texts is None else texts:
            gone = self._held.pop(text, None)
            self.nbytes -= len(gone.payload) if gone else 0

    def digests(self, texts: Sequence[int]) -> bytes:
        """`DIGEST_BYTES` of each."""
        return b"".join(kept.digest if (kept := self._held.get(text)) else NOTHING for text in texts)

    def check(self) -> None:
        """Raise `AssertionError` if the books are wrong."""
        assert self.nbytes == sum(len(kept.payload) for kept in self._held.values())
        assert all(kept.digest == held(kept.header, kept.payload).digest for kept in self._held.values())


def held(header: TensorHeader, payload: bytes) -> HeldText:
    about = f"{header.dtype} {header.shape} {header.codec}|".encode()
    return HeldText(header, payload, blake3(about + payload).digest(length=DIGEST_BYTES))
