"""Who may enter, how much, and where a server without keys may listen."""

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.api.keys import KeyLimitReached, Limiter, bearer_key, check_host, is_loopback
from muster.errors import InvalidRequest, NotAllowed
from tests.api.fake_keys import FakeRecord


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def retry_after_s(limiter: Limiter, key: FakeRecord) -> int:
    """How long a copy of this limiter's state would make the key wait; 0 if it may pass."""
    try:
        copy.deepcopy(limiter).admit(key)
    except KeyLimitReached as refused:
        return refused.retry_after_s or 0
    return 0


def test_a_key_may_use_its_minute_at_once_and_then_waits_as_told() -> None:
    clock = Clock()
    limiter, key = Limiter(clock), FakeRecord("k", requests_per_minute=3)
    for _ in range(3):
        limiter.admit(key)
    with pytest.raises(KeyLimitReached, match=r"3 requests per minute; try again in 20 s") as caught:
        limiter.admit(key)
    assert caught.value.retry_after_s == 20
    clock.now_s += 20
    limiter.admit(key)
    with pytest.raises(KeyLimitReached):
        limiter.admit(key)


def test_an_overdrawn_token_limit_must_be_worked_off() -> None:
    clock = Clock()
    limiter, key = Limiter(clock), FakeRecord("k", tokens_per_minute=60)
    limiter.admit(key)
    limiter.charge(key, 90)
    with pytest.raises(KeyLimitReached, match="60 tokens per minute") as caught:
        limiter.admit(key)
    assert caught.value.retry_after_s == 31
    clock.now_s += 31
    limiter.admit(key)


def test_keys_do_not_pay_for_each_other_and_unlimited_ones_pay_nothing() -> None:
    limiter = Limiter(Clock())
    limited, free = FakeRecord("a", requests_per_minute=1), FakeRecord("b")
    limiter.admit(limited)
    for _ in range(100):
        limiter.admit(free)
        limiter.charge(free, 10**9)
    with pytest.raises(KeyLimitReached):
        limiter.admit(limited)


def test_a_used_up_total_is_final() -> None:
    with pytest.raises(KeyLimitReached, match="used all of its tokens") as caught:
        Limiter(Clock()).admit(FakeRecord("k", tokens_left=0))
    assert caught.value.retry_after_s is None


def test_a_limit_of_zero_lets_nothing_through_and_still_answers() -> None:
    with pytest.raises(KeyLimitReached) as caught:
        Limiter(Clock()).admit(FakeRecord("k", requests_per_minute=0))
    assert caught.value.retry_after_s == 3600


@given(
    per_minute=st.integers(1, 120),
    pauses_s=st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=60),
)
def test_no_more_than_the_limit_passes_in_any_minute_beyond_the_first_burst(
    per_minute: int, pauses_s: list[float]
) -> None:
    clock, admitted = Clock(), 0
    limiter, key = Limiter(clock), FakeRecord("k", requests_per_minute=per_minute)
    start_s = clock.now_s
    for pause_s in pauses_s:
        clock.now_s += pause_s
        clock.now_s += retry_after_s(limiter, key)
        limiter.admit(key)  # what Retry-After promises holds
        admitted += 1
    assert admitted <= per_minute + math.ceil((clock.now_s - start_s) * per_minute / 60) + 1


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "sk-abc"])
def test_a_header_without_a_bearer_key_is_refused(header: str | None) -> None:
    with pytest.raises(NotAllowed, match="Authorization: Bearer KEY"):
        bearer_key(header)


def test_a_bearer_key_is_read_however_the_scheme_is_spelled() -> None:
    assert bearer_key("bearer  sk-1 ") == "sk-1"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST", "::1", "[::1]"])
def test_this_machine_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_host(host, has_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "", "localhost.evil.org"])
def test_without_a_key_no_other_address_is_listened_on(host: str) -> None:
    with pytest.raises(InvalidRequest, match="muster keys add"):
        check_host(host, has_keys=False)
    check_host(host, has_keys=True)
