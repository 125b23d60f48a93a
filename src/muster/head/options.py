"""What a head was asked to be. Knows nothing of how it becomes that."""

from dataclasses import dataclass, field
from pathlib import Path

from muster.api.serving import ServingOptions
from muster.broker.pipelines.job import JobOptions
from muster.broker.state import BrokerOptions
from muster.head.pins import SavedPlan
from muster.plan.serve.options import Pin
from muster.spec.pool import NodeId


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
    door: ServingOptions = field(default_factory=ServingOptions)
    """What the HTTP door lets in."""
    wait_for_pipeline_s: float = 10.0
    """How long a new request waits while nothing serves."""
    forget_after_s: float = 30 * 86_400.0
    """Machines that were away for longer are forgotten; 0 never."""
    pins: tuple[Pin, ...] = ()
    plan: SavedPlan | None = None
    """A plan whose stages are pins."""

    @property
    def planned_dtype(self) -> str | None:
        """The operator's word, or the plan's; None leaves it to the machines."""
        return self.dtype or (self.plan.file.shape.dtype if self.plan is not None else None)


def broker_options(options: HeadOptions) -> BrokerOptions:
    return BrokerOptions(region=options.region, forget_after_s=options.forget_after_s)


def job_options(options: HeadOptions, pins: tuple[Pin, ...], own_machine: NodeId | None) -> JobOptions:
    """`own_machine` is the local worker's id, where there is one."""
    return JobOptions(min_nodes=options.min_nodes, pins=pins, own_machine=own_machine)
