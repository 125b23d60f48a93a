"""The pool as its machines measured it, written as a pool file that says what is measured. Decides nothing."""

from collections import Counter
from dataclasses import replace

from muster.broker.members.links import Links, Origin
from muster.broker.members.membership import Membership
from muster.spec.pool import LinkSpeed, NodeId, Pool
from muster.spec.pool_text import to_toml

DOWN_BYTES_PER_S = 1.0
"""A pool file cannot say that a link is down; nothing will be planned over one that is so slow."""


def measured_pool(members: Membership, name: str, now_s: float) -> Pool:
    """Everybody who is here, has measured itself and means to stay; memory as far as it is believed."""
    here = [member for member in members if member.device is not None and not member.draining]
    nodes = tuple(members.node(member, now_s) for member in sorted(here, key=lambda member: member.id))
    # A copy of what is known now: it may be written down while the members measure on.
    return Pool(nodes, members.links([replace(member, links=dict(member.links)) for member in here], now_s), name=name)


def pool_file(pool: Pool, when: str) -> str:
    """A measured `pool` as a pool file. `when` says in words when that was."""
    assert isinstance(pool.links, Links), "only measured links know where they come from"
    known = {pair: pool.links.known(*pair) for pair in pool.links}
    writable = {pair: _writable(link) for pair, (link, _) in known.items()}
    text = to_toml(replace(pool, links=writable), source=f"measured by its machines, {when}")
    return "".join(f"# {line}\n" for line in _origins(known)) + text


def _writable(link: LinkSpeed) -> LinkSpeed:
    return link if link.bandwidth_bytes_per_s > 0 else LinkSpeed(link.latency_s, DOWN_BYTES_PER_S)


def _origins(known: dict[tuple[NodeId, NodeId], tuple[LinkSpeed, Origin]]) -> list[str]:
    counts = Counter(origin for _, origin in known.values())
    found = [f"  {counts[origin]} {origin.value}" for origin in Origin if counts[origin]]
    if counts[Origin.DOWN]:
        found[-1] += f", which is written here as {DOWN_BYTES_PER_S:.0f} byte per second"
    return ["Memory is what each machine lends. Links, each direction counted:", *found] if found else []
