"""Who may enter and how much they may use. Knows nothing of where keys are stored or how they are hashed.

Limits are token buckets in memory: a key that rests for a minute may use a minute's worth at once. Tokens are charged
as they are read and generated, not estimated beforehand, so one request may overdraw the bucket; the key then waits
until the debt is worked off.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from muster.errors import InvalidRequest, LimitReached, NotAllowed


class KeyRecord(Protocol):
    """What the door knows of a valid key. `None` means no limit."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def tokens_per_minute(self) -> int | None: ...
    @property
    def tokens_left(self) -> int | None:
        """What remains of the key's total, as of now."""


class KeyStore(Protocol):
    """Called from worker threads, since a database may be far away."""

    def has_keys(self) -> bool:
        """Whether any key is configured, revoked ones not counted."""

    def verify(self, key: str) -> KeyRecord | None:
        """The key's record, or None for an unknown or revoked key."""

    def record_usage(self, key_id: str, prompt_tokens: int, completion_tokens: int) -> None: ...


class KeyLimitReached(LimitReached):
    """Carries what the Retry-After header says."""

    def __init__(self, message: str, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Remaining:
    """What a key may still use of one of its limits."""

    per_minute: int
    left: int
    full_in_s: float


class _Bucket:
    """Holds up to `per_minute` units and refills evenly; its level may fall below zero."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute)
        self._updated_s = now_s

    def take(self, amount: float) -> None:
        self._level -= amount

    def refill(self, per_minute: int, now_s: float) -> None:
        """To `now_s`, at today's limit."""
        refilled = self._level + (now_s - self._updated_s) * per_minute / 60
        self._level, self._updated_s, self._per_minute = min(refilled, per_minute), now_s, per_minute

    def wait_s(self, needed: float) -> float:
        """How long until `needed` units are there."""
        if self._level >= needed:
            return 0.0
        return (needed - self._level) * 60 / self._per_minute if self._per_minute > 0 else math.inf

    def remaining(self, now_s: float) -> "Remaining":
        self.refill(self._per_minute, now_s)
        return Remaining(self._per_minute, max(0, math.floor(self._level)), self.wait_s(self._per_minute))


class Limiter:
    """The buckets of all keys. One per server process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, _Bucket] = {}
        self._tokens: dict[str, _Bucket] = {}

    def admit(self, key: KeyRecord) -> None:
        """Count one request. Raises `KeyLimitReached` instead if the key must wait."""
        if key.tokens_left is not None and key.tokens_left <= 0:
            raise KeyLimitReached(
                f"The key '{key.name}' has used all of its tokens; ask the pool's operator for more.", None
            )
        requests = self._check(self._requests, key, key.requests_per_minute, "requests")
        self._check(self._tokens, key, key.tokens_per_minute, "tokens")
        if requests is not None:
            requests.take(1)

    def remaining(self, key: KeyRecord) -> dict[str, Remaining]:
        """For each limit that the key has, of `requests` and `tokens`."""
        now_s = self._clock()
        buckets = {"requests": self._requests.get(key.id), "tokens": self._tokens.get(key.id)}
        return {what: bucket.remaining(now_s) for what, bucket in buckets.items() if bucket is not None}

    def charge(self, key: KeyRecord, tokens: int) -> None:
        if bucket := self._tokens.get(key.id):
            bucket.take(tokens)

    def _check(self, buckets: dict[str, _Bucket], key: KeyRecord, per_minute: int | None, what: str) -> _Bucket | None:
        if per_minute is None:
            buckets.pop(key.id, None)
            return None
        now_s = self._clock()
        bucket = buckets.setdefault(key.id, _Bucket(per_minute, now_s))
        bucket.refill(per_minute, now_s)
        wait_s = bucket.wait_s(1)
        if wait_s > 0:
            retry_after_s = math.ceil(min(wait_s, 3600))
            raise KeyLimitReached(
                f"The key '{key.name}' has used its {per_minute} {what} per minute; try again in {retry_after_s} s.",
                retry_after_s,
            )
        return bucket


def offered_key(headers: Mapping[str, str]) -> str:
    """The key as OpenAI's clients send it, or as Anthropic's do. Raises `NotAllowed`."""
    named = headers.get("x-api-key")
    return bearer_key(headers.get("authorization") if named is None else f"Bearer {named}")


def bearer_key(authorization: str | None) -> str:
    """The key in an Authorization header. Raises `NotAllowed`."""
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise NotAllowed("No API key was sent; pass one as the header 'Authorization: Bearer KEY'.")
    if len(key) > 512:
        raise NotAllowed("The API key is too long to be one of this pool's; check what you pass as the key.")
    return key


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine only. An unknown name counts as not."""
    host = host.strip("[]").partition("%")[0]
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str, has_keys: bool) -> None:
    """Refuse to listen where others can reach a server that asks for no key."""
    if not has_keys and not is_loopback(host):
        raise InvalidRequest(
            f"Without API keys the server listens on this machine only, not on {host}; "
            "add a key with `muster keys add NAME`, or listen on 127.0.0.1.",
            "host",
        )
