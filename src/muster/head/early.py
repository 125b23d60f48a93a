"""What would keep a head from starting and can be told within a second, before anything slow is imported.

Everything is checked again where it is used; here it only fails sooner.
"""

from pathlib import Path

from muster.api.keys import check_host, is_loopback
from muster.api.listen import listen
from muster.head.data_directory import database_url
from muster.model.source import resolve_folder
from muster.model.weights import open_directory


def check_early(model: str, host: str, port: int, folder: Path) -> None:
    """Raises `MusterError`: the port is taken, the door must not be open so far, or there is no such model here."""
    listen(host.strip("[]"), port).close()
    if not is_loopback(host):
        from muster.broker.storage.store import Store

        store = Store(database_url(folder))
        try:
            check_host(host, has_keys=store.has_keys())
        finally:
            store.close()
    path = resolve_folder(model)
    if path is not None:  # what the hub has is looked at when it is fetched
        open_directory(path)
