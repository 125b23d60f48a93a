"""`muster run MODEL PROMPT`: one completion, from the head if one serves the model, else in this process."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.find_head import find_head
from muster.cli.options import ApiKey, DataDir, HeadUrl, Json
from muster.cli.output import show_json
from muster.errors import UnknownModel
from muster.head.data_directory import data_dir as place
from muster.head.data_directory import read_head
from muster.spec.model_name import model_name

if TYPE_CHECKING:
    from muster.cli.head_client import HeadClient


def run(
    model: Annotated[str, typer.Argument(help="`tiny`, a folder with safetensors, or a Hugging Face id.")],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Generate at most so many tokens.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sample with this temperature; 0 always takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Choose among the likeliest tokens that have this share of the probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End the answer at this text. May be given several times.")
    ] = None,
    head: HeadUrl = None,
    key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Continue PROMPT with MODEL and print the text."""
    text = sys.stdin.read() if prompt == "-" else prompt
    body: dict[str, Any] = {"prompt": text, "max_tokens": max_tokens, "temperature": temperature}
    body |= {"top_p": top_p, "seed": seed, "stop": stop or None}
    remote = find_head(head, key=key, folder=data_dir)
    try:
        if serves(remote, model, asked=head is not None, known=read_head(place(data_dir)) is not None):
            record = collect(remote.stream("/v1/completions", body | {"model": model_name(model)}), echo=not as_json)
            record["where"] = remote.url
        else:
            from muster.cli.local_completion import complete

            record = collect(complete(model, body), echo=not as_json)
            record["where"] = "this process"
    finally:
        remote.close()
    if as_json:
        show_json({"model": model, **record})


def serves(remote: "HeadClient", model: str, asked: bool, known: bool) -> bool:
    """Whether the head has the model. One that was asked for by name must; one that runs here is merely convenient."""
    if not asked and not (known and remote.reachable()):
        return False
    models, name = remote.models(), model_name(model)
    if asked and name not in models:
        raise UnknownModel(
            f"The head at {remote.url} serves {', '.join(models)}, not {model}; name one of those.", "model"
        )
    return name in models


def collect(chunks: Iterator[dict[str, Any]], echo: bool) -> dict[str, Any]:
    """The whole answer of a streamed completion, printed on the way if `echo`."""
    record: dict[str, Any] = {"text": "", "finish_reason": None, "usage": None}
    for chunk in chunks:
        record["usage"] = chunk.get("usage") or record["usage"]
        for choice in chunk["choices"]:
            piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
            record["text"] += piece
            record["finish_reason"] = choice.get("finish_reason") or record["finish_reason"]
            if echo:
                print(piece, end="", flush=True)
    if echo:
        print()
    return record
