"""The options of `muster plan` and `muster simulate`, and the workload that they describe. Knows no planner."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from muster.cost.few_bits import few_bits_of
from muster.errors import InvalidRequest
from muster.spec.few_bits import FewBits
from muster.spec.plan_check import MOST
from muster.spec.workload import TRAINING, Objective, ServeWorkload, TrainWorkload

_serving = partial(Option, rich_help_panel="To serve")
_training = partial(Option, rich_help_panel="To train (objectives train and dtfm)")
_files = partial(Option, rich_help_panel="Files")
_OBJECTIVE = "The planner looks for the best plan by this measure."
_DERIVED = "slo with --deadline, else throughput"

Model = Annotated[
    str,
    Argument(help="A model's folder, a config.json, a hub id, or a shape such as llama-3-70b. No weights are read."),
]
PoolName = Annotated[
    str, Option("--pool", help="A pool file, the name of a published fleet, or `live`: what a running head measured.")
]
Wanted = Annotated[Objective | None, Option("--objective", help=_OBJECTIVE, show_default=_DERIVED)]
ServeWanted = Annotated[
    Literal["throughput", "cost", "slo", "latency"] | None,
    Option("--objective", help=_OBJECTIVE, show_default=_DERIVED),
]
TrainWanted = Annotated[
    Literal["train", "dtfm"],
    Option("--objective", help="`train` looks for the shortest step, `dtfm` for the least cost by the DT-FM paper."),
]
Seed = Annotated[int, Option(min=0, max=2**53, help="The same seed gives the same result.")]
Explain = Annotated[
    bool,
    Option(
        "--explain", help="Also show why, what was rejected, what one more machine would add, and when the pool pays."
    ),
]

Rate = Annotated[
    float | None, _serving(help="So many requests arrive per second.", show_default="offline: as many as possible")
]
Concurrency = Annotated[
    int | None,
    _serving(min=1, max=MOST, help="So many requests are there at a time; the next one comes when one is answered."),
]
Deadline = Annotated[float | None, _serving(help="A request may take so many seconds until its last token.")]
PromptTokens = Annotated[int, _serving(min=1, help="Prompts have so many tokens on average.")]
OutputTokens = Annotated[int, _serving(min=1, help="Answers have so many tokens on average.")]
Budget = Annotated[
    float | None,
    _serving(help="The machines in use may cost so many US dollars per hour, without electricity."),
]
Pins = Annotated[
    list[str] | None,
    _serving("--pin", help="Keep these layers on this machine, as in ada=0-19. May be given several times."),
]

Runnable = Annotated[
    bool,
    _serving("--runnable", help="Plan only what a pool runs whatever the model is: whole stages, one for each device."),
]

Sequences = Annotated[
    int | None, _training(min=1, max=MOST, help="An optimizer step sees so many sequences.", show_default="1024")
]
Length = Annotated[int | None, _training(min=1, max=MOST, help="A sequence has so many tokens.", show_default="2048")]
Microbatch = Annotated[
    int | None, _training(min=1, max=MOST, help="A microbatch has so many sequences.", show_default="1")
]
Optimizer = Annotated[
    str | None, _training(help="The optimizer is adamw, adamw-8bit, momentum or sgd.", show_default="adamw")
]
Schedule = Annotated[
    Literal["gpipe", "1f1b", "interleaved"] | None,
    _training(help="The stages take microbatches in this order.", show_default="1f1b"),
]
Recompute = Annotated[
    bool, _training("--recompute", help="Compute activations again in the backward pass; do not keep them.")
]
Compress = Annotated[
    bool,
    _training("--compress", help="Compress activations on links where that shortens the step (objective train)."),
]
Replicas = Annotated[
    int | None,
    _training(min=1, help="The plan has so many pipelines side by side (objective dtfm).", show_default="the best"),
]
Stages = Annotated[
    int | None, _training(min=1, help="Each pipeline has so many stages (objective dtfm).", show_default="the best")
]

Picture = Annotated[
    Path | None, _files(help="Draw a map and a timeline of the plan into FILE.svg, FILE.png or FILE.html.")
]
Lock = Annotated[Path | None, _files(help="Write the plan to this file. If the file exists, its plan is used.")]
SavePool = Annotated[Path | None, _files(help="Write the pool to this file.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line of `muster plan`, of either form."""

    model: str
    pool: str
    objective: Objective | None = None
    dtype: str | None = None
    weights: str | None = None
    cache: str | None = None
    rate: float | None = None
    concurrency: int | None = None
    deadline: float | None = None
    prompt_tokens: int = 512
    output_tokens: int = 128
    budget: float | None = None
    pin: list[str] | None = None
    runnable: bool = False
    sequences: int | None = None
    length: int | None = None
    microbatch: int | None = None
    optimizer: str | None = None
    schedule: str | None = None
    recompute: bool = False
    compress: bool = False
    replicas: int | None = None
    stages: int | None = None
    seed: int = 0
    explain: bool = False
    picture: Path | None = None
    lock: Path | None = None
    save_pool: Path | None = None
    head: str | None = None
    token: str | None = None
    data_dir: Path | None = None
    as_json: bool = False

    @property
    def few_bits(self) -> FewBits:
        """Raises `InvalidRequest` on a format that is not known."""
        return few_bits_of(self.weights, self.cache)


LEAST_RATE, MAX_RATE = 1e-6, 1e6
"""Requests a second: one in eleven days, and more than any service has."""
MAX_SECONDS = 1e9
_SERVES = ("rate", "concurrency", "deadline", "budget", "pin", "runnable", "weights", "cache")
_TRAINS = ("sequences", "length", "microbatch", "optimizer", "schedule", "recompute")
_DTFM = ("replicas", "stages")


def serve_workload(
    prompt_tokens: int, output_tokens: int, rate: float | None, deadline: float | None, concurrency: int | None
) -> ServeWorkload:
    """Raises `InvalidRequest` on a rate or deadline that cannot be."""
    if rate is not None and not LEAST_RATE <= rate <= MAX_RATE:
        limits = f"above 0 and at most {MAX_RATE:,.0f}" if rate <= 0 or rate > 1 else f"at least {LEAST_RATE:g}"
        raise InvalidRequest(f"--rate {rate:g} is no rate; give requests per second, {limits}.", "rate")
    if deadline is not None and not 0 < deadline <= MAX_SECONDS:
        limits = f"above 0 and at most {MAX_SECONDS:,.0f}"
        raise InvalidRequest(f"--deadline {deadline:g} is no deadline; give seconds, {limits}.", "deadline")
    if rate is not None and concurrency is not None:
        raise InvalidRequest(
            "--rate says how often requests come and --concurrency how many are there at a time; give one of the two.",
            "concurrency",
        )
    return ServeWorkload(prompt_tokens, output_tokens, rate, deadline, concurrency)


def train_workload(asked: Asked) -> TrainWorkload | None:
    """None where nothing was said, so that a planner takes what it thinks of as usual."""
    said = {name: getattr(asked, name) for name in _TRAINS}
    given = {name: value for name, value in said.items() if value not in (None, False)}
    return TrainWorkload(**given) if given else None


def check_belongs(objective: Objective, asked: Asked) -> None:
    """Raises `InvalidRequest` on an option that this objective does not look at: silence would look like consent."""
    trains = objective in TRAINING
    strange = [*(_SERVES if trains else _TRAINS)]
    strange += [*(() if objective == "dtfm" else _DTFM), *(() if objective == "train" else ("compress",))]
    for option in strange:
        if getattr(asked, option):
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
