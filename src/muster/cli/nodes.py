"""`muster nodes list|drain|ban|unban|trust|distrust|forget`: who is here, who should leave, whose word counts.

The head decides what follows.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.find_head import find_head
from muster.cli.options import AdminToken, DataDir, HeadUrl, Json, parse_seconds
from muster.cli.output import out, plain, show_json, show_table
from muster.cli.status import COLUMNS, node_row
from muster.cli.waiting import waiting
from muster.errors import InvalidRequest

if TYPE_CHECKING:
    from muster.cli.head_client import HeadClient

app = typer.Typer(help="List the machines of the pool; let one leave, or keep one out.", no_args_is_help=True)
DONE = {
    "drain": "is draining",
    "ban": "is banned",
    "unban": "may join again",
    "trust": "is yours; what it claims is taken as it is",
    "distrust": "has to show what it claims",
    "forget": "is forgotten",
}
MEANT = {"forget": ("gone",), "unban": ("banned",)}
"""Whom a name means that several have, by state; otherwise those who are here."""
Named = Annotated[str, typer.Argument(help="The machine's name, or the first digits of its id.")]


@app.command("list")
def list_nodes(head: HeadUrl = None, token: AdminToken = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show every machine that the pool knows, present or not."""
    remote = find_head(head, token, folder=data_dir)
    with waiting(f"asking {remote.url}", as_json):
        nodes = remote.nodes()
    if as_json:
        show_json({"nodes": nodes})
    else:
        show_table("", COLUMNS, [node_row(node) for node in nodes])


@app.command()
def drain(
    node: Named, head: HeadUrl = None, token: AdminToken = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Let a machine finish what it runs, give it nothing new, and let it go."""
    act(find_head(head, token, folder=data_dir), node, "drain", as_json)


@app.command()
def ban(
    node: Named, head: HeadUrl = None, token: AdminToken = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Send a machine away at once and refuse it from now on."""
    act(find_head(head, token, folder=data_dir), node, "ban", as_json)


@app.command()
def unban(
    node: Named, head: HeadUrl = None, token: AdminToken = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Let a banned machine join again."""
    act(find_head(head, token, folder=data_dir), node, "unban", as_json)


@app.command()
def trust(
    node: Named, head: HeadUrl = None, token: AdminToken = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Take what a machine of your own claims as it is, from now on and after a restart."""
    act(find_head(head, token, folder=data_dir), node, "trust", as_json)


@app.command()
def distrust(
    node: Named, head: HeadUrl = None, token: AdminToken = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Have a machine show what it claims, as those that are not yours do."""
    act(find_head(head, token, folder=data_dir), node, "distrust", as_json)


@app.command()
def forget(
    node: Annotated[str | None, typer.Argument(help="The machine's name, or the first digits of its id.")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Instead: all that have been gone for longer, such as 12h, 7d or 4w.")
    ] = None,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take a machine that is gone off the list. To come back it needs a ticket that is still valid."""
    if (node is None) == (older_than is None):
        raise InvalidRequest("Name one machine to forget, or say --older-than and an age such as 7d.", "node")
    age_s = parse_seconds(older_than, "older_than") if older_than is not None else 0.0
    remote = find_head(head, token, folder=data_dir)
    if node is not None:
        act(remote, node, "forget", as_json)
    else:
        forget_older(remote, age_s, as_json)


def act(remote: "HeadClient", name: str, action: str, as_json: bool) -> None:
    with waiting(f"asking {remote.url}", as_json):
        node = pick(remote.nodes(), name, action)
        remote.act(node["id"], action)
    if as_json:
        show_json({"node": node["id"], "name": node.get("name"), "action": action})
    else:
        out.print(plain(f"{node.get('name')} ({node['id'][:10]}) {DONE[action]}."))


def forget_older(remote: "HeadClient", age_s: float, as_json: bool) -> None:
    """All that are gone, not banned, and were last seen more than `age_s` ago."""
    with waiting(f"asking {remote.url}", as_json) as say:
        nodes = remote.nodes()
        old = [node for node in nodes if node["state"] == "gone" and (node.get("gone_s") or 0.0) > age_s]
        for number, node in enumerate(old, 1):
            say(f"forgetting {number} of {len(old)} machines")
            remote.act(node["id"], "forget")
    if as_json:
        show_json({"forgotten": [{"node": node["id"], "name": node.get("name")} for node in old]})
    else:
        names = ", ".join(f"{node.get('name')} ({node['id'][:10]})" for node in old)
        out.print(plain(f"Forgotten: {names}." if old else "No machine has been gone for so long."), soft_wrap=True)


def pick(nodes: list[dict[str, Any]], wanted: str, action: str = "") -> dict[str, Any]:
    """The one node that the words mean, of several the one that `action` is for.

    A whole id always counts: a node may call itself by the id of another.
    """
    whole = [node for node in nodes if node["id"] == wanted.lower()]
    found = whole or [node for node in nodes if node.get("name") == wanted or node["id"].startswith(wanted.lower())]
    if len(found) > 1:
        meant = MEANT.get(action)
        fitting = [n for n in found if (n.get("state") in meant if meant else n.get("state") not in ("gone", "banned"))]
        found = fitting or found
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(node["id"][:12] for node in found)
        raise InvalidRequest(f"{wanted} could be any of {several}; give more digits of the id.", "node")
    raise InvalidRequest(f"No node is called {wanted}; `muster nodes list` shows them.", "node")
