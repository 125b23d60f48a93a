"""`muster plan`: which machine should do what, and what will come of it. Reads options; the searches are in `plan/`.

`muster plan serve MODEL` and `muster plan train MODEL` have the options of their own; `muster plan MODEL` has those of
both, and its objective decides.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from muster.cli.options import AdminToken, CacheBits, DataDir, Dtype, HeadUrl, Json, WeightBits
from muster.cli.plan_options import (
    Asked,
    Budget,
    Compress,
    Concurrency,
    Deadline,
    Explain,
    Length,
    Lock,
    Microbatch,
    Model,
    Optimizer,
    OutputTokens,
    Picture,
    Pins,
    PoolName,
    PromptTokens,
    Rate,
    Recompute,
    Replicas,
    Runnable,
    SavePool,
    Schedule,
    Seed,
    Sequences,
    ServeWanted,
    Stages,
    TrainWanted,
    Wanted,
)
from muster.cli.waiting import waiting

EITHER = "either"


class _ShortForm(TyperGroup):
    """`muster plan MODEL …`, without `serve` or `train` in between."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [EITHER, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == EITHER else name, command, rest


app = typer.Typer(
    cls=_ShortForm,
    help="Plan a model for a pool: which machine holds which layers, how fast that will be, what it costs, and what "
    "limits it. `muster plan MODEL --pool POOL` plans serving, or what its --objective says.",
    no_args_is_help=True,
)


@app.command("serve")
def plan_serve(
    model: Model,
    pool: PoolName,
    objective: ServeWanted = None,
    dtype: Dtype = None,
    weights: WeightBits = None,
    cache: CacheBits = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    deadline: Deadline = None,
    prompt_tokens: PromptTokens = 512,
    output_tokens: OutputTokens = 128,
    budget: Budget = None,
    pin: Pins = None,
    runnable: Runnable = False,
    seed: Seed = 0,
    explain: Explain = False,
    picture: Picture = None,
    lock: Lock = None,
    save_pool: SavePool = None,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Plan how a pool serves MODEL."""
    _carry_out(locals())


@app.command("train")
def plan_train(
    model: Model,
    pool: PoolName,
    objective: TrainWanted = "train",
    dtype: Dtype = None,
    sequences: Sequences = None,
    length: Length = None,
    microbatch: Microbatch = None,
    optimizer: Optimizer = None,
    schedule: Schedule = None,
    recompute: Recompute = False,
    compress: Compress = False,
    replicas: Replicas = None,
    stages: Stages = None,
    seed: Seed = 0,
    explain: Explain = False,
    picture: Picture = None,
    lock: Lock = None,
    save_pool: SavePool = None,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Plan how a pool trains MODEL."""
    _carry_out(locals())


@app.command(EITHER, hidden=True)
def plan(
    model: Model,
    pool: PoolName,
    objective: Wanted = None,
    dtype: Dtype = None,
    weights: WeightBits = None,
    cache: CacheBits = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    deadline: Deadline = None,
    prompt_tokens: PromptTokens = 512,
    output_tokens: OutputTokens = 128,
    budget: Budget = None,
    pin: Pins = None,
    runnable: Runnable = False,
    sequences: Sequences = None,
    length: Length = None,
    microbatch: Microbatch = None,
    optimizer: Optimizer = None,
    schedule: Schedule = None,
    recompute: Recompute = False,
    compress: Compress = False,
    replicas: Replicas = None,
    stages: Stages = None,
    seed: Seed = 0,
    explain: Explain = False,
    picture: Picture = None,
    lock: Lock = None,
    save_pool: SavePool = None,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Plan MODEL for a pool; the objective decides whether it serves or trains. Its options are those of both."""
    _carry_out(locals())


def _carry_out(options: dict[str, Any]) -> None:
    """`options` are the verb's own arguments, which have the names of the fields of `Asked`."""
    with waiting("loading the planner", options["as_json"]):
        from muster.cli.plan_work import plan_as_asked

    plan_as_asked(Asked(**options))
