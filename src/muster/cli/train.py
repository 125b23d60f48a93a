"""`muster train RUN.toml`: fine-tune or pre-train a model on this machine. Reads options; `train_work` does it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from muster.cli.options import Json
from muster.cli.waiting import waiting


def train(
    run: Annotated[Path, Argument(help="The run: a TOML file with model, data, steps and whatever else is to differ.")],
    stages: Annotated[
        int | None, Option(min=1, help="Cut the model into so many stages.", show_default="what the run says")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model as RUN says, or go on where that run stopped. Ctrl-C leaves a checkpoint."""
    with waiting("loading PyTorch", as_json):
        from muster.cli.train_work import carry_out, read_run

    carry_out(read_run(run, stages), run.parent, as_json)
