"""Figures and names as short labels. Knows nothing of where they are drawn."""

from collections.abc import Callable, Sequence


def printable(text: str) -> str:
    """One line, without what would break a picture or a page (control characters, half of a pair)."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def seconds(value: float) -> str:
    """`58.4 ms`, `3.2 s`, `12 min`."""
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs" if value > 0 else "0 ms"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    if value < 600:
        return f"{value:.3g} s"
    return f"{value / 60:,.0f} min" if value < 36_000 else f"{value / 3600:,.0f} h"


def bits_per_s(bytes_per_s: float) -> str:
    """What links are sold by: `12.5 Mbit/s`, `10 Gbit/s`."""
    bits = bytes_per_s * 8
    unit, size = next(((unit, size) for unit, size in _BITS if bits >= size * 0.9995), _BITS[-1])
    return f"{bits / size:.3g} {unit}"


_BITS = (("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3))


def gib(nbytes: float) -> str:
    """Without the unit: `22.5`, `140`, `0.31`."""
    value = nbytes / 2**30
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def percent(share: float) -> str:
    return f"{share * 100:.0f}%" if share >= 0.01 or share <= 0 else "<1%"


def between(low: float, high: float) -> str:
    """Two shares: `25–50%`."""
    return percent(low) if percent(low) == percent(high) else f"{percent(low).removesuffix('%')}–{percent(high)}"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def span(values: Sequence[float], of: Callable[[float], str]) -> str:
    """The lowest and the highest of `values`, or the one that they all are."""
    low, high = of(min(values)), of(max(values))
    if low == high:
        return low
    number, _, unit = low.partition(" ")
    return f"{number}–{high}" if high.endswith(f" {unit}") else f"{low} – {high}"


def layers(first: int, last: int) -> str:
    """Layers [first, last), counted from 0."""
    return f"layer {first}" if last - first == 1 else f"layers {first}–{last - 1}"


def numbers(values: Sequence[int]) -> str:
    """`0–3`, `0,2,5`."""
    ordered = sorted(values)
    if len(ordered) > 1 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}–{ordered[-1]}"
    return ",".join(map(str, ordered))
