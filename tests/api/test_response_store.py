"""Answers are kept for a while, within bounds, and of each key its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.api.responses import store as store_module
from muster.api.responses.store import NoSuchResponse, ResponseStore
from muster.text.calls import Message


def response(id: str, size: int = 10) -> dict[str, str]:
    return {"id": id, "text": "x" * size}


def test_what_is_old_is_forgotten() -> None:
    now = [0.0]
    store = ResponseStore(60, lambda: now[0])
    store.keep("a", response("1"), (Message("user", "Hello"),))
    assert store.find("a", "1").messages[0].content == "Hello"
    now[0] = 60.0
    with pytest.raises(NoSuchResponse):
        store.find("a", "1")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1500)), max_size=40))
def test_the_bounds_hold_and_the_oldest_goes_first(kept: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "MAX_OF_KEY", 4)
        patch.setattr(store_module, "MAX_BYTES_OF_KEY", 2000)
        patch.setattr(store_module, "MAX_BYTES", 3000)
        store = ResponseStore(60, lambda: 0.0)
        for i, (owner, size) in enumerate(kept):
            store.keep(owner, response(str(i), size), ())
            store.check()
            assert store.find(owner, str(i)).owner == owner


def test_what_is_too_large_to_keep_pushes_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_BYTES_OF_KEY", 2000)
    monkeypatch.setattr(store_module, "MAX_BYTES", 3000)
    store = ResponseStore(60, lambda: 0.0)
    for owner in "ab":
        store.keep(owner, response(owner, 500), ())
    store.keep("a", response("large", 5000), ())
    for owner in "ab":
        assert store.find(owner, owner).owner == owner
    with pytest.raises(NoSuchResponse):
        store.find("a", "large")
