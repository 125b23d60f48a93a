"""Games over a toy program: a chain of operators that hash, of which one may have been computed wrongly."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

from blake3 import blake3

from muster.errors import ProtocolViolation
from muster.link.identity import Identity
from muster.verify.disputes.game import Decide, Game, PassOn, Stated, TimePassed
from muster.verify.disputes.outcome import DisputeOutcome, Fault
from muster.verify.disputes.program import Made, TracedOperator, TracedProgram, Value
from muster.verify.disputes.statements import (
    NOTHING_BEFORE,
    Body,
    DisputeOpening,
    LastStep,
    Pick,
    Pledge,
    Reveal,
    Said,
    SignedBody,
    State,
    StepPledge,
    TensorBytes,
    sign,
    state_leaf,
)
from muster.verify.merkle import path_of, root_of

JUDGE, ACCUSED, ACCUSER, STRANGER = (Identity.from_secret(bytes([number]) * 32) for number in range(1, 5))
DISPUTE = bytes(range(32))
ANSWER_S = 30.0


def tensor(data: bytes) -> TensorBytes:
    return TensorBytes("uint8", (len(data),), data)


def applied(number: int, data: bytes) -> bytes:
    return blake3(number.to_bytes(4) + data).digest()


def chain(layers: int, per_layer: int) -> TracedProgram:
    made = [
        TracedOperator("aten.hash.default", (Value(0 if k == 0 else k + 2), k), (), (Made(k + 3, "uint8", (32,)),))
        for k in range(layers * per_layer)
    ]
    return TracedProgram(tuple(made), tuple(range(0, len(made), per_layer)), (len(made) + 2,))


@dataclass
class Pass:
    """A pass of the program; `wrong` is the operator whose result is another, from which the rest follows honestly."""

    program: TracedProgram
    wrong: int | None = None

    @cached_property
    def values(self) -> list[bytes]:
        found = [b"input", b"positions", b"rows"]
        for k in range(len(self.program.operators)):
            result = applied(k, found[0 if k == 0 else k + 2])
            found.append(applied(k, b"lie") if k == self.wrong else result)
        return found

    def state(self, cut: int) -> State:
        return tuple((number, tensor(self.values[number]).digest()) for number in self.program.alive(cut))

    def leaves(self, cuts: range | tuple[int, ...]) -> list[bytes]:
        return [state_leaf(self.state(cut)) for cut in cuts]


def opening(program: TracedProgram, served: bytes) -> SignedBody:
    inputs = tuple(tensor(data).digest() for data in (b"input", b"positions", b"rows"))
    said = DisputeOpening(
        dispute=DISPUTE,
        accused=ACCUSED.node_id,
        accuser=ACCUSER.node_id,
        manifest="ab" * 32,
        first=0,
        last=program.segments,
        dtype="float32",
        inputs=inputs,  # type: ignore[arg-type]
        served=served,
        limit=0.01,
        versions="1",
        answer_s=ANSWER_S,
    )
    return sign(JUDGE, Body(dispute=DISPUTE, number=0, previous=NOTHING_BEFORE, said=said))


@dataclass
class ToyReferee:
    known: TracedProgram

    def is_near(self, output: TensorBytes) -> bool:
        del output
        return True

    def program(self) -> tuple[bytes, int, tuple[int, ...]]:
        return root_of(self.known.leaves()), len(self.known.operators), self.known.starts

    def fault(
        self, operator: TracedOperator, inputs: tuple[TensorBytes, ...], outputs: tuple[TensorBytes, ...]
    ) -> Fault:
        number = operator.arguments[1]
        assert isinstance(number, int)
        wrong = outputs[0].data != applied(number, inputs[0].data)
        return Fault(wrong, True, "is outside of its interval" if wrong else "is within its interval")


@dataclass
class Side:
    """Answers from its pass; `pick` says which half an accuser names, by default the truth."""

    identity: Identity
    run: Pass
    pick: Callable[[bool], bool] = lambda truth: truth
    said: dict[int, SignedBody] = field(default_factory=dict)

    def answer(self, game: Game) -> SignedBody:
        entries = game.entries
        if len(entries) not in self.said:
            told, tensors = self._say(game)
            body = Body(dispute=DISPUTE, number=len(entries), previous=entries[-1].digest(), said=told)
            self.said[len(entries)] = sign(self.identity, body, tensors)
        return self.said[len(entries)]

    def _say(self, game: Game) -> tuple[Said, list[TensorBytes]]:
        kind, course, run = game.due[1], game._course, self.run
        if kind is Pledge:
            return self._pledge(), [tensor(run.values[-1])] if self.identity is ACCUSED else []
        tree, range_ = course.tree, course.range
        assert tree is not None
        assert range_ is not None
        if kind is Reveal:
            cut = game._middle()
            assert cut is not None
            proof = path_of(run.leaves(tree.cuts), tree.cuts.index(cut))
            tensors = [tensor(run.values[number]) for number, _ in run.state(cut)]
            return Reveal(cut=cut, state=run.state(cut), proof=tuple(proof)), tensors
        if kind is Pick:
            assert course.revealed is not None
            return Pick(before=self.pick(course.revealed.state != run.state(course.revealed.cut))), []
        if kind is StepPledge:
            leaves = run.leaves(range(range_.low, range_.high + 1))
            ends = [tuple(path_of(leaves, at)) for at in (0, len(leaves) - 1)]
            return StepPledge(states=root_of(leaves), begin_proof=ends[0], end_proof=ends[1]), []
        return self._last(tree.cuts, range_.low)

    def _pledge(self) -> Pledge:
        program, run = self.run.program, self.run
        leaves = run.leaves(program.cuts)
        return Pledge(
            program=root_of(program.leaves()),
            operators=len(program.operators),
            starts=program.starts,
            states=root_of(leaves),
            begin=run.state(0),
            begin_proof=tuple(path_of(leaves, 0)),
            end=run.state(len(program.operators)),
            end_proof=tuple(path_of(leaves, len(leaves) - 1)),
        )

    def _last(self, cuts: tuple[int, ...], at: int) -> tuple[Said, list[TensorBytes]]:
        run, operator = self.run, self.run.program.operators[at]
        leaves, index = run.leaves(cuts), cuts.index(at)
        tensors = [tensor(run.values[number]) for number in (*operator.takes(), operator.made[0].number)]
        step = LastStep(
            operator=operator,
            operator_proof=tuple(path_of(run.program.leaves(), at)),
            before=run.state(at),
            before_proof=tuple(path_of(leaves, index)),
            after=run.state(at + 1),
            after_proof=tuple(path_of(leaves, index + 1)),
            inputs=tuple(one.digest() for one in tensors[:-1]),
            outputs=(tensors[-1].digest(),),
        )
        return step, tensors


def begun(program: TracedProgram) -> Game:
    return Game(opening(program, bytes(32)), ToyReferee(program))


def play(game: Game, sides: list[Side], random: Random, loss: float = 0.0, silent: float = 0.0) -> DisputeOutcome:
    """To its end on a fake clock. Statements and what is passed on get lost, come twice and come late.

    With `silent`, the accused falls silent for good in each round with that probability.
    """
    by_node, now_s, asked = {side.identity.node_id: side for side in sides}, 0.0, {ACCUSED.node_id}
    late: list[SignedBody] = []
    while game.outcome is None:
        now_s += random.choice([0.1, 0.5, 1.0])
        node, _ = game.due
        if node == ACCUSED.node_id and random.random() < silent:
            by_node.pop(node, None)
        if node in by_node and node in asked and random.random() >= loss:
            late += [by_node[node].answer(game)] * random.choice([1, 1, 2])
        random.shuffle(late)
        commands: list[PassOn | Decide] = []
        while late and random.random() < 0.8:
            one = late.pop()
            with suppress(ProtocolViolation):  # it came before its turn
                commands += game.handle(Stated(one), now_s)
            game.check()
        commands += game.handle(TimePassed(), now_s)
        for command in commands:
            if isinstance(command, PassOn) and random.random() >= loss:
                asked.add(command.to)
        assert now_s < 10_000
    return game.outcome
