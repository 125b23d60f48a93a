"""Wakes everyone who waits for something to change, so that each can look again. Knows nothing of what changed."""

from asyncio import Event


class Change:
    def __init__(self) -> None:
        self._event = Event()

    async def wait(self) -> None:
        """Until the next `tell`."""
        await self._event.wait()

    def tell(self) -> None:
        # A fresh event each time: who waits now is woken once, who waits later waits for the next change.
        self._event.set()
        self._event = Event()
