"""How a running worker or head tells what happens. Knows nothing of who listens."""

from typing import Any, Protocol


class Announce(Protocol):
    """Told what happens: a name for programs, a sentence for people, facts for both."""

    def __call__(self, event: str, sentence: str, **facts: Any) -> None: ...
