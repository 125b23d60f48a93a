"""Which head a verb means, and the secret that opens it. Loads `head_client`, which speaks HTTP, only to use it."""

from pathlib import Path
from typing import TYPE_CHECKING

from muster.head.data_directory import DEFAULT_URL, data_dir, read_head, read_token

if TYPE_CHECKING:
    from muster.cli.head_client import HeadClient


def find_head(
    url: str | None, token: str | None = None, key: str | None = None, folder: Path | None = None
) -> "HeadClient":
    """The head named by the caller, else the one that runs from this machine's data directory."""
    from muster.cli.head_client import HeadClient

    ours_in = data_dir(folder)
    record = read_head(ours_in)
    ours = record.url if record else DEFAULT_URL
    # This machine's token opens this machine's head; it is never shown to another.
    if token is None and url in (None, ours) and (ours_in / "admin.token").exists():
        token = read_token(ours_in / "admin.token")
    return HeadClient(url or ours, token, key)
