"""Two hundred nodes that join, leave, lie, stall, vanish, get drained and banned; the books must hold after each event.

The seed is printed; `MUSTER_SEED=n` runs another story.
"""

import os
from collections import Counter
from collections.abc import Sequence
from random import Random
from time import perf_counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from muster.broker.events import BanNode, Disconnected, DrainNode, Placed, Remembered, UnbanNode
from muster.broker.pipelines.job import Job
from muster.wire.messages.membership import Goodbye, Heartbeat, Measured, PeerMeasured, StageVitals
from muster.wire.messages.placement import LoadFailed, LoadProgress, StageLost
from tests.broker.actors import MIB, SECRET, Actor, Stage, measured, node_id
from tests.examples import examples

NODES = 200


class Crowd(Stage):
    """A head and a crowd whose behaviour comes from one seeded generator."""

    def __init__(self, random: Random, nodes: int, jobs: Sequence[Job] | None = None) -> None:
        super().__init__(jobs=jobs)
        self.auto = False
        self.random = random
        self.nodes = nodes
        self.truth = {number: random.choice([120, 300, 350, 500]) * MIB for number in range(1, nodes + 1)}
        """What each node really has: four could serve alone, the others cannot."""
        self.truth |= dict.fromkeys(range(1, min(nodes // 50, 4) + 1), 1800 * MIB)
        self.liars = set(random.sample(range(1, nodes + 1), nodes // 4))
        self.seen: Counter[str] = Counter()
        self.last_epoch = 0

    def random_actor(self) -> Actor | None:
        alive = [actor for actor in self.actors.values() if actor.alive]
        # Those who hold something are few and matter most.
        holding = [actor for actor in alive if actor.stages]
        return self.random.choice(holding if holding and self.random.random() < 0.5 else alive) if alive else None

    def one_event(self) -> None:
        self.now_s += self.random.choice([0.01, 0.05, 0.2])
        dead = [connection for connection, actor in self.actors.items() if not actor.alive]
        for connection in dead[:-20]:
            del self.actors[connection]  # connections never come back
        kinds, weights = zip(*EVENTS_BY_WEIGHT.items(), strict=True)
        kind = self.random.choices(kinds, weights)[0]
        self.seen[kind] += 1
        getattr(self, kind)()
        self.watch()

    def watch(self) -> None:
        """What only an outside observer can check: epochs never repeat, and every node is told consistent things."""
        for record in self.saved:
            if isinstance(record, Placed):
                assert record.epoch > self.last_epoch, "an epoch was given twice"
                self.last_epoch = record.epoch
        self.saved.clear()
        serving = self.lifecycle.serving
        assert (serving is None) == (self.route is None), "the announced route is not what serves"
        if serving is not None and self.route is not None:
            assert serving.epoch == self.route.epoch
        for node, member in self.state.members.members.items():
            actor = self.actors[member.connection]
            assert actor.id == node
            assert actor.alive, "the head kept somebody whose connection it closed"
            told = set(actor.stages)
            booked = {placement.epoch for placement in self.lifecycle.live() if placement.holds(node)}
            assert booked <= told, f"the head believes in stages {booked - told} that the node was told to drop"
            assert told <= booked, f"the node still holds {told - booked}, which the head has forgotten"

    # --- what can happen ----------------------------------------------------------------------------------------------

    def join(self, *_: object) -> None:  # type: ignore[override]
        self.join_as(self.random.randint(1, self.nodes))

    def join_as(self, number: int) -> None:
        actor = self.dial(number, region=self.random.choice(["east", "west", ""]), **self.said_of(number))
        if not actor.alive:
            self.seen["refused"] += 1
            return
        claim = self.truth[number] * (4 if number in self.liars else 1)
        speed = 0.2 + number % 7
        self.tell(actor, measured(claim / MIB, speed))
        self.tell(actor, PeerMeasured(peer="ff" * 32, round_trip_s=0.01 * (number % 9), bandwidth_bytes_per_s=1e7))

    def said_of(self, number: int) -> dict[str, str]:
        """What its hello says beside that."""
        return {}

    def beat(self) -> None:
        """Most of the crowd says something; some forget."""
        for actor in self.actors.values():
            if actor.alive and not actor.silent and self.random.random() < 0.95:
                self.heartbeat(actor)

    def tick(self) -> None:
        self.pass_time(0.25)

    def load(self) -> None:
        """Somebody gets on with loading, according to what it really has."""
        waiting = [
            (a, e) for a in self.actors.values() if a.alive and not a.silent for e in a.stages if e not in a.loaded
        ]
        if not waiting:
            return
        actor, epoch = self.random.choice(waiting)
        held = sum(self.needs(actor, loaded) for loaded in actor.loaded)
        if held + self.needs(actor, epoch) <= self.truth[int(actor.id, 16)]:
            self.finish_load(actor, epoch)
        elif self.random.random() < 0.5:
            self.seen["caught lying"] += 1
            self.fail_load(actor, epoch)
        else:
            self.seen["killed while loading"] += 1
            self.cut(actor)

    def load_more(self) -> None:
        for _ in range(10):
            self.load()

    def progress(self) -> None:
        if (actor := self.random_actor()) and actor.stages:
            epoch = self.random.choice(list(actor.stages))
            self.tell(actor, LoadProgress(epoch=epoch, done_bytes=self.random.randint(0, 9), total_bytes=9))

    def fail_for_another_reason(self) -> None:
        if actor := self.random_actor():
            unloaded = [epoch for epoch in actor.stages if epoch not in actor.loaded]
            if unloaded:
                self.fail_load(actor, unloaded[0], self.random.choice(["link_down", "weights_invalid", "nonsense"]))

    def vanish(self) -> None:
        if actor := self.random_actor():
            self.cut(actor)

    def fall_silent(self) -> None:
        if actor := self.random_actor():
            actor.silent = True

    def say_goodbye(self) -> None:
        if actor := self.random_actor():
            self.tell(actor, Goodbye(drain=self.random.random() < 0.5))

    def drain(self) -> None:
        self.say(DrainNode(node_id(self.random.randint(1, self.nodes))))

    def ban(self) -> None:
        self.say(BanNode(node_id(self.random.randint(1, self.nodes))))

    def unban(self) -> None:
        for node in sorted(self.state.admission.banned):
            self.say(UnbanNode(node))

    def lose_a_link(self) -> None:
        if actor := self.random_actor():
            for epoch, assign in list(actor.stages.items()):
                peer = self.random.choice(assign.stages).node
                self.tell(actor, StageLost(epoch=epoch, peer=peer, reason="reset"))

    def forget_the_stage(self) -> None:
        if actor := self.random_actor():
            self.tell(actor, Heartbeat(free_memory_bytes=1))

    def speak_of_another_epoch(self) -> None:
        if actor := self.random_actor():
            epoch = self.random.randint(0, self.last_epoch + 2)
            if epoch not in actor.stages:
                self.tell(actor, LoadFailed(epoch=epoch, code="x", reason="y"))
                self.tell(actor, actor.beat(epoch))

    def measure_again(self) -> None:
        if actor := self.random_actor():
            self.tell(actor, measured(self.random.choice([1, 100, 200, 2000]), free_mib=self.random.choice([0, 1000])))

    def claim_nonsense(self) -> None:
        if actor := self.random_actor():
            nonsense: Measured = measured(self.random.choice([-5, 2**60]))
            self.tell(actor, nonsense)
            assert not actor.alive

    def speak_through_a_ghost(self) -> None:
        dead = [actor for actor in self.actors.values() if not actor.alive]
        if dead:
            ghost = self.random.choice(dead)
            self.tell(ghost, Heartbeat(free_memory_bytes=1, stages=(StageVitals(1),)))
            self.say(Disconnected(ghost.connection))

    # --- and then everything is well ----------------------------------------------------------------------------------

    def calm(self, seconds: int) -> None:
        """Everybody comes back, nobody vanishes any more; liars are still liars."""
        self.unban()
        here = {int(actor.id, 16) for actor in self.actors.values() if actor.alive and not actor.silent}
        for number in set(self.truth) - here:
            self.join_as(number)
        for _ in range(seconds):
            self.pass_time(1.0)
            for _ in range(10):
                self.load()
            self.watch()


EVENTS_BY_WEIGHT = {
    "join": 30,
    "beat": 4,
    "tick": 12,
    "load": 12,
    "load_more": 8,
    "progress": 3,
    "fail_for_another_reason": 1,
    "vanish": 3,
    "fall_silent": 2,
    "say_goodbye": 3,
    "drain": 2,
    "ban": 1,
    "unban": 0.2,
    "lose_a_link": 1,
    "forget_the_stage": 1,
    "speak_of_another_epoch": 2,
    "measure_again": 1,
    "claim_nonsense": 1,
    "speak_through_a_ghost": 2,
}
"""Relative frequency of what happens."""


@pytest.mark.parametrize(("events", "nodes"), [(150, 100), pytest.param(10_000, NODES, marks=pytest.mark.chaos)])
def test_the_books_hold_through_thousands_of_events_of_many_nodes(events: int, nodes: int) -> None:
    seed = int(os.environ.get("MUSTER_SEED", "20"))
    print(f"MUSTER_SEED={seed}")
    crowd = Crowd(Random(seed), nodes)
    started = perf_counter()
    most = served = 0
    for number in crowd.truth:
        crowd.join_as(number)
    for _ in range(events):
        crowd.one_event()
        most = max(most, len(crowd.state.members.members))
        served += crowd.route is not None
    seconds = perf_counter() - started
    print(f"{seconds:.1f} s, up to {most} nodes at once, {crowd.last_epoch} placements, serving {served / events:.0%}")
    print(dict(crowd.seen))
    crowd.calm(60)
    assert crowd.route is not None, "the pool is well again and does not serve: " + crowd.lifecycle.trouble
    assert most > 0.75 * nodes
    assert crowd.last_epoch > events / 100
    assert served > events / 4
    assert crowd.seen["caught lying"] > events / 500
    assert crowd.seen["killed while loading"] > events / 500


class SmallCrowd(RuleBasedStateMachine):
    """Hypothesis looks for the shortest story that breaks the books."""

    def __init__(self) -> None:
        super().__init__()
        self.crowd = Crowd(Random(0), 6)

    @rule(seed=st.integers(0, 2**16), kind=st.sampled_from(sorted(EVENTS_BY_WEIGHT)))
    def something_happens(self, seed: int, kind: str) -> None:
        self.crowd.random.seed(seed)
        getattr(self.crowd, kind)()

    @rule(seconds=st.sampled_from([1, 4, 20]))
    def time_passes(self, seconds: int) -> None:
        self.crowd.pass_time(seconds, step_s=0.5)

    @invariant()
    def the_books_are_in_order(self) -> None:
        self.crowd.watch()


SmallCrowd.TestCase.settings = examples(40, stateful_step_count=40)
test_no_short_story_breaks_the_books = SmallCrowd.TestCase


def test_a_restarted_head_never_gives_an_epoch_twice():
    crowd = Crowd(Random(1), 20)
    for _ in range(300):
        crowd.one_event()
    assert crowd.last_epoch > 0
    again = Crowd(Random(2), 20)
    again.state = Stage(Remembered(epoch=crowd.last_epoch, secrets=[(SECRET, 1e12)])).state
    again.last_epoch = crowd.last_epoch
    for _ in range(300):
        again.one_event()
    assert again.last_epoch > crowd.last_epoch
