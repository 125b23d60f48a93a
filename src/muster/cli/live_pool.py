"""The pool of a running head, as its machines measured it: to plan for it, or to keep it as a file."""

from typing import TYPE_CHECKING

from muster.spec.pool import Pool
from muster.spec.pool_file import parse_pool

if TYPE_CHECKING:
    from muster.cli.head_client import HeadClient


def live_pool(head: "HeadClient") -> tuple[Pool, str]:
    """The pool, and the pool file that says the same and which of its figures are measured.

    Raises `MusterError`: no head answers, it wants another token, or none of its machines has measured itself.
    """
    text = head.pool_file()
    return parse_pool(text), text
