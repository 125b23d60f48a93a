"""Models of the Hugging Face hub, as its own client keeps them on disk. Knows nothing of what is inside.

Only safetensors, JSON and tokenizer text are taken: never code, never a pickle. `HF_ENDPOINT`, `HF_HOME`
and offline mode (`HF_HUB_OFFLINE`) mean what they mean everywhere. Importing the client takes a second, so this is
imported only where a hub id was meant.
"""

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

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
UNWANTED = ("*/*", "consolidated*")
"""Subdirectories hold the same weights in other formats; `consolidated` files hold them a second time."""


def cached(hub_id: str) -> Path | None:
    """Where the model lies on this machine already."""
    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def resolve_config(hub_id: str) -> Path:
    """The config.json of a model on the hub, and nothing else of it: the one on this machine, else fetched.

    Raises as `fetch` does.
    """
    with _hub_in_words(hub_id):
        here = try_to_load_from_cache(hub_id, "config.json")
        return Path(here if isinstance(here, str) else hf_hub_download(hub_id, "config.json"))


def fetch(hub_id: str) -> Path:
    """The directory of a model, fetched first if need be. Raises `UnknownModel` and `MachineTrouble`."""
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
