"""`muster serve MODEL`: a head that gathers machines, places the model on them and answers the OpenAI API.

Reads options; what a running head is made of stands in `head`.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.options import (
    CacheBits,
    ComputeDevice,
    DataDir,
    Disk,
    DiskDir,
    Dtype,
    Json,
    MachineName,
    Region,
    ScenarioName,
    WeightBits,
    parse_bytes,
    parse_seconds,
)
from muster.cli.output import Announcer
from muster.cli.waiting import waiting
from muster.cost.codec_table import codecs_called
from muster.cost.few_bits import few_bits_of
from muster.errors import InvalidRequest
from muster.head.data_directory import data_dir

if TYPE_CHECKING:
    from muster.api.serving import ServingOptions

LOOPBACK = "127.0.0.1"
MAX_PIPELINES = 64
"""Of one model at once."""
Host = Annotated[str, typer.Option(help="The HTTP door listens at this address. Beyond loopback it needs API keys.")]
Port = Annotated[int, typer.Option(help="The HTTP door listens on this port; 0 picks a free one.")]
LinkPort = Annotated[int, typer.Option(help="Machines reach this UDP port; 0 takes that of last time, or a free one.")]
MinNodes = Annotated[int, typer.Option(help="Place the model only once this many machines are here.")]
Relay = Annotated[str | None, typer.Option(help="Machines that cannot be dialled directly use this relay.")]
MaxContext = Annotated[
    int | None,
    typer.Option(help="A prompt and its answer may have so many tokens together.", show_default="the model's"),
]
TicketHours = Annotated[float, typer.Option(help="The printed ticket lets machines join for so many hours.")]
AllowOrigins = Annotated[
    list[str] | None,
    typer.Option(
        help="Pages of this origin may call, too, besides this machine's; * for all. May be given several times."
    ),
]
ServedModelNames = Annotated[
    list[str] | None,
    typer.Option(
        "--served-model-name",
        help="Clients may call the model this; answers say the first. May be given several times.",
        show_default="the model's own",
    ),
]
StrictFields = Annotated[
    bool,
    typer.Option(
        "--strict-fields",
        help="Refuse a request with an unknown field. Else the answer's header names what was ignored.",
    ),
]
StoreResponses = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=24.0 * 365,
        help="Keep answers of /v1/responses so many hours in memory, so that others may follow them; 0 keeps none.",
    ),
]
ToolParser = Annotated[
    str,
    typer.Option(
        help="Read calls of tools as this family of models writes them (docs/tools.md has the names). `auto` goes by "
        "the chat template; `none` leaves answers as they are and refuses tools."
    ),
]
WaitForPipeline = Annotated[
    float,
    typer.Option(min=0.0, max=240.0, help="A new request waits so many seconds while nothing serves, then gets a 503."),
]
ForgetAfter = Annotated[
    str, typer.Option(help="Forget machines that have been gone for so long; 0d forgets none. They need a ticket then.")
]
DraftModel = Annotated[
    str | None,
    typer.Option(
        help="A small model with the same tokens guesses beside the first stage, so that one stream over far machines "
        "is faster (docs/speculation.md).",
        show_default="n-grams alone",
    ),
]
ServePins = Annotated[
    list[str] | None,
    typer.Option(
        "--pin",
        help="Keep these layers on this machine whenever it is here, as in ada=0-19. May be given several times.",
    ),
]
LinkCodec = Annotated[
    str,
    typer.Option(
        help="Send hidden states so: `auto` packs links that hold up the ring, as mildly as will do; `raw` none; or "
        "fp32, fp16, bf16, int8 or int4 on all links. What would change the model's answers is refused."
    ),
]
ServePlan = Annotated[
    Path | None,
    typer.Option(help="Pin every machine to the layers that it has in this plan, from `muster plan --lock`."),
]
MostPipelines = Annotated[
    str,
    typer.Option(
        help="Serve by so many pipelines at once at most, each with the whole model; `auto` makes as many as the "
        "machines suffice for, or one with --pin."
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        help="This machine is yours (its id, or its name of last time; `all` for every one): what it claims is taken "
        "as it is. May be given several times."
    ),
]
WorkerMemory = Annotated[
    str | None, typer.Option("--memory", help="The local worker may use so much memory, such as 8GB.")
]
WorkerHostMemory = Annotated[
    str | None, typer.Option("--host-memory", help="And so much of the host's beside it, for cache that waits there.")
]


def serve(
    model: Annotated[str, typer.Argument(help="`tiny`, a folder with safetensors, or a Hugging Face id.")],
    host: Host = LOOPBACK,
    port: Port = 8000,
    data_dir_: DataDir = None,
    local_worker: Annotated[bool, typer.Option(help="Let this machine compute, too.")] = True,
    memory: WorkerMemory = None,
    host_memory: WorkerHostMemory = None,
    disk: Disk = None,
    disk_dir: DiskDir = None,
    name: MachineName = None,
    region: Region = "home",
    scenario: ScenarioName = None,
    dtype: Dtype = None,
    weights: WeightBits = None,
    cache: CacheBits = None,
    device: ComputeDevice = "auto",
    max_context: MaxContext = None,
    min_nodes: MinNodes = 1,
    draft: DraftModel = None,
    pin: ServePins = None,
    plan: ServePlan = None,
    pipelines: MostPipelines = "auto",
    codec: LinkCodec = "auto",
    served_model_name: ServedModelNames = None,
    strict_fields: StrictFields = False,
    store_responses: StoreResponses = 0.0,
    tool_parser: ToolParser = "auto",
    trust: Trust = None,
    allow_origin: AllowOrigins = None,
    wait_for_pipeline: WaitForPipeline = 10.0,
    forget_after: ForgetAfter = "30d",
    link_port: LinkPort = 0,
    relay: Relay = None,
    ticket_hours: TicketHours = 24.0,
    as_json: Json = False,
) -> None:
    """Gather machines and serve MODEL over the OpenAI API."""
    placing = checked(model, host, port, data_dir(data_dir_), pin, plan, codec, as_json)
    machine = {"name": name, "region": region, "scenario": scenario, "device": device}
    asked = {"dtype": dtype, "max_context": max_context, "min_nodes": min_nodes, "draft": draft}
    start(
        as_json,
        most_pipelines=read_pipelines(pipelines, pin, plan),
        local_worker=local_worker,
        **lent(memory, host_memory, disk, disk_dir),
        door=door_options(served_model_name, strict_fields, store_responses, tool_parser, allow_origin),
        wait_for_pipeline_s=wait_for_pipeline,
        forget_after_s=parse_seconds(forget_after, "forget_after"),
        trusted=tuple(trust or ()),
        link_port=link_port,
        relay=relay,
        ticket_s=ticket_hours * 3600,
        few_bits=few_bits_of(weights, cache),
        **machine,
        **asked,
        **placing,
    )


def lent(memory: str | None, host_memory: str | None, disk: str | None, disk_dir: Path | None) -> dict[str, Any]:
    """By the local worker."""
    return {
        "memory_bytes": parse_bytes(memory) if memory else None,
        "host_memory_bytes": parse_bytes(host_memory) if host_memory else 0,
        "disk_bytes": parse_bytes(disk) if disk else 0,
        "disk_dir": disk_dir,
    }


def start(as_json: bool, **asked: Any) -> None:
    """`asked` are the fields of `HeadOptions`."""
    from muster.head import options, run

    asyncio.run(run.run_head(options.HeadOptions(**asked), Announcer(as_json)))


def door_options(
    names: list[str] | None, strict_fields: bool, store_hours: float, tool_parser: str, origins: list[str] | None
) -> "ServingOptions":
    from muster.api.serving import ServingOptions
    from muster.text.tools.families import check_choice

    if not all(names or ()):
        raise InvalidRequest("--served-model-name is empty; write a name.", "served_model_name")
    return ServingOptions(
        allow_origins=tuple(origins or ()),
        strict_fields=strict_fields,
        model_names=tuple(names or ()),
        store_responses_s=store_hours * 3600,
        tool_parser=check_choice(tool_parser),
    )


def checked(
    model: str, host: str, port: int, folder: Path, pin: list[str] | None, plan: Path | None, codec: str, as_json: bool
) -> dict[str, Any]:
    """Who holds what and how it travels, as the head is asked.

    Whatever can be wrong is told before what is slow is imported.
    """
    codecs = codecs_called(codec)
    if pin and plan is not None:
        raise InvalidRequest("--pin and --plan both say who holds what; give one of them.", "plan")
    with waiting("checking the port and the model", as_json) as say:
        from muster.head.early import check_early

        check_early(model, host, port, folder)
        from muster.cli.pins import read_pin, read_saved_plan

        pins, saved = tuple(map(read_pin, pin or ())), read_saved_plan(plan) if plan is not None else None
        say("loading what a head is made of")
        from muster.cli.logs import configure_logs

        configure_logs()
        import muster.head.run  # noqa: F401 - here, where the wait says what it is for
    asked = {"model": model, "host": host, "port": port, "data_dir": folder}
    return asked | {"pins": pins, "plan": saved, "codecs": codecs}


def read_pipelines(word: str, pin: list[str] | None, plan: Path | None) -> int:
    """Raises `InvalidRequest` on a word that is no number of pipelines, or one beside a plan, which says it."""
    if word == "auto":
        return 1 if plan is not None or pin else MAX_PIPELINES
    if plan is not None:
        raise InvalidRequest("--plan says how many pipelines there are; leave --pipelines out.", "pipelines")
    if not word.isdecimal() or not 1 <= int(word[:9]) <= MAX_PIPELINES:
        said = f"--pipelines is {word[:20]!r}; write auto, or a number up to {MAX_PIPELINES}."
        raise InvalidRequest(said, "pipelines")
    return int(word)
