"""A name becomes a directory: the embedded model, a directory, or a hub id. Knows nothing of what is inside.

From the hub only safetensors, JSON and tokenizer text are taken: never code, never a pickle. `HF_ENDPOINT`, `HF_HOME`
and offline mode (`HF_HUB_OFFLINE`) mean what they mean everywhere.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from muster.errors import MachineTrouble, UnknownModel
from muster.model.folder import check_folder

EMBEDDED = {"tiny": Path(__file__).parent / "embedded" / "tiny"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
REVISION = re.compile(r"[0-9a-f]{40}")
UNWANTED = ("*/*", "consolidated*")
"""Subdirectories hold the same weights in other formats; `consolidated` files hold them a second time."""


def resolve(name: str) -> Path:
    """The directory of the model called `name`, fetched first if need be.

    Raises `UnknownModel` when there is none, `MachineTrouble` when the disk is full, `WeightsInvalid` when a file in it
    leads elsewhere.
    """
    if name in EMBEDDED:
        return EMBEDDED[name]
    path = Path(name).expanduser()
    if name and path.is_dir():
        check_folder(path)
        return path
    hub_id = name.rstrip("/")
    if not HUB_ID.fullmatch(hub_id):
        raise UnknownModel(
            f"There is no model {name!r}; give 'tiny' (the embedded model), a directory, or a hub id like owner/name."
        )
    return _fetch(hub_id)


def resolve_local(name: str) -> Path | None:
    """As `resolve`, but only what is on this machine already."""
    path = EMBEDDED.get(name, Path(name).expanduser())
    if name and path.is_dir():
        return path
    if not HUB_ID.fullmatch(name):
        return None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def revision_of(name: str, path: Path) -> str:
    """The commit on the hub whose files `path` holds, which `resolve` found for `name`; empty if they are not its."""
    from_hub = HUB_ID.fullmatch(name) and path.parent.name == "snapshots" and REVISION.fullmatch(path.name)
    return path.name if from_hub else ""


def resolve_config(hub_id: str) -> Path:
    """The config.json of a model on the hub, and nothing else of it: the one on this machine, else fetched.

    Raises as `resolve` does.
    """
    with _hub_in_words(hub_id):
        here = try_to_load_from_cache(hub_id, "config.json")
        return Path(here if isinstance(here, str) else hf_hub_download(hub_id, "config.json"))


def _fetch(hub_id: str) -> Path:
    with _hub_in_words(hub_id):
        return Path(snapshot_download(hub_id, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)))


@contextmanager
def _hub_in_words(hub_id: str) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise UnknownModel(
            f"The hub asks for consent before it gives out {hub_id}; accept the terms on its page and set HF_TOKEN."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UnknownModel(
            f"Neither a directory nor a model on the hub is called {hub_id}; check the spelling, or set HF_TOKEN if it "
            "is private."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UnknownModel(
            f"The hub cannot be reached and {hub_id} is not on this machine yet; connect, unset HF_HUB_OFFLINE, or "
            "give a directory."
        ) from error
    except EntryNotFoundError as error:
        raise UnknownModel(
            f"{hub_id} has no config.json on the hub, so it is no model of transformers; choose another."
        ) from error
    except HfHubHTTPError as error:
        raise UnknownModel(f"The hub could not deliver {hub_id} ({error.response.status_code}); try again.") from error
    except OSError as error:
        raise MachineTrouble(
            f"{hub_id} could not be stored ({error.strerror or error}); free disk space or point HF_HOME elsewhere."
        ) from error
