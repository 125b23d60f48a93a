"""`muster tune MODEL DATA`: adapters on a model's own weights, in one line. Makes a run; `train_work` does it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from muster.cli.options import Json
from muster.cli.waiting import waiting
from muster.spec.training import MAX_COUNT, BatchTable, DataTable, LoraTable, OptimizerTable, TrainingRun


def tune(
    model: Annotated[str, Argument(help="`tiny`, a folder with safetensors, or a Hugging Face id.")],
    data: Annotated[list[Path], Argument(help="Text files, or JSON lines with a text in each.")],
    out: Annotated[str, Option(help="The folder for checkpoints, the adapter and the tuned model.")] = "tuned",
    held_out: Annotated[
        list[Path] | None, Option(help="Judge the model by this file, never train on it. May be given several times.")
    ] = None,
    steps: Annotated[int, Option(min=1, max=MAX_COUNT, help="Optimizer steps.")] = 100,
    sequences: Annotated[int, Option(min=1, max=MAX_COUNT, help="Texts in each step.")] = 8,
    length: Annotated[int, Option(min=1, max=MAX_COUNT, help="Tokens in each text.")] = 256,
    rank: Annotated[int, Option(min=1, max=1024, help="Of the adapters' matrices.")] = 16,
    learning_rate: Annotated[float, Option(min=1e-9, max=10, help="The highest learning rate.")] = 2e-4,
    seed: Annotated[int, Option(min=0, max=MAX_COUNT, help="The same seed gives the same adapters.")] = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune MODEL on DATA with adapters (LoRA), and merge them at the end. Ctrl-C leaves a checkpoint."""
    run = TrainingRun(
        model=model,
        out=out,
        steps=steps,
        seed=seed,
        data=DataTable(files=tuple(map(str, data)), held_out=tuple(map(str, held_out or ()))),
        batch=BatchTable(sequences=sequences, length=length),
        optimizer=OptimizerTable(learning_rate=learning_rate, warm_up_steps=max(1, steps // 20)),
        lora=LoraTable(rank=rank, alpha=2.0 * rank),
    )
    with waiting("looking for the data", as_json) as say:
        from muster.cli.train_inputs import check_early

        check_early(run, Path())
        say("loading PyTorch")
        from muster.cli.train_work import carry_out

    carry_out(run, Path(), as_json)
