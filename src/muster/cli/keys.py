"""`muster keys add|list|revoke`: who may use the OpenAI door. Works on the store directly, head running or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.options import DataDir, Json
from muster.cli.output import err, out, plain, show_json, show_table
from muster.head.data_directory import data_dir, database_url

if TYPE_CHECKING:
    from muster.broker.storage.store import Store

app = typer.Typer(help="Hand out API keys and take them back.", no_args_is_help=True)
RequestsPerMinute = Annotated[
    int | None, typer.Option(min=1, help="The key may send so many requests per minute.", show_default="no limit")
]
TokensPerMinute = Annotated[
    int | None, typer.Option(min=1, help="The key may use so many tokens per minute.", show_default="no limit")
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name the key after its owner or its purpose.")],
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    token_limit: Annotated[
        int | None, typer.Option(min=1, help="The key may use so many tokens altogether.", show_default="no limit")
    ] = None,
    data_dir_: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown this once: the store keeps a hash."""
    with opened(data_dir_) as store:
        secret, key = store.add_key(
            name,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            token_limit=token_limit,
        )
    if as_json:
        show_json({"key": secret, **asdict(key)})
    else:
        err.print("Keep it now; it cannot be shown again. A head that began without keys asks for them from now on.")
        out.print(plain(secret), soft_wrap=True)


@app.command("list")
def list_keys(data_dir_: DataDir = None, as_json: Json = False) -> None:
    """Show every key with its limits and what it has used."""
    with opened(data_dir_) as store:
        keys = store.keys()
    if as_json:
        show_json({"keys": [asdict(key) for key in keys]})
        return
    rows = [
        [
            key.id,
            key.name,
            f"{key.hint}…",
            "revoked" if key.revoked else "good",
            limit(key.requests_per_minute),
            limit(key.tokens_per_minute),
            f"{key.tokens_used} of {limit(key.token_limit)}",
        ]
        for key in keys
    ]
    show_table("", ["id", "name", "key", "state", "requests/min", "tokens/min", "tokens used"], rows)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name or id.")],
    data_dir_: DataDir = None,
    as_json: Json = False,
) -> None:
    """Refuse a key from now on."""
    with opened(data_dir_) as store:
        key = store.revoke_key(name)
    if as_json:
        show_json(asdict(key))
    else:
        out.print(plain(f"{key.name} ({key.hint}…) is revoked."))


def limit(value: int | None) -> str:
    return "any" if value is None else str(value)


@contextmanager
def opened(folder: Path | None) -> "Iterator[Store]":
    from muster.broker.storage.store import Store

    store = Store(database_url(data_dir(folder)))
    try:
        yield store
    finally:
        store.close()
