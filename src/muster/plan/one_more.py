"""A pool with one machine more, for "what would one more of these add?". Knows no search."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from muster.spec.named_links import NamedLinks
from muster.spec.pool import LinkSpeed, Node, NodeId, Pool


def kinds(pool: Pool) -> tuple[Node, ...]:
    """One machine of each kind (device, how many, memory, region), the most frequent kinds first."""
    keys = [(repr(node.device), node.device_count, node.region) for node in pool.nodes]
    first = dict(zip(reversed(keys), reversed(pool.nodes), strict=True))
    # `most_common` keeps the order of first sight among equals.
    return tuple(first[key] for key, _ in Counter(keys).most_common())


def with_one_more(pool: Pool, like: Node) -> Pool:
    """A twin of `like` beside it: as far from everybody else as `like` is."""
    twin = replace(like, id=_free_id(pool, like), name=f"{like.name} (one more)")
    return replace(pool, nodes=(*pool.nodes, twin), links=_links(pool, like, twin))


def _free_id(pool: Pool, like: Node) -> NodeId:
    taken = {node.id for node in pool.nodes}
    number = next(number for number in range(2, len(taken) + 3) if f"{like.id}+{number}" not in taken)
    return f"{like.id}+{number}"


def _links(pool: Pool, like: Node, twin: Node) -> Mapping[tuple[NodeId, NodeId], LinkSpeed]:
    if isinstance(pool.links, NamedLinks):
        # It answers to the names of its sibling, so what is written for those holds for both of them.
        names = {**pool.links.names, twin.id: pool.links.names[like.id]}
        return NamedLinks(names, pool.links.table, pool.links.inside)
    twice = dict(pool.links)
    for (source, target), speed in pool.links.items():
        if source == like.id:
            twice[twin.id, target] = speed
        if target == like.id:
            twice[source, twin.id] = speed
    between = _neighbour(pool, like)
    return {**twice, (like.id, twin.id): between, (twin.id, like.id): between} if between else twice


def _neighbour(pool: Pool, like: Node) -> LinkSpeed | None:
    """Between `like` and the nearest machine of its region, as the twin would stand there too."""
    region = {node.id for node in pool.nodes if node.region == like.region and node.id != like.id}
    near = [speed for (source, target), speed in pool.links.items() if source == like.id and target in region]
    return min(near, key=lambda speed: speed.latency_s, default=None)
