"""How hidden states and their gradients are packed on the way between stages. Knows no transport.

One `StageLinks` for each place. Whoever carries messages packs what a place sends and unpacks what it receives:

    parcels = links.pack(send)          ... the wire ...          tensors = links.unpack(receive, parcels)

With `aq-B` both ends remember texts. Where `unpack` raises `OutOfStep`, ask the sender for `resend` of the same message
and unpack that; it changes nothing else, in particular not what the sender's stage goes on to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from muster.compress import raw
from muster.compress.adaptive import AdaptiveTopK
from muster.compress.delta import DeltaReceiver, DeltaSender, delta_bits
from muster.compress.registry import Coder, Packed, check_known, make_coder
from muster.compress.remembered import RememberedTexts
from muster.errors import MalformedFrame, Unsupported
from muster.spec.codec import Codec
from muster.spec.training import LinksTable
from muster.train.instructions import Kind, Place, Receive, SendLetter
from muster.wire.messages.base import TensorHeader
from muster.wire.tensor import MAX_TENSOR_BYTES

Parcels = Mapping[str, tuple[TensorHeader, Packed]]
ADAPTIVE = "ada-top-k"
ONE_PASS = "tile-4"
"""What takes the place of `aq-B` where no text comes twice."""
_PACKED: tuple[Kind, ...] = ("activations", "gradients")


@dataclass(slots=True)
class Traffic:
    """Bytes that one place has sent in steps, of one kind; what is only scored is not counted."""

    raw: int = 0
    """As they would be without a codec."""
    sent: int = 0


def check_links(links: LinksTable) -> None:
    """Raise `Unsupported` for a codec that this version does not have."""
    for name in (links.forward, links.backward):
        if name == ADAPTIVE or (delta_bits(name) is not None and name == links.forward):
            continue
        if delta_bits(name) is not None:
            raise Unsupported(
                f"{name} is for hidden states, which come again, not for gradients; use int8.", "backward"
            )
        check_known(Codec(name))


def settled(links: LinksTable, visits: float) -> LinksTable:
    """What is used where a text is seen `visits` times in all: memories of texts that never return are of no use."""
    if delta_bits(links.forward) is not None and visits <= 1:
        return links.model_copy(update={"forward": ONE_PASS})
    return links


class StageLinks:
    def __init__(self, place: Place, links: LinksTable, seed: int = 0) -> None:
        """`seed` is of whatever is rounded at random."""
        self._place, self._links = place, links
        self._seed = seed * 1009 + place.pipeline * 101 + place.stage
        bits = delta_bits(links.forward)
        self.sender = None if bits is None else DeltaSender(bits, RememberedTexts(links.buffers, links.buffer_bytes))
        """Of hidden states that others remember, and below of those that come here."""
        self.receiver = (
            None if bits is None else DeltaReceiver(bits, RememberedTexts(links.buffers, links.buffer_bytes))
        )
        self._coders = {kind: self._coder(kind) for kind in _PACKED}
        self.adaptive = {kind: one for kind, one in self._coders.items() if isinstance(one, AdaptiveTopK)}
        """Of those that are told how much to shrink."""
        self.traffic: dict[Kind, Traffic] = {}

    def pack(self, send: SendLetter) -> Parcels:
        """Each tensor's header and bytes, which may be the tensor's own memory: send first, change later."""
        parcels = {name: self._encode(tensor, send) for name, tensor in send.tensors.items()}
        if send.texts or send.label.kind not in _PACKED:
            counted = self.traffic.setdefault(send.label.kind, Traffic())
            counted.raw += sum(tensor.nbytes for tensor in send.tensors.values())
            counted.sent += sum(len(payload) for _, payload in parcels.values())
        return parcels

    def unpack(self, receive: Receive, parcels: Parcels, max_bytes: int = MAX_TENSOR_BYTES) -> dict[str, Tensor]:
        """Raises `OutOfStep`, having changed nothing, where the sender is to be asked for `resend`.

        Raises `FrameTooLarge` and `MalformedFrame` for what cannot be a tensor of at most `max_bytes`.
        """
        return {name: self._decode(*parcel, receive, max_bytes) for name, parcel in parcels.items()}

    def resend(self, receive: Receive) -> Parcels:
        """What the receiver of a hidden state is to remember. Raises `OutOfStep` if this end does not know either."""
        if self.sender is None:
            raise MalformedFrame("A hidden state was asked for again on a link that sends no changes.")
        return {"hidden": self.sender.resend(receive.texts)}

    def forget(self) -> None:
        """All texts, as a place does that begins anew. The other ends find out by themselves."""
        for one in (self.sender, self.receiver):
            if one is not None:
                one.remembered.forget()

    def _coder(self, kind: Kind) -> AdaptiveTopK | Coder:
        name = self._links.forward if kind == "activations" else self._links.backward
        if name == ADAPTIVE:
            return AdaptiveTopK()
        return make_coder(Codec(raw.CODEC if delta_bits(name) is not None else name), self._seed)

    def _encode(self, tensor: Tensor, send: SendLetter) -> tuple[TensorHeader, Packed]:
        # What is scored is scored as the model will be served; what is no number is found by the stages themselves.
        if not send.texts or send.label.kind not in _PACKED or not bool(torch.isfinite(tensor).all()):
            return raw.encode(tensor)
        if send.label.kind == "activations" and self.sender is not None:
            return self.sender.encode(tensor, send.texts)
        return self._coders[send.label.kind].encode(tensor)

    def _decode(self, header: TensorHeader, payload: Packed, receive: Receive, max_bytes: int) -> Tensor:
        if header.codec == raw.CODEC or not receive.texts or receive.label.kind not in _PACKED:
            return raw.decode(header, payload, max_bytes)
        if receive.label.kind == "activations" and self.receiver is not None:
            return self.receiver.decode(header, payload, receive.texts, max_bytes)
        return self._coders[receive.label.kind].decode(header, payload, max_bytes)
