"""The options of `muster plan` and `muster simulate`, and the workload that they describe. Knows no planner."""

from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from muster.errors import InvalidRequest
from muster.spec.plan_check import MOST
from muster.spec.workload import TRAINING, Objective, ServeWorkload, TrainWorkload

_SERVING, _TRAINING, _FILES = "To serve", "To train (objectives train and dtfm)", "Files"

Model = Annotated[
    str,
    Argument(
        help="A folder with a model, a bare config.json, a hub id, or the name of a shape such as llama-3-70b. Only "
        "sizes are read, no weights."
    ),
]
PoolName = Annotated[
    str, Option("--pool", help="A pool file, a published fleet by name, or `live`: what a running head has measured.")
]
Wanted = Annotated[
    Objective | None,
    Option("--objective", help="What to make the most of.", show_default="slo with --deadline, else throughput"),
]
Dtype = Annotated[
    str | None, Option(help="float32, bfloat16 or float16.", show_default="what suits the checkpoint and the machines")
]
Seed = Annotated[int, Option(min=0, max=2**53, help="The same seed gives the same result.")]
Explain = Annotated[
    bool, Option("--explain", help="Also: why, what was rejected, what one machine more would add, break-even.")
]

Rate = Annotated[
    float | None, Option(help="Requests a second.", show_default="offline: as many as go", rich_help_panel=_SERVING)
]
Deadline = Annotated[
    float | None, Option(help="Seconds from a request's arrival to its last token.", rich_help_panel=_SERVING)
]
PromptTokens = Annotated[int, Option(min=1, help="Of a request, on average.", rich_help_panel=_SERVING)]
OutputTokens = Annotated[int, Option(min=1, help="Of its answer, on average.", rich_help_panel=_SERVING)]
Budget = Annotated[
    float | None,
    Option(help="Most US dollars an hour for the machines in use, without electricity.", rich_help_panel=_SERVING),
]
Pins = Annotated[
    list[str] | None,
    Option("--pin", help="Keep layers on a machine, as in ada=0-19; may be given again.", rich_help_panel=_SERVING),
]

Sequences = Annotated[
    int | None,
    Option(min=1, max=MOST, help="Texts in an optimizer step.", show_default="1024", rich_help_panel=_TRAINING),
]
Length = Annotated[
    int | None, Option(min=1, max=MOST, help="Tokens of a text.", show_default="2048", rich_help_panel=_TRAINING)
]
Microbatch = Annotated[
    int | None, Option(min=1, max=MOST, help="Texts in a microbatch.", show_default="1", rich_help_panel=_TRAINING)
]
Optimizer = Annotated[
    str | None,
    Option(help="adamw, adamw-8bit, momentum or sgd.", show_default="adamw", rich_help_panel=_TRAINING),
]
Schedule = Annotated[
    Literal["gpipe", "1f1b", "interleaved"] | None,
    Option(help="Order of the microbatches.", show_default="1f1b", rich_help_panel=_TRAINING),
]
Recompute = Annotated[
    bool, Option("--recompute", help="Compute activations again on the way back.", rich_help_panel=_TRAINING)
]
Compress = Annotated[
    bool,
    Option(
        "--compress",
        help="Let links carry compressed activations where that shortens the step (train only).",
        rich_help_panel=_TRAINING,
    ),
]
Replicas = Annotated[
    int | None,
    Option(min=1, help="Pipelines side by side (dtfm only).", show_default="the best", rich_help_panel=_TRAINING),
]
Stages = Annotated[
    int | None, Option(min=1, help="Of each pipeline (dtfm only).", show_default="the best", rich_help_panel=_TRAINING)
]

Picture = Annotated[
    Path | None, Option(help="Draw the map and the timeline: FILE.svg, .png or .html.", rich_help_panel=_FILES)
]
Lock = Annotated[
    Path | None, Option(help="Keep the plan in this file; one that is there is kept to.", rich_help_panel=_FILES)
]
SavePool = Annotated[Path | None, Option(help="Write the pool down as a pool file.", rich_help_panel=_FILES)]


LEAST_RATE, MOST_RATE = 1e-6, 1e6
"""Requests a second: one in eleven days, and more than any service has."""
MOST_SECONDS = 1e9
_SERVES = ("rate", "deadline", "budget", "pin")
_TRAINS = ("sequences", "length", "microbatch", "optimizer", "schedule", "recompute")
_DTFM = ("replicas", "stages")


def serve_workload(prompt_tokens: int, output_tokens: int, rate: float | None, deadline: float | None) -> ServeWorkload:
    """Raises `InvalidRequest` on a rate or deadline that cannot be."""
    if rate is not None and not LEAST_RATE <= rate <= MOST_RATE:
        limits = f"above 0 and at most {MOST_RATE:,.0f}" if rate <= 0 or rate > 1 else f"at least {LEAST_RATE:g}"
        raise InvalidRequest(f"--rate {rate:g} is no rate; give requests per second, {limits}.", "rate")
    if deadline is not None and not 0 < deadline <= MOST_SECONDS:
        limits = f"above 0 and at most {MOST_SECONDS:,.0f}"
        raise InvalidRequest(f"--deadline {deadline:g} is no deadline; give seconds, {limits}.", "deadline")
    return ServeWorkload(prompt_tokens, output_tokens, rate, deadline)


def train_workload(**said: Any) -> TrainWorkload | None:
    """None where nothing was said, so that a planner takes what it thinks of as usual."""
    given = {key: value for key, value in said.items() if value not in (None, False)}
    return TrainWorkload(**given) if given else None


def check_belongs(objective: Objective, **said: object) -> None:
    """Raises `InvalidRequest` on an option that this objective does not look at: silence would look like consent."""
    trains = objective in TRAINING
    strange = [*(_SERVES if trains else _TRAINS)]
    strange += [*(() if objective == "dtfm" else _DTFM), *(() if objective == "train" else ("compress",))]
    for option in strange:
        if said.get(option.replace("-", "_")):
            raise InvalidRequest(
                f"--{option} says nothing to the objective {objective}; leave it out, or choose another objective.",
                option,
            )


def check_objective(wanted: Objective | None, serve: ServeWorkload, budget: float | None) -> Objective:
    """The objective, derived where none was named. Raises `InvalidRequest` where it lacks what it needs."""
    objective = wanted or ("slo" if serve.deadline_s else "throughput")
    if objective == "slo" and (serve.deadline_s is None or serve.requests_per_s is None):
        raise InvalidRequest(
            "Requests within a deadline need both --rate (requests per second) and --deadline (seconds); give both.",
            "objective",
        )
    if budget is not None and not 0 < budget < float("inf"):
        raise InvalidRequest(f"--budget {budget:g} is no budget; give US dollars per hour, above 0.", "budget")
    return objective
