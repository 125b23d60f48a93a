"""`muster run MODEL PROMPT`: one completion, from the head if one serves the model, else in this process."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.find_head import find_head
from muster.cli.options import ApiKey, DataDir, HeadUrl, Json
from muster.cli.output import err, plain, show_json
from muster.cli.prompt_words import STDIN, prompt_of
from muster.cli.waiting import waiting
from muster.errors import MusterError, UnknownModel
from muster.head.data_directory import data_dir as place
from muster.head.data_directory import read_head
from muster.spec.model_name import model_name

if TYPE_CHECKING:
    from muster.cli.head_client import HeadClient


def run(
    model: Annotated[
        str,
        typer.Argument(
            help="`tiny`, a folder with safetensors, or a Hugging Face id; - reads standard input and takes the model "
            "that the head serves."
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="The text to continue. - stands for standard input, alone or before or after other text."),
    ] = None,
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
    words = [STDIN, *(prompt or ())] if model == STDIN else prompt or []
    body: dict[str, Any] = {"prompt": prompt_of(words), "max_tokens": max_tokens, "temperature": temperature}
    body |= {"top_p": top_p, "seed": seed, "stop": stop or None}
    remote = find_head(head, key=key, folder=data_dir)
    try:
        with waiting(f"asking {remote.url} for its model", as_json):
            wanted = remote.models()[0] if model == STDIN else model
            known = read_head(place(data_dir)) is not None
            from_head = model == STDIN or serves(remote, wanted, asked=head is not None, known=known)
        if from_head:
            chunks = remote.stream("/v1/completions", body | {"model": model_name(wanted)})
            record = collect(after_a_wait(chunks, as_json), echo=not as_json) | {"where": remote.url}
        else:
            record = collect(in_this_process(wanted, body, as_json), echo=not as_json) | {"where": "this process"}
    finally:
        remote.close()
    if as_json:
        show_json({"model": wanted, **record})


def serves(remote: "HeadClient", model: str, asked: bool, known: bool) -> bool:
    """Whether the head has the model. One that was asked for by name must; others are merely convenient.

    `known` is a head that left its address in the data directory. Without it, whoever answers at the usual place may
    be another program, whose refusal is no news.
    """
    if not asked and not remote.reachable():
        return False
    try:
        models, name = remote.models(), model_name(model)
    except MusterError:
        if asked or known:
            raise
        return False
    if asked and name not in models:
        raise UnknownModel(
            f"The head at {remote.url} serves {', '.join(models)}, not {model}; name one of those.", "model"
        )
    return name in models


def in_this_process(model: str, body: dict[str, Any], as_json: bool) -> Iterator[dict[str, Any]]:
    if not as_json:
        err.print(f"No head here serves {plain(model)}; running it in this process.", soft_wrap=True)
    with waiting("loading PyTorch", as_json):
        from muster.cli.local_completion import complete
    yield from complete(model, body, as_json)


def after_a_wait(chunks: Iterator[dict[str, Any]], as_json: bool) -> Iterator[dict[str, Any]]:
    """The chunks of a head, which may take a while to find machines for the first."""
    with waiting("waiting for the first words", as_json):
        first = next(chunks, None)
    if first is not None:
        yield first
    yield from chunks


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
