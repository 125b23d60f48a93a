"""`muster chat`: a conversation with the model that a head serves. Reads and prints; `conversation` keeps the messages.

Answers go to stdout, all else to stderr.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.conversation import COMMANDS, QUOTES, Chat, read_message
from muster.cli.find_head import find_head
from muster.cli.options import ApiKey, DataDir, HeadUrl, Json
from muster.cli.output import err, plain, show_error, show_json
from muster.cli.run import after_a_wait, collect
from muster.cli.waiting import waiting
from muster.errors import InvalidRequest, MusterError

if TYPE_CHECKING:
    from muster.cli.head_client import HeadClient


def chat(
    model: Annotated[str | None, typer.Argument(help="The model to talk with, if the head has several.")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Say this, print the answer, and end.")] = None,
    system: Annotated[str | None, typer.Option(help="Begin with this system message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="An answer has at most so many tokens.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sample with this temperature; 0 always takes the likeliest token.")
    ] = 0.7,
    head: HeadUrl = None,
    key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Talk with the model of a running head; Ctrl-D ends."""
    remote = find_head(head, key=key, folder=data_dir)
    try:
        with waiting(f"asking {remote.url} for its model", as_json):
            entry = entry_of(remote.model_entries(), model)
        options = {"model": entry["id"], "max_tokens": max_tokens, "temperature": temperature}
        talk = Chat(system or "")
        greet(entry, remote.url, alone=message is not None)
        if message is not None:
            talk.take_message(message)
            answer(remote, talk, options, as_json)
        else:
            converse(remote, talk, options, as_json)
    finally:
        remote.close()


def entry_of(entries: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    """What the head says of the model that is meant; the head itself refuses a name that it does not know."""
    if not entries:
        raise InvalidRequest("This head serves no model; see `muster status`.", "model")
    return next((entry for entry in entries if entry["id"] == wanted), {"id": wanted} if wanted else entries[0])


def greet(entry: dict[str, Any], url: str, alone: bool) -> None:
    """Say whom one talks with and how, and warn of a model that was not made for it."""
    if not alone and sys.stdin.isatty():
        err.print(plain(f"Talking with {entry['id']} at {url}. Ctrl-C stops an answer, Ctrl-D ends."), soft_wrap=True)
        err.print(plain(f"{COMMANDS}. {QUOTES} begins and ends a message of several lines."), style="dim")
    if entry.get("chat_template") is False:
        err.print(
            plain(
                f"{entry['id']} has no chat template, so it was not made to converse: it will go on with the text "
                f"rather than answer. `muster run {entry['id']}` continues a text."
            ),
            style="yellow",
            soft_wrap=True,
        )


def converse(remote: "HeadClient", talk: Chat, options: dict[str, Any], as_json: bool) -> None:
    """Until the end of input. What goes wrong with one message ends only that."""
    for said in messages():
        turn, told = talk.take(said)
        if turn == "end":
            return
        if turn == "tell":
            err.print(plain(told), style="dim", soft_wrap=True)
            continue
        try:
            answer(remote, talk, options, as_json)
        except MusterError as error:
            if not sys.stdin.isatty():
                raise
            talk.undo()
            show_error(error, as_json)
        except KeyboardInterrupt:
            talk.undo()
            err.print("\n[dim]stopped; the message is taken back[/dim]")


def answer(remote: "HeadClient", talk: Chat, options: dict[str, Any], as_json: bool) -> None:
    body = options | {"messages": talk.messages()}
    chunks = remote.stream("/v1/chat/completions", body)
    record = collect(after_a_wait(chunks, as_json), echo=not as_json)
    talk.answered(record["text"])
    if record["finish_reason"] == "length" and not as_json:
        err.print("[dim]cut off at --max-tokens[/dim]")
    if as_json:
        show_json({"role": "assistant", **record})


def messages() -> Iterator[str]:
    """What the person says, message by message; empty ones are no messages."""
    with suppress(ImportError):
        import readline  # noqa: F401 - what was typed can be edited and called back
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            if said := read_message(ask).strip():
                yield said
    if sys.stdin.isatty():
        err.print()


def ask(goes_on: bool) -> str:
    """One line from the person. Prompts are for people: stdout holds answers only."""
    prompt = "...  " if goes_on else "you: "
    if sys.stdin.isatty() and sys.stdout.isatty():
        return input(prompt)  # so that the line editor knows where the line begins
    if sys.stdin.isatty():
        err.print(prompt, end="")
    return input()
