"""A twin of a machine stands where its sibling stands."""

from dataclasses import replace

from muster.plan.one_more import kinds, with_one_more
from muster.spec.fleets import shipped_fleet
from muster.spec.pool import LinkSpeed, Pool


def test_each_kind_is_named_once_and_the_most_frequent_first() -> None:
    names = [node.name for node in kinds(shipped_fleet("hexgen-58"))]
    assert names == ["first-48-1", "second-1", "fourth-1", "first-24", "first-48-small", "third"]
    assert [node.name for node in kinds(shipped_fleet("deserve-8xl4"))] == ["l4-1"]


def test_the_twin_is_as_far_from_everybody_as_its_sibling() -> None:
    pool = shipped_fleet("hexgen-58")
    like = pool.nodes[0]
    more = with_one_more(pool, like)
    twin = more.nodes[-1]
    assert len(more.nodes) == len(pool.nodes) + 1
    assert twin.id not in {node.id for node in pool.nodes}
    for other in pool.nodes[1:]:
        assert more.link(twin.id, other.id) == pool.link(like.id, other.id)
        assert more.link(other.id, twin.id) == pool.link(other.id, like.id)
    assert more.link(twin.id, like.id) == pool.link(like.id, pool.nodes[1].id), "both are machines of the first region"


def test_measured_links_are_copied_and_the_sibling_is_a_near_neighbour() -> None:
    first, second, third = (replace(node, region="here") for node in shipped_fleet("deserve-8xl4").nodes[:3])
    near, far = LinkSpeed(0.001, 1e9), LinkSpeed(0.1, 1e7)
    links = {(first.id, second.id): near, (second.id, first.id): far, (first.id, third.id): far}
    more = with_one_more(Pool((first, second, third), links), first)
    twin = more.nodes[-1].id
    assert more.link(twin, second.id) == near
    assert more.link(second.id, twin) == far
    assert more.link(twin, first.id) == more.link(first.id, twin) == near


def test_one_can_be_added_again_and_again() -> None:
    pool = shipped_fleet("deserve-8xl4")
    for _ in range(3):
        pool = with_one_more(pool, pool.nodes[0])
    assert len({node.id for node in pool.nodes}) == 11
