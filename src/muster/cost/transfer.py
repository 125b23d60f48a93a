"""Seconds of a message on a link. Knows nothing of what is in it."""

from math import inf

from muster.spec.pool import LinkSpeed


def wire_seconds(link: LinkSpeed, nbytes: float) -> float:
    """Seconds for which `nbytes` keep the link busy; infinite on a link without bandwidth (one known to be broken)."""
    return nbytes / link.bandwidth_bytes_per_s if link.bandwidth_bytes_per_s > 0 else inf


def transfer_seconds(link: LinkSpeed, nbytes: float, message_s: float = 0.0) -> float:
    """Seconds from the first byte sent to the last byte received; `message_s` as in `Constants`."""
    return link.latency_s + message_s + wire_seconds(link, nbytes)
