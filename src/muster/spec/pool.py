"""Machines and the links between them, as measured or as described. Knows nothing of how they are measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from muster.spec.tiers import TierRates

NodeId = str
"""64 hexadecimal digits: the Ed25519 public key of the node."""


@dataclass(frozen=True, slots=True)
class Device:
    """What one node can do. `memory_bytes` is what the owner lends (`--memory`), not what the machine has."""

    kind: str
    """`cpu`, `cuda` or `mps`."""
    name: str
    memory_bytes: int
    flops_per_s: dict[str, float] = field(default_factory=dict)
    """Measured matrix-multiply speed by dtype name (`float32`, `bfloat16`)."""
    memory_bandwidth_bytes_per_s: float = 0.0
    host_bandwidth_bytes_per_s: float = 0.0
    """Host memory to device; equals the memory bandwidth on a CPU."""
    disk_bandwidth_bytes_per_s: float = 0.0
    host_memory_bytes: int = 0
    """What the owner lends of the host's memory beside that (`--host-memory`), for cache that is swapped, and for
    weights and cache of a stage that is larger than its device."""
    disk_bytes: int = 0
    """What the owner lends of a disk (`--disk`), for what neither of them holds."""
    tiers: TierRates | None = None
    """Measured where anything is lent beside the device."""


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """One direction of a link."""

    latency_s: float
    """One way."""
    bandwidth_bytes_per_s: float


DEFAULT_LINK = LinkSpeed(latency_s=0.02, bandwidth_bytes_per_s=12.5e6)
"""An ordinary home connection, where nothing was measured."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine: a device, or an island of several equal ones that can share a stage's tensors."""

    id: NodeId
    name: str
    region: str
    device: Device
    """Each of the devices; its memory and speed are of one."""
    device_count: int = 1
    inside: LinkSpeed | None = None
    """Between two devices of the island; None where there is one device, or nothing is known."""
    price_per_hour: float | None = None
    """US dollars for the whole machine; None where nobody said."""
    watts: float | None = None
    """Of the whole machine, working."""
    island: str = ""
    """That its owner says it belongs to: with others of this name it can share a stage's tensors. In a pool that runs,
    every device is lent by a process of its own."""
    owner: str = ""
    """Whose it says it is; in a private session machines of one owner count as one."""

    @property
    def party(self) -> str:
        """With whose machines it shares what it reads: its owner's, or those of its island, or none."""
        return self.owner or self.island or self.id


@dataclass(frozen=True, slots=True)
class Market:
    """What tokens and electricity are worth where the pool stands; None where nobody said."""

    token_price_per_million: float | None = None
    """US dollars that a million generated tokens sell for."""
    electricity_price_per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    nodes: tuple[Node, ...]
    links: Mapping[tuple[NodeId, NodeId], LinkSpeed] = field(default_factory=dict)
    """(from, to) -> speed. A missing pair falls back to `default_link`."""
    default_link: LinkSpeed = DEFAULT_LINK
    name: str = ""
    market: Market = Market()

    def link(self, source: NodeId, target: NodeId) -> LinkSpeed:
        return self.links.get((source, target), self.default_link)
