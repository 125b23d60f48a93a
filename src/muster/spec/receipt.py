"""What machines put their names to: what crossed the boundary before a layer, for one request. Knows no cryptography.

    tokens   layer 0 .. a   boundary a   layer a .. b   boundary b   ...   logits
    head  ->  first stage  ------------> second stage  ------------>       (boundary num_layers)

Both ends of a boundary sign the same record, one in the role "sent", one in the role "received". Behind the last layer
the tokens are what crosses; the values beside them are of the logits that chose them, and the head is who receives.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from muster.spec.pool import NodeId

Role = Literal["sent", "received"]
TOKENS_PER_BLOCK = 32
"""A block of receipts ends at every position that this divides, and where a request ends."""
DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
NAME_BYTES = 16
BLOCKS_PER_SIGNATURE = 4
"""As long as a request goes on."""
MAX_BLOCKS = 256
"""Under one signature."""
VALUES_PER_TOKEN = 2
"""Of the boundary's hidden state, or of its logits, in a receipt."""
VALUE_BYTES = 2
MAX_POSITIONS = 2**24
MAX_LAYERS = 2**16


def receipt_name(request_id: str) -> bytes:
    """16 bytes that stand for a request in receipts: stages need not know what its client calls it."""
    return blake2b(request_id.encode(), digest_size=NAME_BYTES, person=b"muster receipt").digest()


@dataclass(frozen=True, slots=True)
class Commitment:
    """That positions [0, `end`) of a request have crossed a boundary, those from `start` on since the last commitment.

    `root` is the Merkle root of all blocks up to `end` (`verify.merkle`). Times are seconds since the Unix epoch, by
    the signer's clock.
    """

    role: Role
    sender: NodeId
    receiver: NodeId
    request: str
    """32 hexadecimal digits that stand for the request; stages know no more of it."""
    epoch: int
    layer: int
    start: int
    end: int
    manifest: str
    """BLAKE3 of the model's manifest, hexadecimal."""
    dtype: str
    """Of the hidden state, a torch name."""
    root: bytes
    at_s: float
    protocol: int
    signature: bytes = b""

    @property
    def signer(self) -> NodeId:
        return self.sender if self.role == "sent" else self.receiver


@dataclass(frozen=True, slots=True)
class ReceiptBlock:
    """Up to `TOKENS_PER_BLOCK` positions of one request at one boundary, as a receipt has them."""

    start: int
    count: int
    digest: bytes
    """BLAKE3 of the bytes of all rows as they travel, in order; behind the last layer of the tokens, 4 bytes each."""
    values: bytes
    """`VALUES_PER_TOKEN` values of each token, 16 bits each (`verify.fingerprint`)."""

    @property
    def end(self) -> int:
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class Receipt:
    """Blocks, and the commitment whose root they lead to."""

    commitment: Commitment
    blocks: tuple[ReceiptBlock, ...]
