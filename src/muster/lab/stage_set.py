"""Who plays in the demo: four workers cut to the model's size, three regions of a shipped scenario, held-out prompts.

Knows sizes and names; starts nothing.
"""

from dataclasses import dataclass

from muster.cost.memory import WorkspaceOptions, stage_bytes
from muster.errors import Unsupported
from muster.lab.processes import WorkerSpec
from muster.lab.prompts import excerpts
from muster.lab.rehearsal import Rehearsal
from muster.lab.streams import Prompt
from muster.model.checked import checked_shape, described
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.spec.model_shape import ModelShape

SCENARIO = "three-regions-20-80ms"
DTYPE = "float32"
CACHE_TOKENS = 4096
"""What all streams of the demo hold at once, with room to spare."""


@dataclass(frozen=True, slots=True)
class Part:
    """`share` is of the memory that the parts of the model need together: far below 1, nobody can play alone."""

    name: str
    region: str
    share: float
    speed: float


# Any three of them can hold the model, so that the ring can be repaired whoever is killed.
PARTS = (
    Part("ada", "tokyo", 0.62, 1.0),
    Part("bob", "seoul", 0.56, 0.8),
    Part("cleo", "singapore", 0.52, 0.6),
    Part("dan", "seoul", 0.48, 0.5),
)


def demo_rehearsal(model: str, max_tokens: int, kill: str | None) -> Rehearsal:
    weights = open_directory(resolve(model))
    shape = checked_shape(weights.config_json, described(weights), model, DTYPE)
    return Rehearsal(
        model=model,
        workers=workers_for(shape),
        prompts=tuple(demo_prompts()),
        scenario=SCENARIO,
        head_region=PARTS[0].region,
        max_tokens=max_tokens,
        kill=kill,
        dtype=DTYPE,
    )


def workers_for(shape: ModelShape) -> tuple[WorkerSpec, ...]:
    """The four parts, in bytes, rounded down to whole megabytes."""
    if shape.num_layers < len(PARTS):
        raise Unsupported(f"{shape.name} has {shape.num_layers} layers, too few to share out; demo another model.")
    whole = together_bytes(shape)
    return tuple(WorkerSpec(p.name, p.region, int(whole * p.share) // 10**6 * 10**6, p.speed) for p in PARTS)


def together_bytes(shape: ModelShape) -> int:
    """What machines need to hold the model and a sequence of full length; a tied matrix is held at both ends."""
    alone = stage_bytes(shape, 0, shape.num_layers, min(shape.max_context, CACHE_TOKENS), WorkspaceOptions())
    return alone + shape.tied_bytes


def demo_prompts() -> list[Prompt]:
    """Every excerpt once greedy and once sampled, each with its own seed."""
    greedy = [Prompt(name, text) for name, text in excerpts().items()]
    sampled = [Prompt(f"{p.name}, sampled", p.text, temperature=0.7, seed=i) for i, p in enumerate(greedy)]
    return greedy + sampled
