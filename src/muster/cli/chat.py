"""`muster chat`: a conversation with the model that a head serves. Keeps the messages; knows nothing of templates."""

from typing import Annotated, Any

import typer

from muster.cli.find_head import find_head
from muster.cli.options import ApiKey, DataDir, HeadUrl, Json
from muster.cli.output import err, show_json
from muster.cli.run import collect


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
    """Talk with the model of a running head; an empty line or Ctrl-D ends."""
    remote = find_head(head, key=key, folder=data_dir)
    messages = [{"role": "system", "content": system}] if system else []
    options: dict[str, Any] = {"model": model or remote.models()[0]}
    options |= {"max_tokens": max_tokens, "temperature": temperature}
    try:
        while said := message or ask():
            messages.append({"role": "user", "content": said})
            answer = collect(remote.stream("/v1/chat/completions", options | {"messages": messages}), echo=not as_json)
            messages.append({"role": "assistant", "content": answer["text"]})
            if as_json:
                show_json({"role": "assistant", **answer})
            if message:
                break
    finally:
        remote.close()


def ask() -> str:
    """One line from the person; empty at the end of input. The prompt goes to stderr: stdout holds answers only."""
    err.print("[bold]you:[/bold] ", end="")
    try:
        return input()
    except EOFError:
        return ""
