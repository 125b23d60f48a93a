"""The front door's view of the keys and usage that the broker's store keeps. Holds no secrets itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from muster.broker.store import ApiKey, Store
from muster.errors import NotAllowed

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class StoredKey:
    """Implements `KeyRecord`."""

    id: str
    name: str
    requests_per_minute: int | None
    tokens_left: int | None
    tokens_per_minute: int | None = None


class StoredKeys:
    """Implements `KeyStore`."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def has_keys(self) -> bool:
        keys = self._store.keys()
        return any(not key.revoked for key in keys)

    def verify(self, key: str) -> StoredKey | None:
        try:
            found = self._store.verify_key(key)
        except NotAllowed:
            return None
        return StoredKey(str(found.id), found.name, found.requests_per_minute, self._tokens_left(found))

    def record_usage(self, key_id: str, prompt_tokens: int, completion_tokens: int) -> None:
        self._store.add_usage(int(key_id), uuid4().hex, prompt_tokens, completion_tokens)

    def _tokens_left(self, key: ApiKey) -> int | None:
        if key.tokens_per_day is None:
            return None
        used = self._store.usage(key.id, since_s=self._clock() - DAY_S).total_tokens
        return max(0, key.tokens_per_day - used)
