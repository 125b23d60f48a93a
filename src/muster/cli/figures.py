"""Figures as people read them in a table: seconds, dollars, shares, counts. Knows nothing of what they are about."""

from math import isfinite


def seconds(value: float) -> str:
    """`3.2 ms`, `0.41 s`, `12 min 5 s`, `3 h 20 min`."""
    if not isfinite(value):
        return "for ever"
    if value < 0.0995:
        return f"{value * 1000:.3g} ms"
    if value < 99.5:
        return f"{value:.3g} s"
    if value < 5999.5:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def number(value: float) -> str:
    """Three digits that count, thousands set apart, no exponent."""
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def dollars(value: float) -> str:
    """`$13.88`, `$0.0034`, `$1,204`."""
    sign = "-" if value < 0 else ""
    value = abs(value)
    if value >= 999.5:
        return f"{sign}${value:,.0f}"
    return f"{sign}${value:.2f}" if value >= 0.095 or value == 0 else f"{sign}${value:.2g}"


def share(value: float) -> str:
    """`98%`, `<1%`, `1.4%`."""
    percent = value * 100
    if 0 < percent < 0.1:
        return "<0.1%"
    return f"{percent:.1f}%" if 0 < percent < 9.95 else f"{percent:.0f}%"


def gain(now: float, then: float) -> str:
    """From `now` to `then`: `+7%`, `-3%`, `the same`."""
    if not now:
        return "the same" if not then else "from nothing"
    change = then / now - 1
    return "the same" if abs(change) < 0.005 else f"{change:+.0%}"


def several(count: int, noun: str, plural: str = "") -> str:
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
