"""Members of an island become a group over their own messages, and nobody speaks for another."""

import asyncio
from collections.abc import Callable

import pytest
import torch

from muster.errors import LinkDown, ProtocolViolation
from muster.node.island.gathering import Island
from muster.spec.plan import Pipeline, ServeSettings, Stage
from muster.wire.messages.island import IslandNote
from muster.wire.messages.placement import Assign

pytestmark = pytest.mark.anyio
MEMBERS = ("a", "b", "c")


def assign(dtype: str = "float32") -> Assign:
    stage = Stage("a", 0, 4, others=("b", "c"))
    pipeline = Pipeline((stage,), ServeSettings(8, 16, 1))
    return Assign(epoch=7, job="job", model="model", manifest="m", dtype=dtype, index=0, pipeline=pipeline, peers=())


def islands(given: Callable[[str], Assign], deaf: str = "") -> dict[str, Island]:
    """Each member's view; messages between them arrive at once, but for what `deaf` is told."""
    made: dict[str, Island] = {}

    def way(source: str, target: str) -> Callable[..., None]:
        def send(message: IslandNote, payload: bytes) -> None:
            if target != deaf or message.key.startswith("here/"):
                made[target].receive(source, message)

        return send

    for node in MEMBERS:
        towards = MEMBERS[1:] if node == "a" else MEMBERS[:1]
        made[node] = Island(given(node), node, "127.0.0.1", {other: way(node, other) for other in towards})
    return made


async def test_members_find_each_other_and_add_up() -> None:
    made = islands(lambda node: assign())
    await asyncio.gather(*(island.gather() for island in made.values()))
    groups = [island.group for island in made.values()]
    sums = await asyncio.gather(*(asyncio.to_thread(group.sum, torch.ones(2)) for group in groups if group))
    assert [one.tolist() for one in sums] == [[3.0, 3.0]] * 3
    for island in made.values():
        island.close()
    with pytest.raises(LinkDown):
        await asyncio.to_thread(groups[0].sum, torch.ones(2))  # type: ignore[union-attr]


async def test_a_member_that_holds_another_part_is_found_out_before_the_first_step() -> None:
    made = islands(lambda node: assign("bfloat16" if node == "c" else "float32"))
    ends = await asyncio.gather(*(island.gather() for island in made.values()), return_exceptions=True)
    assert all(isinstance(end, ProtocolViolation) and "another part" in str(end) for end in ends)
    for island in made.values():
        island.close()


@pytest.mark.chaos  # beside other test processes gloo takes its own 30 s, twice
async def test_members_that_do_not_hear_each_other_give_up_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.model.parallel.process_group.GATHER_S", 0.5)
    monkeypatch.setattr("muster.node.island.gathering.GATHER_S", 0.5)
    made = islands(lambda node: assign(), deaf="b")
    ends = await asyncio.gather(*(island.gather() for island in made.values()), return_exceptions=True)
    assert isinstance(ends[1], LinkDown)
    assert "do not reach each other" in str(ends[1])
    for island in made.values():
        island.close()


async def test_nobody_speaks_for_another_member() -> None:
    first = islands(lambda node: assign())["a"]
    with pytest.raises(ProtocolViolation, match="spoke for another"):
        first.receive("b", IslandNote(epoch=7, key="0/2", value=b"here"))
    with pytest.raises(ProtocolViolation, match="does not belong"):
        first.receive("stranger", IslandNote(epoch=7, key="0/1", value=b"here"))
    first.close()
