"""The pool as a file: what was measured comes back from it, and it says what was not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.broker.members.measured_pool import DOWN_BYTES_PER_S, measured_pool, pool_file
from muster.errors import PoolUnavailable
from muster.spec.pool import DEFAULT_LINK, Device, Node, Pool
from muster.spec.pool_file import parse_pool
from muster.wire.messages.membership import Measured, PeerMeasured
from tests.broker.actors import HEAD, MIB, Actor, Stage, measured
from tests.examples import examples

words = st.sampled_from(["a", "live", "rtx-4090", "f" * 64, "0" * 63 + "2", "", " "]) | st.text(max_size=8)
words |= st.sampled_from(['quo"te', "'" * 3, '"' * 3, "back\\slash", "= 1 #", "[market]", "\x85", "\u202e", "\x7f"])
figures = st.sampled_from([0.0, 1.0, 1e9, 1e14, -1.0, 1e300, float("nan"), float("inf"), 5e-324]) | st.floats()


def link(stage: Stage, actor: Actor, peer: str, latency_s: float, bandwidth: float) -> None:
    message = PeerMeasured(peer=peer, round_trip_s=2 * latency_s, bandwidth_bytes_per_s=bandwidth)
    stage.tell(actor, message)


def live(stage: Stage) -> tuple[Pool, str]:
    """The pool as it is known, and the file that was written of it."""
    pool = measured_pool(stage.state.members, "model", stage.now_s)
    return pool, pool_file(pool, "just now")


def plain(node: Node) -> tuple[str, str, str, int]:
    return node.id, node.name, node.region, node.device.memory_bytes


def same(read: Pool, pool: Pool) -> bool:
    return read.nodes == pool.nodes and same_links(read, pool)


def same_links(read: Pool, pool: Pool) -> bool:
    pairs = [(a.id, b.id) for a in pool.nodes for b in pool.nodes if a.id != b.id]
    return all(read.link(*pair) == pool.link(*pair) for pair in pairs)


def test_a_measured_pool_is_read_back_from_its_file_as_it_is():
    stage = Stage()
    ada, bob, _ = (stage.join(n, 500, n / 10, region=region) for n, region in ((1, "oslo"), (2, "oslo"), (3, "tokyo")))
    link(stage, ada, HEAD, 0.01, 10e6)
    link(stage, ada, bob.id, 0.004, 50e6)
    pool, text = live(stage)
    read = parse_pool(text)
    assert same(read, pool)
    assert read.name == "model"
    assert read.link(bob.id, ada.id).bandwidth_bytes_per_s == 50e6, "what one end has measured counts for both"


def test_the_file_says_which_links_were_measured_and_which_are_guesses():
    stage = Stage()
    actors = [stage.join(n, 500, region="east" if n > 3 else "") for n in range(1, 6)]
    for actor in actors[:3]:
        link(stage, actor, HEAD, 0.01, 10e6)
    link(stage, actors[0], actors[1].id, 0.004, 50e6)
    link(stage, actors[0], actors[2].id, 0.004, 0.0)
    text = live(stage)[1]
    counts = {
        "2 measured from end to end",
        "2 latency measured; bandwidth guessed",
        "2 both ends in one region",
        "2 guessed from both ends' links to the head",
        "12 not known; an ordinary home connection is assumed",
    }
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert all(any(count in line for line in comments) for count in counts), comments
    link(stage, actors[1], actors[0].id, 0.006, 70e6)
    pool = live(stage)[0]
    assert pool.link(actors[0].id, actors[1].id).bandwidth_bytes_per_s == 50e6, "the end that sends knows best"


@examples(60)
@given(st.lists(st.tuples(words, words, words, words, figures, figures), min_size=1, max_size=4))
def test_whatever_machines_say_of_themselves_the_file_can_be_read(claims):
    stage = Stage()
    stage.auto = False
    for number, (name, region, title, dtype, speed, bandwidth) in enumerate(claims, start=1):
        actor = stage.dial(number, name=name, region=region)
        device = Device("cpu", title, MIB, {dtype: speed}, bandwidth, bandwidth, bandwidth)
        stage.tell(actor, Measured(device=device, free_memory_bytes=MIB))
        if actor.alive:
            link(stage, actor, HEAD, min(speed, 30.0), bandwidth)
    pool, text = live(stage)
    if pool.nodes:  # a speed that no file could say is left out, and nothing else
        read = parse_pool(text)
        assert list(map(plain, read.nodes)) == list(map(plain, pool.nodes))
        assert same_links(read, pool)


def test_nobody_has_measured_anything_yet():
    stage = Stage()
    stage.join(1)
    stage.join(2)
    pool, _ = live(stage)
    assert pool.link(*(node.id for node in pool.nodes)) == DEFAULT_LINK


def test_a_broken_link_is_written_as_one_that_no_plan_will_use():
    stage = Stage()
    ada, bob = (stage.join(n) for n in (1, 2))
    for _ in range(2):
        stage.state.members.report_broken(ada.id, bob.id, stage.now_s)
    text = live(stage)[1]
    assert parse_pool(text).link(ada.id, bob.id).bandwidth_bytes_per_s == DOWN_BYTES_PER_S
    assert "2 down, which is written here as 1 byte per second" in text


def test_who_leaves_or_was_never_measured_is_not_in_the_file_and_who_rests_is():
    stage = Stage()
    stays, leaves, rests = (stage.join(n) for n in (1, 2, 3))
    stage.dial(4)
    stage.state.members.members[leaves.id].draining = True
    stage.state.members.rest(rests.id, 100.0, stage.now_s)
    assert [node.id for node in live(stage)[0].nodes] == [stays.id, rests.id]


def test_memory_is_what_a_machine_is_believed_to_have():
    stage = Stage()
    stage.auto = False
    liar = stage.join(1, 60_000)
    stage.pass_time(2)
    stage.fail_load(liar, *liar.stages)
    (node,) = live(stage)[0].nodes
    assert node.device.memory_bytes < 60_000 * MIB


def test_a_device_that_no_pool_file_could_name_is_refused():
    for changes in (
        {"kind": "abacus"},
        {"flops_per_s": {"x" * 200: 1e9}},
        {"flops_per_s": {"float32\n[market]": 1e9}},
        {"name": "\x1b[2J"},
        {"name": "x" * 10**6},
    ):
        stage = Stage()
        actor = stage.dial(1)
        claim = measured(500)
        device = type(claim.device)(**({"kind": "cpu", "name": "x", "memory_bytes": MIB} | changes))
        stage.tell(actor, Measured(device=device, free_memory_bytes=MIB))
        assert not actor.alive


@pytest.mark.anyio
async def test_the_head_gives_the_file_once_somebody_is_here(pool):
    with pytest.raises(PoolUnavailable, match="muster join"):
        await pool.service.pool_file()
    await pool.join(500, 400)
    await pool.until(lambda: all(view["state"] != "measuring" for view in pool.service.nodes()))
    text = await pool.service.pool_file()
    assert {node.device.memory_bytes for node in parse_pool(text).nodes} == {500 * MIB, 400 * MIB}
    assert "2001-09-09 01:46 UTC" in text
