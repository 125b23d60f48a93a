"""`muster train RUN.toml`: fine-tune or pre-train a model, on this machine or on a pool. Reads options.

`train_inputs` checks the run, `train_work` does it here, and `train_pool` on machines that join.
"""

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
    pool: Annotated[
        int | None,
        Option(
            min=1,
            help="Train on machines that join by the ticket that is printed, as soon as so many are here; this one "
            "only leads them.",
            show_default="on this machine",
        ),
    ] = None,
    link_port: Annotated[
        int, Option(help="With --pool, machines reach this UDP port; 0 takes that of last time, or a free one.")
    ] = 0,
    relay: Annotated[
        str | None, Option(help="With --pool, machines that cannot be dialled directly use this relay.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        Option(
            help="With --pool, this folder keeps what is known of the machines.", show_default="pool in the run's out"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model as RUN says, or go on where that run stopped. Ctrl-C leaves a checkpoint."""
    with waiting("reading the run", as_json) as say:
        from muster.cli.train_inputs import check_early, read_run

        asked = read_run(run, stages)
        check_early(asked, run.parent)
        say("loading PyTorch")
        from muster.cli.train_work import carry_out

    if pool is None:
        carry_out(asked, run.parent, as_json)
        return
    from muster.cli.logs import configure_logs

    configure_logs()
    from muster.cli.train_pool import PoolWords, carry_out_on_pool

    carry_out_on_pool(asked, run.parent, PoolWords(pool, link_port, relay, data_dir), as_json)
