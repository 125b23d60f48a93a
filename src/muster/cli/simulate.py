"""`muster simulate`: a plan at work, request by request or microbatch by microbatch, with faults. Reads options.

The simulators are in `sim/`; nothing here knows how they work.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from muster.cli.options import AdminToken, DataDir, HeadUrl, Json
from muster.cli.plan_options import Deadline, Dtype, Picture, Rate, Seed, Wanted

_TOKENS = "the plan's, else 512 and 128"


def simulate(
    plan: Annotated[
        str, Argument(help="A plan that `muster plan` wrote with --lock or --json; or a model, to plan for first.")
    ],
    pool: Annotated[
        str | None,
        Option(help="As of `muster plan`; needed with a model.", show_default="the pool that the plan was made for"),
    ] = None,
    objective: Wanted = None,
    dtype: Dtype = None,
    rate: Rate = None,
    deadline: Deadline = None,
    prompt_tokens: Annotated[int | None, Option(min=1, help="Of a request, on average.", show_default=_TOKENS)] = None,
    output_tokens: Annotated[int | None, Option(min=1, help="Of its answer.", show_default=_TOKENS)] = None,
    requests: Annotated[
        int | None, Option(min=1, help="How many come.", show_default="a few for every one that runs at once")
    ] = None,
    spread: Annotated[float, Option(min=0, max=0.99, help="Lengths vary by up to this share of their mean.")] = 0.0,
    trace: Annotated[
        Path | None, Option(help="Recorded requests: lines of seconds,prompt tokens,output tokens.")
    ] = None,
    steps: Annotated[
        int | None, Option(min=1, help="Optimizer steps, of a plan for training.", show_default="1")
    ] = None,
    fault: Annotated[
        list[str] | None,
        Option(help="leave:ada@12, join:ada@40, slow:bob@5x0.3 (of its speed), cut:ada,bob@10-20; may be given again."),
    ] = None,
    seed: Seed = 0,
    picture: Picture = None,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run a plan in simulation: requests that arrive, machines that leave or slow down, and what that costs."""
    from muster.cli.find_head import find_head
    from muster.cli.live_pool import live_pool
    from muster.cli.plan_inputs import check_outputs
    from muster.cli.simulate_work import Asked, carry_out

    check_outputs(picture)
    asked = Asked(plan, pool, objective, dtype, rate, deadline, prompt_tokens, output_tokens, requests, spread, trace)
    asked = replace(asked, faults=tuple(fault or ()), seed=seed, picture=picture, steps=steps)
    carry_out(asked, lambda: live_pool(find_head(head, token, folder=data_dir)), as_json)
