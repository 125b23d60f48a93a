"""`muster calibrate MODEL`: what rounding does to a model, so that something else can be told from it."""

from typing import Annotated

import typer

from muster.cli.options import Json
from muster.cli.output import out, plain, show_json, show_table
from muster.cli.waiting import waiting
from muster.errors import InvalidRequest

Named = Annotated[str, typer.Argument(help="The model: 'tiny', a directory, or a hub id.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="In which it is served; by default the checkpoint's own.")]
Texts = Annotated[int, typer.Option("--texts", help="So many texts the model writes; more give tighter limits.")]
Length = Annotated[int, typer.Option("--length", help="Tokens of each text.")]
MAX_TEXTS, MAX_LENGTH, LEAST_LENGTH = 1024, 65_536, 64


def calibrate(model: Named, dtype: Dtype = None, texts: Texts = 8, length: Length = 192, as_json: Json = False) -> None:
    """Run a model here in several honest ways and keep, for each layer, how far rounding takes it from float32.

    `muster verify FILE --model MODEL` then tells work that was not done from rounding. Takes the memory of the model in
    float32 and in its own dtype.
    """
    if not 1 <= texts <= MAX_TEXTS:
        raise InvalidRequest(f"{texts} texts cannot be written; give 1 to {MAX_TEXTS}.", "texts")
    if not LEAST_LENGTH <= length <= MAX_LENGTH:
        raise InvalidRequest(f"A text of {length} tokens tells nothing; give {LEAST_LENGTH} to {MAX_LENGTH}.", "length")
    with waiting("loading PyTorch", as_json) as say:
        from muster.head.model import load_model
        from muster.model.weights import open_directory
        from muster.node.audit.calibrating import limits_of
        from muster.node.audit.kept import keep

        loaded = load_model(model, dtype)
        loaded.tokenizer.close()
        shape, digest = loaded.shape, loaded.manifest.digest
        weights = open_directory(loaded.path)
        found = limits_of(
            weights, digest, shape.dtype, shape.num_layers, count=texts, length=min(length, shape.max_context), say=say
        )
        path = keep(found)
    if as_json:
        limits = {str(layer): one.drift for layer, one in found.layers.items()}
        show_json({"file": str(path), "dtype": found.dtype, "windows": found.windows, "limits": limits})
        return
    rows = [(str(layer), f"{one.drift[0]:.2e}", f"{one.drift[-1]:.2e}") for layer, one in found.layers.items()]
    columns = ("before layer", "limit of 32 tokens", "limit of the longest run")
    show_table(f"{shape.name} in {found.dtype}, {found.windows} honest blocks of each layer", columns, rows, columns)
    out.print(plain(f"Kept in {path}."))
