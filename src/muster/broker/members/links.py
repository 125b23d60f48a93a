"""Every pair's link, from what members measured of it and of their own links to the head. Decides nothing.

Where both ends have measured, the worse figures count: nobody can make its links look better than its peers find them.

Worked out when it is asked for: 200 nodes have 40 000 pairs, and a planner looks at few.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from muster.spec.pool import DEFAULT_LINK, LinkSpeed, NodeId, Pool

SAME_REGION_S = 0.001
"""One-way latency inside a named region while nobody has measured it."""


class Origin(Enum):
    """Where the figures of a link come from."""

    MEASURED = "measured from end to end"
    LATENCY = "latency measured; bandwidth guessed as the narrower of both ends' links to the head"
    REGION = "both ends in one region, whose latency is assumed; bandwidth guessed from their links to the head"
    HEAD = "guessed from both ends' links to the head"
    DEFAULT = "not known; an ordinary home connection is assumed"
    DOWN = "down"


class LinkEnd(Protocol):
    """What has to be known of a member."""

    @property
    def id(self) -> NodeId: ...

    @property
    def region(self) -> str: ...

    @property
    def links(self) -> Mapping[NodeId, LinkSpeed]:
        """As this node measured them; a bandwidth of 0 here means not measured."""


@dataclass(frozen=True, slots=True)
class Links(Mapping[tuple[NodeId, NodeId], LinkSpeed]):
    head: NodeId
    members: Mapping[NodeId, LinkEnd]
    broken: frozenset[frozenset[NodeId]] = frozenset()

    def __getitem__(self, pair: tuple[NodeId, NodeId]) -> LinkSpeed:
        """A bandwidth of 0 where the link is down."""
        return self.known(*pair)[0]

    def __iter__(self) -> Iterator[tuple[NodeId, NodeId]]:
        return ((a, b) for a in self.members for b in self.members if a != b)

    def __len__(self) -> int:
        return len(self.members) * (len(self.members) - 1)

    def known(self, source: NodeId, target: NodeId) -> tuple[LinkSpeed, Origin]:
        """The link, and how it is known."""
        link, origin = self._link(self.members[source], self.members[target])
        if frozenset((source, target)) in self.broken:
            return LinkSpeed(link.latency_s, 0.0), Origin.DOWN
        return link, origin

    def _link(self, source: LinkEnd, target: LinkEnd) -> tuple[LinkSpeed, Origin]:
        """The worse of what both ends measured, else guessed from both ends' links to the head."""
        to_head, from_head = source.links.get(self.head), target.links.get(self.head)
        ends = [end.bandwidth_bytes_per_s for end in (to_head, from_head) if end and end.bandwidth_bytes_per_s > 0]
        bandwidth = min(ends, default=DEFAULT_LINK.bandwidth_bytes_per_s)
        measured = [link for link in (source.links.get(target.id), target.links.get(source.id)) if link is not None]
        if measured:
            latency_s = max(link.latency_s for link in measured)
            rates = [link.bandwidth_bytes_per_s for link in measured if link.bandwidth_bytes_per_s > 0]
            return LinkSpeed(latency_s, min(rates, default=bandwidth)), Origin.MEASURED if rates else Origin.LATENCY
        if source.region and source.region == target.region:
            return LinkSpeed(SAME_REGION_S, bandwidth), Origin.REGION
        if to_head is None or from_head is None:
            return LinkSpeed(DEFAULT_LINK.latency_s, bandwidth), Origin.DEFAULT
        return LinkSpeed(to_head.latency_s + from_head.latency_s, bandwidth), Origin.HEAD


def broken_among(pool: Pool) -> frozenset[frozenset[NodeId]]:
    """Pairs of the pool's machines whose link is down."""
    here, links = {node.id for node in pool.nodes}, pool.links
    return frozenset(pair for pair in links.broken if pair <= here) if isinstance(links, Links) else frozenset()
