"""Amounts as people write them in a file: `"24 GiB"`, `"1 Gbit/s"`, `"20 ms"`. Knows no keys and no limits."""

import re

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SPANS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([^\d\s][^\d]*?)\s*", re.I)
_SIZE = re.compile(r"([kmgt]?i?)(bytes?|b|bits?|bps)?", re.I)


def as_bytes(written: object) -> object:
    """A size with a unit in bytes; anything else as it is, for others to judge. Raises `ValueError` on other units."""
    return _size(written, bits=False, example="24GB")


def as_bandwidth(written: object) -> object:
    """Likewise bytes in a second. `Mbit`, `Gbps` and a `b` are bits, a `B` is a byte; with or without `/s`."""
    return _size(written, bits=True, example="1Gbit/s")


def as_seconds(written: object) -> object:
    """Likewise a time in seconds."""
    number, unit = _parts(written)
    if unit is None:
        return written
    if unit not in _SPANS:
        raise ValueError(f"{written!r} is no time; write a number of seconds, or one with a unit such as 20ms")
    return number * _SPANS[unit]


def _size(written: object, bits: bool, example: str) -> object:
    number, unit = _parts(written)
    if unit is None:
        return written
    match = _SIZE.fullmatch(re.sub(r"(/s|ps|/sec|per second)$", "", unit) if bits else unit)
    if match is None or match[1].lower() not in _SIZES:
        raise ValueError(f"{written!r} has no unit that is known; write a number of bytes, or one such as {example}")
    in_bits = (match[2] or "B").lower().startswith("bit") or (match[2] == "b" and bits)
    if in_bits and not bits:
        raise ValueError(f"{written!r} are bits; write a size in bytes, such as {example}")
    return number * _SIZES[match[1].lower()] / (8 if in_bits else 1)


def _parts(written: object) -> tuple[float, str | None]:
    match = _AMOUNT.fullmatch(written) if isinstance(written, str) and len(written) < 40 else None
    return (float(match[1]), match[2]) if match else (0.0, None)
