"""What the front door needs from whatever generates. Knows nothing of HTTP or text."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from muster.spec.request import Progress, Request


class Backend(Protocol):
    """A pool, or a fake of one."""

    @property
    def model(self) -> str:
        """The name that requests call the model by."""

    @property
    def max_context(self) -> int:
        """Tokens of prompt and output together that one request may have."""

    @property
    def vocab_size(self) -> int:
        """The model's token ids go from 0 to below it. Its tokenizer may have names for fewer of them."""

    def generate(self, request: Request) -> AsyncIterator[Progress]:
        """Yield the request's tokens as they come; the last `Progress` says how it finished. Raises `MusterError`.

        The iterator is closed (`aclose`) when the client leaves or a stop string is met; that cancels the request.
        """

    def status(self) -> Mapping[str, Any]:
        """Numbers for `/metrics`, nested as the caller likes; `ready: False` turns `/health` to 503."""
