"""What an answer says besides its body: which request it answers, what was left out, what a key may still do, and where
the time went. Knows no routes; the names are those that OpenAI's and browsers' developers know.
"""

import math
import re
import time
from collections.abc import Mapping

from muster.api.ignored import HEADER
from muster.api.keys import Remaining
from muster.api.serving import Visit

Pairs = list[tuple[bytes, bytes]]
READABLE = (
    "x-request-id, retry-after, server-timing, x-muster-ignored-fields, x-ratelimit-limit-requests, "
    "x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
    "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
"""What a web page may read of them."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}", re.ASCII)


def client_request_id(written: str | None) -> str | None:
    """What a client calls its request, if it is fit to be said again."""
    return written if written is not None and _REQUEST_ID.fullmatch(written) else None


def answer_headers(visit: Visit, remaining: Mapping[str, Remaining]) -> Pairs:
    """To be asked when the first byte of an answer goes out."""
    said = {"x-request-id": visit.client_id or visit.id, HEADER: visit.ignored.header, "server-timing": timing(visit)}
    for what, limit in remaining.items():
        said[f"x-ratelimit-limit-{what}"] = str(limit.per_minute)
        said[f"x-ratelimit-remaining-{what}"] = str(limit.left)
        said[f"x-ratelimit-reset-{what}"] = duration(limit.full_in_s)
    return [(name.encode(), value.encode()) for name, value in said.items() if value]


def timing(visit: Visit) -> str:
    """`prepare` is reading and tokenizing, `first-token` is queue and prefill, `total` is until the answer began."""
    if visit.submitted_s is None:
        return ""
    now_s = time.perf_counter()
    first_s = visit.first_token_s
    spans_s = {
        "prepare": visit.submitted_s - visit.arrived_s,
        "first-token": None if first_s is None else first_s - visit.submitted_s,
        "total": now_s - visit.arrived_s,
    }
    return ", ".join(f"{name};dur={1000 * span:.1f}" for name, span in spans_s.items() if span is not None)


def duration(seconds: float) -> str:
    """`1s`, `1m30s`: whole seconds, rounded up."""
    minutes, rest = divmod(math.ceil(min(seconds, 3600)), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
