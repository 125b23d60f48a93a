"""`muster simulate`: a plan at work, request by request or microbatch by microbatch, with faults. Reads options.

The simulators are in `sim/`; nothing here knows how they work.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from muster.cli.options import AdminToken, CacheBits, DataDir, Dtype, HeadUrl, Json, WeightBits
from muster.cli.plan_options import Concurrency, Deadline, Picture, Rate, Seed, Wanted
from muster.cli.waiting import waiting
from muster.cost.few_bits import few_bits_of

_TOKENS = "the plan's, else 512 and 128"


PlannedPool = Annotated[
    str | None,
    Option(
        help="The pool, as for `muster plan`. A model needs one.", show_default="the pool that the plan was made for"
    ),
]
Faults = Annotated[
    list[str] | None,
    Option(
        help="A fault, such as leave:ada@12, join:ada@40, slow:bob@5x0.3 (to this share of its speed) or "
        "cut:ada,bob@10-20. May be given several times."
    ),
]


def simulate(
    plan: Annotated[
        str,
        Argument(help="A plan that `muster plan` wrote with --lock or --json, or a model, which is planned for first."),
    ],
    pool: PlannedPool = None,
    objective: Wanted = None,
    dtype: Dtype = None,
    weights: WeightBits = None,
    cache: CacheBits = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    deadline: Deadline = None,
    prompt_tokens: Annotated[
        int | None, Option(min=1, help="Prompts have so many tokens on average.", show_default=_TOKENS)
    ] = None,
    output_tokens: Annotated[
        int | None, Option(min=1, help="Answers have so many tokens on average.", show_default=_TOKENS)
    ] = None,
    requests: Annotated[
        int | None, Option(min=1, help="So many requests come.", show_default="a few for every one that runs at once")
    ] = None,
    spread: Annotated[
        float, Option(min=0, max=0.99, help="Lengths vary around their mean by up to this share of it.")
    ] = 0.0,
    trace: Annotated[
        Path | None, Option(help="A file of recorded requests, with lines of seconds,prompt tokens,output tokens.")
    ] = None,
    steps: Annotated[
        int | None, Option(min=1, help="A plan for training runs so many optimizer steps.", show_default="1")
    ] = None,
    fault: Faults = None,
    seed: Seed = 0,
    picture: Picture = None,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Simulate a plan at work: requests arrive, machines leave or slow down, and it shows what that costs."""
    with waiting("loading the simulator", as_json):
        from muster.cli.find_head import find_head
        from muster.cli.live_pool import live_pool
        from muster.cli.plan_inputs import check_outputs
        from muster.cli.simulate_work import Asked, carry_out

    check_outputs(picture)
    few_bits = few_bits_of(weights, cache)
    asked = Asked(
        plan, pool, objective, dtype, rate, deadline, prompt_tokens, output_tokens, requests, spread, trace, few_bits
    )
    asked = replace(asked, faults=tuple(fault or ()), seed=seed, picture=picture, steps=steps, concurrency=concurrency)
    carry_out(asked, lambda: live_pool(find_head(head, token, folder=data_dir)), as_json)
