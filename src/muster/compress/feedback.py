"""Error feedback: what a codec lost of one message is added to the next (Seide et al., 2014; Karimireddy et al., 2019).

For one tensor that is sent again and again, such as a gradient. Over many messages everything arrives.
"""

import torch
from torch import Tensor

from muster.compress.registry import Coder, Packed
from muster.wire.messages.base import TensorHeader

MAX_BYTES = 2**40
"""What the sender decodes is its own."""


class ErrorFeedback:
    """Wraps a `Coder` of which it is the only sender; implements `Encode`. The receiver needs no more than `decode`."""

    def __init__(self, coder: Coder, keeps: float = 1.0) -> None:
        """`keeps` is the share of the old error that counts in each message; SparseLoCo takes 0.95."""
        self._coder, self._keeps = coder, keeps
        self.error: Tensor | None = None
        """float32, of the last message. None before the first."""
        self.decoded: Tensor | None = None
        """The last message as the receiver has it."""

    def __call__(self, tensor: Tensor) -> tuple[TensorHeader, Packed]:
        """A tensor of another shape begins anew."""
        wanted = tensor.detach().float()
        if self.error is not None and self.error.shape == wanted.shape:
            wanted = torch.add(wanted, self.error, alpha=self._keeps)
        header, payload = self._coder.encode(wanted)
        self.decoded = self._coder.decode(header, payload, MAX_BYTES).to(wanted.device)
        self.error = wanted - self.decoded
        return header, payload
