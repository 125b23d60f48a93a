"""Bodies made to be slow to read: refused before they are parsed, and nobody else waits for them."""

import asyncio
import gc
import json
import random
import socket
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.api.body import MAX_BYTES_OUTSIDE_STRINGS, MAX_DEPTH, MAX_MARKS, JsonWeight, TooMuch
from tests.api.served import Served

LARGE = 8 * 1024 * 1024 - 100
JSON_TYPE = {"content-type": "application/json"}


def many(unit: bytes, before: bytes = b"[", after: bytes = b"0]") -> bytes:
    return before + unit * ((LARGE - len(before) - len(after)) // len(unit)) + after


def within_a_field(value: bytes) -> bytes:
    return b'{"model": "fake", "prompt": ' + value + b"}"


HOSTILE = {
    "lists": many(b"[],"),
    "lists in a field": within_a_field(many(b"[],")[:-60]),
    "objects": many(b"{},"),
    "texts": many(b'"",'),
    "ids": within_a_field(many(b"12345,")[:-60]),
    "as many ids as are read": within_a_field(b"[" + b"1," * 130_000 + b"1]"),
    "as many lists as are read": b"[" + b"[]," * (MAX_MARKS // 5 - 10) + b"0]",
    "keys": b"{" + b",".join(b'"k%d":0' % i for i in range(500_000)) + b"}",
    "as many keys as are read": b"{" + b",".join(b'"k%d":0' % i for i in range(MAX_MARKS // 5 - 10)) + b"}",
    "deep lists": many(b"[", b"", b""),
    "deep objects": many(b'{"a":', b"", b""),
    "long numbers": many(b"9" * 4300 + b","),
    "an endless number": within_a_field(many(b"1", b"0.", b"")[:-60]),
    "blanks": many(b" "),
    "escapes": within_a_field(many(b"\\n", b'"', b'"')[:-60]),
    "letters by number": within_a_field(many(b"\\u00e9", b'"', b'"')[:-60]),
    "nothing": b"\0" * LARGE,
}


class Lag:
    """How long the server's loop is held at a time, in its thread's own seconds: whatever else this machine does."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.held_s: list[float] = []

    async def _look(self) -> None:
        before_s = time.thread_time()
        while True:
            await asyncio.sleep(0.002)
            now_s = time.thread_time()
            self.held_s.append(now_s - before_s)
            before_s = now_s

    def __enter__(self) -> "Lag":
        self._looking = asyncio.run_coroutine_threadsafe(self._look(), self._served.loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._looking.cancel()

    def check(self) -> None:
        held_s = sorted(self.held_s)
        assert held_s[-1] < 0.2
        assert held_s[int(len(held_s) * 0.99)] < 0.1


def test_no_body_holds_up_the_loop(served: Served) -> None:
    def post(body: bytes) -> int:
        return served.http.post("/v1/completions", content=body, headers=JSON_TYPE).status_code

    gc.collect()
    gc.freeze()  # as a head does: what other tests left here is not its garbage
    with Lag(served) as lag:
        statuses = {name: post(body) for name, body in HOSTILE.items()}
        several = [threading.Thread(target=post, args=(HOSTILE["as many lists as are read"],)) for _ in range(6)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
    gc.unfreeze()
    assert {name: status for name, status in statuses.items() if status not in (400, 413)} == {}
    lag.check()


def test_a_body_of_very_many_chunks_holds_nobody_up(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Lag(served) as lag, socket.create_connection((host, int(port)), 20) as client:
        client.sendall(head + b"1\r\n \r\n" * 40_000 + b"0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 4")
    lag.check()


Values = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text('a",:[]{}\\é\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a",:[]{}\\', max_size=4), inner, max_size=4),
    max_leaves=20,
)


def marks_of(value: Any) -> int:
    if isinstance(value, dict):
        return 4 + max(0, len(value) - 1) + sum(4 + marks_of(inner) for inner in value.values())
    if isinstance(value, list):
        return 4 + max(0, len(value) - 1) + sum(map(marks_of, value))
    return 0


@given(Values, st.booleans(), st.randoms(use_true_random=False))
def test_what_stands_in_texts_is_not_counted_however_the_body_comes_apart(
    value: Any, ascii_only: bool, draw: random.Random
) -> None:
    body, weight = json.dumps(value, ensure_ascii=ascii_only).encode(), JsonWeight()
    while body:
        size = draw.randint(1, 5)
        weight.add(body[:size])
        body = body[size:]
    assert weight._marks == marks_of(value)
    assert weight._open == b""


@pytest.mark.parametrize(
    ("fits", "one_more"),
    [
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, b"[" * (MAX_DEPTH + 1)),
        (b"[]" * (MAX_MARKS // 4), b"[]" * (MAX_MARKS // 4) + b","),
        (b"1" * MAX_BYTES_OUTSIDE_STRINGS, b"1" * MAX_BYTES_OUTSIDE_STRINGS + b"1"),
    ],
    ids=["depth", "values", "digits"],
)
def test_limits_are_met_exactly(fits: bytes, one_more: bytes) -> None:
    JsonWeight().add(fits)
    with pytest.raises(TooMuch):
        JsonWeight().add(one_more)


def test_the_longest_prompt_that_anybody_has_is_read(served: Served) -> None:
    long = {"model": "fake", "prompt": "{[,:" * 1_000_000}
    refused = served.http.post("/v1/completions", json=long)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
    ids = served.http.post("/v1/completions", json={"model": "fake", "prompt": [1] * 2**17}).json()["error"]
    assert ids["code"] == "context_length_exceeded"
    too_many = served.http.post("/v1/completions", content=HOSTILE["lists"], headers=JSON_TYPE)
    assert too_many.status_code == 413
    assert "more values" in too_many.json()["error"]["message"]
