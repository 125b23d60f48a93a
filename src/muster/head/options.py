"""What a head was asked to be. Knows nothing of how it becomes that."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import hexdigits

from muster.api.serving import ServingOptions
from muster.broker.members.trust import TrustOptions
from muster.broker.pipelines.job import JobOptions, PlannedPipeline
from muster.broker.state import BrokerOptions
from muster.errors import InvalidRequest
from muster.head.pins import SavedPlan
from muster.plan.quick.tables import PlanOptions
from muster.plan.serve.options import Pin
from muster.spec.codec import RAW, Codec
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.pool import NodeId

EVERYBODY = "all"
"""Instead of a machine: all of them are the operator's own."""


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """`muster serve`'s options, checked."""

    model: str
    host: str
    port: int
    data_dir: Path
    local_worker: bool
    memory_bytes: int | None
    name: str | None
    region: str
    scenario: str | None
    dtype: str | None
    device: str
    max_context: int | None
    min_nodes: int
    link_port: int
    relay: str | None
    ticket_s: float
    few_bits: FewBits = AS_STORED
    """In which `model` is held."""
    draft: str | None = None
    """A small model that guesses tokens for `model`."""
    door: ServingOptions = field(default_factory=ServingOptions)
    """What the HTTP door lets in."""
    wait_for_pipeline_s: float = 10.0
    """How long a new request waits while nothing serves."""
    forget_after_s: float = 30 * 86_400.0
    """Machines that were away for longer are forgotten; 0 never."""
    host_memory_bytes: int = 0
    """Of the local worker, beside `memory_bytes`."""
    disk_bytes: int = 0
    """Likewise of a disk."""
    disk_dir: Path | None = None
    pins: tuple[Pin, ...] = ()
    plan: SavedPlan | None = None
    """A plan whose stages are pins, each of its pipeline."""
    most_pipelines: int = 1
    """At once, as far as machines suffice."""
    trusted: tuple[str, ...] = ()
    """Machines of the operator's own, by id or by the name that they had here before; `all` for every one."""
    codecs: tuple[Codec, ...] = (RAW,)
    """That links may carry."""

    @property
    def planned_dtype(self) -> str | None:
        """The operator's word, or the plan's; None leaves it to the machines."""
        return self.dtype or (self.plan.file.shape.dtype if self.plan is not None else None)

    @property
    def planned_few_bits(self) -> FewBits:
        """Likewise."""
        planned = self.plan.file.shape.few_bits if self.plan is not None else AS_STORED
        return FewBits(self.few_bits.weights or planned.weights, self.few_bits.cache or planned.cache)


def broker_options(
    options: HeadOptions, own_machine: NodeId | None, past: Iterable[Mapping[str, object]]
) -> BrokerOptions:
    """`own_machine` is the local worker's id, where there is one; `past` are the store's records of machines."""
    named = [word for word in options.trusted if word != EVERYBODY]
    own = {trusted_id(word, past) for word in named} | ({own_machine} if own_machine is not None else set())
    trust = TrustOptions(EVERYBODY in options.trusted, own)
    return BrokerOptions(region=options.region, forget_after_s=options.forget_after_s, trust=trust)


def trusted_id(word: str, past: Iterable[Mapping[str, object]]) -> NodeId:
    """Who is meant. A name counts only where a machine of that name was here before: anybody may call itself so.

    Raises `InvalidRequest` where that is nobody, or several.
    """
    if len(word) == 64 and set(word.lower()) <= set(hexdigits):
        return word.lower()
    found = {str(record["id"]) for record in past if record["name"] == word}
    if len(found) == 1:
        return found.pop()
    raise InvalidRequest(
        f"--trust {word}: {'several machines' if found else 'no machine'} of that name "
        f"{'were' if found else 'was'} here before; give the id, or join it first and say `muster nodes trust {word}`.",
        "trust",
    )


def job_options(options: HeadOptions, planned: tuple[PlannedPipeline, ...], own_machine: NodeId | None) -> JobOptions:
    """`planned` is what `--plan` says; `own_machine` is the local worker's id, where there is one."""
    return JobOptions(
        min_nodes=options.min_nodes,
        pins=options.pins,
        planned=planned,
        most_pipelines=options.most_pipelines,
        own_machine=own_machine,
        planning=PlanOptions(codecs=options.codecs),
    )
