import os
import time
from importlib.metadata import version
from typing import Any

import pytest
from iroh import iroh_ffi

from muster.link import iroh_fast_write

PIECE_BYTES = 1024 * 1024


def lower(value: bytes | bytearray | memoryview) -> Any:
    """A Rust buffer that holds `value`, as the binding makes one for every call."""
    return iroh_ffi._UniffiFfiConverterBytes.lower(value)


def round_trip(value: bytes | bytearray | memoryview) -> bytes:
    lifted: bytes = iroh_ffi._UniffiFfiConverterBytes.lift(lower(value))
    return lifted


def speed(value: bytes) -> float:
    """Bytes per second into Rust."""
    start = time.perf_counter()
    buffer = lower(value)
    seconds = time.perf_counter() - start
    buffer.free()
    return len(value) / seconds


def test_the_fast_write_is_in_place_for_the_version_that_is_installed() -> None:
    assert version("iroh") in iroh_fast_write.KNOWN_VERSIONS, "read the new binding, then add its version"
    assert iroh_fast_write.install()
    assert iroh_ffi._UniffiRustBufferBuilder.write is iroh_fast_write._write


@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 4096, PIECE_BYTES + 1])
def test_every_byte_arrives(length: int) -> None:
    value = os.urandom(length)
    assert round_trip(value) == value
    assert round_trip(bytearray(value)) == value
    assert round_trip(memoryview(bytes(3) + value)[3:]) == value


def test_strings_and_records_still_cross() -> None:
    address = iroh_ffi.EndpointAddr(iroh_ffi.SecretKey.generate().public(), None, ["127.0.0.1:1", "[::1]:2"])
    assert sorted(address.direct_addresses()) == ["127.0.0.1:1", "[::1]:2"]


def test_it_is_well_above_the_binding_as_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    value = os.urandom(PIECE_BYTES)
    fast = max(speed(value) for _ in range(5))
    monkeypatch.setattr(iroh_ffi._UniffiRustBufferBuilder, "write", generated_write)
    assert round_trip(value[:1000]) == value[:1000]
    slow = max(speed(value) for _ in range(2))
    assert fast > 10 * slow


def test_incoming_bytes_need_no_help() -> None:
    buffer = lower(os.urandom(8 * PIECE_BYTES))
    start = time.perf_counter()
    iroh_ffi._UniffiFfiConverterBytes.lift(buffer)
    assert 8 * PIECE_BYTES / (time.perf_counter() - start) > 100e6


def test_an_unknown_version_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iroh_fast_write, "version", lambda name: "9.9.9")
    monkeypatch.setattr(iroh_ffi._UniffiRustBufferBuilder, "write", generated_write)
    assert not iroh_fast_write.install()
    assert iroh_ffi._UniffiRustBufferBuilder.write is generated_write


def generated_write(self: Any, value: bytes) -> None:
    """The loop that the binding was generated with."""
    with self._reserve(len(value)):
        for i, byte in enumerate(value):
            self.rbuf.data[self.rbuf.len + i] = byte
