"""The receipts of the last requests, by request. Pure: knows no connection and no clock."""

from collections import OrderedDict

from muster.errors import InvalidRequest
from muster.spec.pool import NodeId
from muster.spec.receipt import receipt_name
from muster.verify.receipts import BrokenChain, ReceiptRing, RequestReceipts
from muster.verify.signing import ClockSkew
from muster.wire.messages.receipts import MAX_RECEIPTS, Receipts

MAX_BYTES = 64 * 2**20
"""Of all receipts; the requests that nothing was added to for the longest time go first."""


class ReceiptShelf:
    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._requests: OrderedDict[bytes, RequestReceipts] = OrderedDict()
        self.nbytes = 0
        self.gaps = 0
        """Receipts that were left out: they do not follow from those that are here, since some were lost on the way, or
        the clock of their machine is wrong."""

    def file(self, ring: ReceiptRing, node: NodeId, message: Receipts, now_s: float) -> None:
        """`now_s` is in seconds since the Unix epoch. Raises `ProtocolViolation` for the first that is none.

        What only comes at the wrong time, by the calendar or in its order, is left out and nobody is blamed.
        """
        for one in message.signed[:MAX_RECEIPTS]:
            receipts = self._requests.get(one.request) or RequestReceipts(one.request)
            before = receipts.nbytes
            try:
                receipts.add(ring, node, one, now_s)
            except (BrokenChain, ClockSkew):
                self.gaps += 1
                continue
            self._requests[one.request] = receipts
            self._requests.move_to_end(one.request)
            self.nbytes += receipts.nbytes - before
        while self.nbytes > self._max_bytes:
            _, oldest = self._requests.popitem(last=False)
            self.nbytes -= oldest.nbytes

    def of(self, request_id: str) -> RequestReceipts:
        """Raises `InvalidRequest` where there are none."""
        found = self._requests.get(receipt_name(request_id))
        if found is None:
            raise InvalidRequest(
                f"There are no receipts of request {request_id[:60]!r}; they come some seconds after its last token, "
                "only from pipelines of several stages, and the oldest are thrown away.",
                "request",
            )
        return found

    def check(self) -> None:
        """Raise `AssertionError` unless the bytes are counted right."""
        assert self.nbytes == sum(one.nbytes for one in self._requests.values()), "bytes are miscounted"
