"""AQ-SGD: send the change of a text's hidden state since its last visit (Wang et al., arXiv 2206.01299, algorithm 1).

Both ends remember m(text). On the first visit the hidden state goes in full, later Q(hidden - m), and both ends set
m to m + Q(hidden - m). The receiver computes on m, so its error is that of the change, not of the value.

    [kind] [digest of m before, 8 bytes a text] [digest of m after, likewise] [tensor]

    full      the tensor in its own type: some text of the message was not here before
    change    its change, quantized with one scale for each channel over all texts of the message
    kept      m as the sender keeps it, packed: asked for by a receiver that is out of step

A receiver that does not have the m before, or not the m after, raises `OutOfStep`, whatever the reason: a message was
lost, a stage has moved to another machine, memory ran out, a machine reckons otherwise. The sender then sends `kept`,
and both are equal again. A sender that remembers nothing sends in full. So neither end needs to be told of the other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from muster.compress import raw
from muster.compress.registry import Packed, make_coder
from muster.compress.remembered import DIGEST_BYTES, HeldText, RememberedTexts, held
from muster.errors import MalformedFrame, OutOfStep
from muster.spec.codec import Codec
from muster.wire.messages.base import TensorHeader
from muster.wire.tensor import check_tensor, tensor_bytes

FULL, CHANGE, KEPT = range(3)
PREFIX = "aq-"
Texts = Sequence[int]
"""What a message holds hidden states of, in the order of its first dimension; the same number is the same text."""


class DeltaSender:
    def __init__(self, bits: int, remembered: RememberedTexts) -> None:
        self.name, self.remembered = f"{PREFIX}{bits}", remembered
        self._quantizer = make_coder(Codec(f"channel-{bits}"))

    def encode(self, tensor: Tensor, texts: Texts) -> tuple[TensorHeader, Packed]:
        """`tensor` is [texts, tokens, hidden]. Raises `MachineTrouble` for what is no number."""
        tensor = tensor.detach().to("cpu")
        bases = [self.remembered.get(text) for text in texts]
        before = self.remembered.digests(texts)
        payload: Packed
        if _same(texts) or any(base is None or base.header.shape != tensor.shape[1:] for base in bases):
            kind, payload, after = FULL, raw.encode(tensor)[1], tensor
        else:
            base = _stacked(self.remembered, bases)
            header, payload = self._quantizer.encode(tensor.float() - base)
            kind, after = CHANGE, base + self._quantizer.decode(header, payload, tensor_bytes(header))
        kept = [self.remembered.pack(one) for one in after.to(tensor.dtype)]
        for text, one in zip(texts, kept, strict=True):
            self.remembered.keep(text, one)
        header = _with_codec(raw.encode(tensor)[0], self.name)
        return header, b"".join((bytes([kind]), before, *(one.digest for one in kept), payload))

    def resend(self, texts: Texts) -> tuple[TensorHeader, Packed]:
        """What this end remembers of `texts`, for a receiver that is out of step. Raises `OutOfStep` without it."""
        kept = [one for text in texts if (one := self.remembered.get(text)) is not None]
        if len(kept) < len(texts) or not kept:
            raise OutOfStep("A hidden state that is asked for again is no longer remembered; the step is to be redone.")
        header = TensorHeader(dtype=kept[0].header.dtype, shape=(len(kept), *kept[0].header.shape), codec=self.name)
        digests = self.remembered.digests(texts)
        return header, b"".join((bytes([KEPT]), digests, digests, *(one.payload for one in kept)))


class DeltaReceiver:
    def __init__(self, bits: int, remembered: RememberedTexts) -> None:
        self.name, self.remembered = f"{PREFIX}{bits}", remembered
        self._quantizer = make_coder(Codec(f"channel-{bits}"))

    def decode(self, header: TensorHeader, payload: Packed, texts: Texts, max_bytes: int) -> Tensor:
        """m after the message. Raises `OutOfStep`, having changed nothing, where `resend` is to be asked for.

        What comes raw is given back and not remembered. Raises `FrameTooLarge` and `MalformedFrame` as all decoders.
        """
        if header.codec == raw.CODEC:
            return raw.decode(header, payload, max_bytes)
        kind, before, after, body = self._taken_apart(header, payload, texts)
        if kind == FULL:
            result = raw.decode(_with_codec(header, raw.CODEC), body, max_bytes)
            kept = [self.remembered.pack(one) for one in result]
        elif kind == CHANGE:
            result = self._changed(header, body, texts, before, max_bytes)
            kept = [self.remembered.pack(one) for one in result]
        else:
            kept = self._as_kept(header, body, texts, max_bytes)
            result = torch.stack([self.remembered.unpack(one) for one in kept])
        if b"".join(one.digest for one in kept) != after and not _same(texts):
            raise OutOfStep("Two machines remember different hidden states of a text; it is to be sent again.")
        for text, one in zip(texts, kept, strict=True):
            self.remembered.keep(text, one)
        return result

    def _taken_apart(self, header: TensorHeader, payload: Packed, texts: Texts) -> tuple[int, bytes, bytes, memoryview]:
        check_tensor(header, 0)
        view, digests = memoryview(payload), DIGEST_BYTES * len(texts)
        if header.codec != self.name or len(view) < 1 + 2 * digests or view[0] > KEPT:
            raise MalformedFrame(f"A tensor came in codec {header.codec[:20]!r} on a link that carries {self.name}.")
        if not header.shape or header.shape[0] != len(texts) or not texts:
            raise MalformedFrame(f"Hidden states {list(header.shape)} came where those of {len(texts)} texts are due.")
        return (
            view[0],
            bytes(view[1 : 1 + digests]),
            bytes(view[1 + digests : 1 + 2 * digests]),
            view[1 + 2 * digests :],
        )

    def _changed(self, header: TensorHeader, body: memoryview, texts: Texts, before: bytes, max_bytes: int) -> Tensor:
        change = self._quantizer.decode(
            TensorHeader(dtype="float32", shape=header.shape, codec=f"channel-{self.name.removeprefix(PREFIX)}"),
            body,
            2 * max_bytes,
        )
        bases = [self.remembered.get(text) for text in texts]
        if self.remembered.digests(texts) != before or any(one is None for one in bases):
            raise OutOfStep("The change of a hidden state came that is not remembered here; it is to be sent in full.")
        if any(one is not None and one.header.shape != header.shape[1:] for one in bases):
            raise MalformedFrame("The change of a hidden state came in another shape than the state has.")
        return (_stacked(self.remembered, bases) + change).to(getattr(torch, header.dtype))

    def _as_kept(self, header: TensorHeader, body: memoryview, texts: Texts, max_bytes: int) -> list[HeldText]:
        each, rest = divmod(len(body), len(texts))
        if rest or tensor_bytes(header) > max_bytes:
            raise MalformedFrame("Hidden states that were asked for again came in another size; update both machines.")
        inner = TensorHeader(dtype=header.dtype, shape=header.shape[1:], codec=self.remembered.codec)
        kept = [held(inner, bytes(body[each * index : each * (index + 1)])) for index in range(len(texts))]
        for one in kept:
            self.remembered.unpack(one)
        return kept


def delta_bits(name: str) -> int | None:
    """Of `aq-B`, B from 1 to 8; None for another codec."""
    bits = name.removeprefix(PREFIX)
    return int(bits) if name.startswith(PREFIX) and bits in tuple("12345678") else None


def _same(texts: Texts) -> bool:
    """Whether a text is twice in one message; two changes of it cannot go at once."""
    return len(set(texts)) < len(texts)


def _stacked(remembered: RememberedTexts, bases: Sequence[HeldText | None]) -> Tensor:
    return torch.stack([remembered.unpack(one).float() for one in bases if one is not None])


def _with_codec(header: TensorHeader, codec: str) -> TensorHeader:
    return TensorHeader(dtype=header.dtype, shape=header.shape, codec=codec)
