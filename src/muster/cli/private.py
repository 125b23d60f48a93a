"""`muster private plan|node|serve`: prompts that no single machine can read. Reads options; the work is elsewhere."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from muster.cli.options import DataDir, Json
from muster.cli.output import Announcer, out, plain, show_json, show_table
from muster.cli.waiting import waiting
from muster.cost.dtypes import check_dtype
from muster.errors import InvalidRequest
from muster.head.data_directory import data_dir

app = typer.Typer(
    help="Share the tokens of prompts out over machines, so that none of them can read a prompt.", no_args_is_help=True
)
MinGap = Annotated[
    int,
    typer.Option(
        help="At least so many tokens lie from one that a machine reads to the next; a search for those between takes "
        "about 10^(gap - 1) forward passes."
    ),
]
Colluders = Annotated[
    int, typer.Option(help="This many owners may put together what their machines read; 1: each keeps it to itself.")
]


@app.command()
def plan(
    owners: Annotated[
        list[str],
        typer.Argument(
            help="The owner of each machine, such as `ann ann bob eve`; machines of one owner count as one."
        ),
    ],
    min_gap: MinGap = 17,
    colluders: Colluders = 1,
    vocabulary: Annotated[int, typer.Option(min=2, help="The model has so many tokens.")] = 32_000,
    as_json: Json = False,
) -> None:
    """Say which roles machines of these OWNERS would get, what each could read, and what the rest would cost."""
    from muster.plan.private.gaps import GUIDED_TRIES
    from muster.plan.private.in_words import placement_in_words
    from muster.plan.private.placement import PrivateMember, place

    members = [PrivateMember(f"{owner}-{number}", owner) for number, owner in enumerate(owners, 1)]
    placement = place(members, min_gap, colluders)
    rule, words = placement.rule, placement_in_words(placement, vocabulary)
    rows = []
    for name, roles in placement.roles.items():
        found = placement.sight_of([name])
        rows.append(
            {
                "machine": name,
                "comp_nodes": sum(rule.is_comp(role) for role in roles),
                "attn_nodes": sum(not rule.is_comp(role) for role in roles),
                "reads_percent": round(100 * found.seen / found.tokens, 1),
                "longest_run": found.longest_run,
                "smallest_gap": found.smallest_gap,
                "largest_gap": found.largest_gap,
                "guided_log10": round(found.work(GUIDED_TRIES), 1),
                "blind_log10": round(found.work(vocabulary), 1),
            }
        )
    if as_json:
        rules = {"cluster": rule.cluster, "comp_nodes": rule.comp_nodes, "shards": rule.shards}
        show_json({"rule": rules, "design": placement.design, "machines": rows, "words": words})
        return
    columns = [key.replace("_", " ") for key in rows[0]]
    title = f"clusters of {rule.cluster}, {rule.shards} shards: {placement.design}"
    show_table(title, columns, [[str(value) for value in row.values()] for row in rows], columns[1:])
    out.print()
    for line in words:
        out.print(plain(line), soft_wrap=True)


@app.command()
def node(
    model: Annotated[str, typer.Argument(help="`tiny`, a folder with safetensors, or a Hugging Face id.")],
    host: Annotated[str, typer.Option(help="Listen on this address.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Listen on this UDP port; 0 takes a free one.")] = 0,
    data_dir_: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let this machine take roles in private sessions of MODEL, and print the ticket that clients need."""
    with waiting("starting", as_json):
        from muster.cli.logs import configure_logs

        configure_logs()
        from muster.node.private.process import PrivateNodeOptions, run_private_node

    options = PrivateNodeOptions(model, data_dir(data_dir_), host, port, ticket_s=7 * 86_400.0)
    asyncio.run(run_private_node(options, Announcer(as_json)))


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="The same model that the machines hold.")],
    ticket: Annotated[
        str | None,
        typer.Option(
            envvar="MUSTER_TICKET",
            help="The ticket of a pool that serves MODEL; its head finds machines.",
            show_default="none",
        ),
    ] = None,
    machines: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a pool: a file with a ticket a line, as `muster private node` printed it; the owner's "
            "name may follow it.",
            show_default="none",
        ),
    ] = None,
    min_gap: MinGap = 17,
    colluders: Colluders = 1,
    spares: Annotated[
        int, typer.Option(min=0, help="A pool keeps so many owners back, if it can, for machines that are lost.")
    ] = 1,
    sentinels: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            help="Have one of so many sequences, whose states are computed here before, in every step: machines that "
            "compute wrongly are found and left out.",
        ),
    ] = 0,
    dtype: Annotated[str, typer.Option(help="Compute in float32, bfloat16 or float16.")] = "float32",
    max_context: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of prompt and answer together.", show_default="the model's; in a pool at most 4096"
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The door's port on this machine.")] = 8000,
    as_json: Json = False,
) -> None:
    """Open an OpenAI door on this machine, whose prompts and answers stay here; others run the layers."""
    check_dtype(dtype)
    if (ticket is None) == (machines is None):
        raise InvalidRequest("Name either the --ticket of a pool, or a file of --machines.", "machines")
    with waiting("starting", as_json):
        from muster.cli.logs import configure_logs

        configure_logs()
        from muster.head.private import PrivateOptions, read_machines, run_private

    options = PrivateOptions(
        model, read_machines(machines) if machines is not None else (), min_gap, colluders, dtype, max_context,
        host="127.0.0.1", port=port, pool=ticket or "", spares=spares, sentinels=sentinels,
    )  # fmt: skip
    asyncio.run(run_private(options, Announcer(as_json)))
