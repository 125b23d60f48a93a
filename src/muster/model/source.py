"""A name becomes a directory: the embedded model, a directory, or a hub id. Knows nothing of what is inside.

What the hub has is fetched by `from_hub`, which is imported only for a hub id.
"""

import re
from pathlib import Path

from muster.errors import UnknownModel
from muster.model.folder import check_folder

EMBEDDED = {"tiny": Path(__file__).parent / "embedded" / "tiny"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
REVISION = re.compile(r"[0-9a-f]{40}")


def resolve(name: str) -> Path:
    """The directory of the model called `name`, fetched first if need be.

    Raises `UnknownModel` when there is none, `MachineTrouble` when the disk is full, `WeightsInvalid` when a file in it
    leads elsewhere.
    """
    if (path := resolve_folder(name)) is not None:
        return path
    from muster.model.from_hub import fetch  # the hub's client takes a second to import

    return fetch(name.rstrip("/"))


def resolve_folder(name: str) -> Path | None:
    """The directory on this machine that `name` means; None where it can only be a hub id. Raises as `resolve` does."""
    if name in EMBEDDED:
        return EMBEDDED[name]
    path = Path(name).expanduser()
    if name and path.is_dir():
        check_folder(path)
        return path
    if not HUB_ID.fullmatch(name.rstrip("/")):
        raise UnknownModel(
            f"There is no model {name!r}; give 'tiny' (the embedded model), a directory, or a hub id like owner/name."
        )
    return None


def resolve_local(name: str) -> Path | None:
    """As `resolve`, but only what is on this machine already."""
    path = EMBEDDED.get(name, Path(name).expanduser())
    if name and path.is_dir():
        return path
    if not HUB_ID.fullmatch(name):
        return None
    from muster.model.from_hub import cached

    return cached(name)


def revision_of(name: str, path: Path) -> str:
    """The commit on the hub whose files `path` holds, which `resolve` found for `name`; empty if they are not its."""
    from_hub = HUB_ID.fullmatch(name) and path.parent.name == "snapshots" and REVISION.fullmatch(path.name)
    return path.name if from_hub else ""
