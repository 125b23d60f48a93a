"""What a search for a serving plan may be told. Knows nothing of how it searches."""

from dataclasses import dataclass, field
from typing import Literal

from muster.cost.memory import WorkspaceOptions
from muster.spec.codec import RAW, Codec
from muster.spec.pool import NodeId

Objective = Literal["throughput", "cost", "slo", "latency"]


@dataclass(frozen=True, slots=True)
class Pin:
    """Layers [first, last) belong on this machine, whatever the search would like better."""

    node: NodeId
    """A node's id or its name; in a pool that runs, also the name of an island."""
    first: int
    last: int
    devices: tuple[int, ...] = (0,)
    """Which of it share the layers."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    objective: Objective = "throughput"
    """`throughput`: tokens/s of all replicas; `cost`: tokens/s per dollar an hour, machines may stay idle (with
    `requests_per_s`: the cheapest that keeps up); `slo`: share of requests within the deadline at `requests_per_s`;
    `latency`: seconds of one request on an idle pool."""
    max_replicas: int | None = None
    max_tensor_parallel: int | None = None
    """Most devices that share a stage."""
    budget_per_hour: float | None = None
    """Most US dollars an hour for the machines in use."""
    pins: tuple[Pin, ...] = ()
    symmetric: bool = False
    """Every stage of a replica has the same tensor-parallel degree and, as near as it goes, as many layers."""
    swap: bool = True
    """Cache may move to host memory while other microbatches compute."""
    page_size: int = 16
    """Tokens per KV page."""
    max_batch: int = 256
    """Most sequences in one microbatch."""
    max_microbatches: int = 64
    """Most microbatches in flight in one pipeline."""
    codecs: tuple[Codec, ...] = (RAW,)
    """What links between stages may carry."""
    evaluations: int = 300
    """Replicas that the search may design; those that it has designed before cost nothing."""
    exhaustive: bool = True
    """Of a fleet of at most six devices, look at every layout and every order."""
    workspace: WorkspaceOptions = field(default_factory=WorkspaceOptions)
