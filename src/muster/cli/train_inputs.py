"""A training run as it is written, checked before anything slow is imported. Knows no torch."""

from pathlib import Path

from muster.cli.plan_inputs import read_text
from muster.model.source import resolve_folder
from muster.spec.training import TrainingRun, parse_run
from muster.train.documents import find_files


def read_run(path: Path, stages: int | None) -> TrainingRun:
    """`stages` go before what the file says. Raises `InvalidRequest`."""
    run = parse_run(read_text(path, "run"))
    return run if stages is None else run.model_copy(update={"stages": stages})


def check_early(run: TrainingRun, folder: Path) -> None:
    """Raises `MusterError` where the model or a file of the data is not there. Both are looked for again later."""
    find_files((*run.data.files, *run.data.held_out), folder)
    if not run.model.endswith(".json") and not (folder / Path(run.model).expanduser()).is_dir():
        resolve_folder(run.model)
