"""The two sides of a dispute over a real pass, and the referee's numbers. Each side answers what is due of it.

The accused answers from the values of its pass. The accuser keeps what the accused reveals, computes both halves from
the accused's own numbers, and names the half that is further off: machines that both are honest differ a little in
both. Whoever holds all values of a stage needs memory for them: a dispute is about one prompt.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from muster.errors import ProtocolViolation
from muster.link.identity import Identity
from muster.verify.disputes.execute import Held, Values, advance, check_held, check_sizes
from muster.verify.disputes.game import Game
from muster.verify.disputes.interval import judge
from muster.verify.disputes.outcome import Fault
from muster.verify.disputes.program import TracedOperator, TracedProgram
from muster.verify.disputes.statements import (
    Body,
    LastStep,
    Pick,
    Pledge,
    Reveal,
    Said,
    SignedBody,
    State,
    StepPledge,
    TensorBytes,
    Withdrawal,
    sign,
    state_leaf,
)
from muster.verify.disputes.tensors import digest, dtype_name, from_raw, raw
from muster.verify.disputes.trace import Traced
from muster.verify.merkle import path_of, root_of


def packed(tensor: Tensor) -> TensorBytes:
    return TensorBytes(dtype_name(tensor), tuple(tensor.shape), raw(tensor))


def unpacked(one: TensorBytes) -> Tensor:
    """Raises `ProtocolViolation` for bytes that are no such tensor."""
    return from_raw(one.dtype, one.shape, one.data)


def apart(one: Tensor, other: Tensor) -> float:
    """How far two tensors are from each other: relative, L2, the worst row. Infinite for other shapes, and for NaN."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return float("inf")
    if torch.equal(one, other) or not one.numel():
        return 0.0
    wide = torch.complex128 if one.is_complex() else torch.float64
    a, b = (x.to(wide).reshape(-1, x.shape[-1] if x.dim() else 1) for x in (one, other))
    size = b.abs().pow(2).mean(dim=1).sqrt() + 1e-30
    found = float(((a - b).abs().pow(2).mean(dim=1).sqrt() / size).max())
    return found if found == found else float("inf")


class DisputeSide:
    """Implements what `role` has to say. `values` are those of its pass, by default what the program gives here."""

    def __init__(
        self, identity: Identity, role: Literal["accused", "accuser"], traced: Traced, values: Values | None = None
    ) -> None:
        self._identity, self._role = identity, role
        self._program: TracedProgram = traced.program
        self._held: Held = traced.held
        self._values = advance(self._program.operators, traced.inputs, traced.held) if values is None else values
        self._digests = {number: digest(tensor) for number, tensor in self._values.items()}
        self._operators = self._program.leaves()
        self._shown: dict[bytes, Tensor] = {digest(tensor): tensor for tensor in traced.inputs.values()}
        """What the accused has shown, by digest."""
        self._said: dict[int, SignedBody] = {}

    def answer(self, game: Game) -> SignedBody:
        """What is due of it now; the same when asked again. `game` is its own copy, fed with what was passed on."""
        entries = game.entries
        if len(entries) not in self._said:
            self._learn(entries)
            said, tensors = self._say(game)
            body = Body(dispute=game.opening.dispute, number=len(entries), previous=entries[-1].digest(), said=said)
            self._said[len(entries)] = sign(self._identity, body, [packed(one) for one in tensors])
        return self._said[len(entries)]

    def _learn(self, entries: Sequence[SignedBody]) -> None:
        if self._role == "accuser":
            for one in entries:
                self._shown |= {tensor.digest(): unpacked(tensor) for tensor in one.tensors}

    def _say(self, game: Game) -> tuple[Said, list[Tensor]]:
        kind, question = game.due[1], game.question
        if kind is Pledge:
            return self._pledge(), self._outputs() if self._role == "accused" else []
        assert question is not None, "both have pledged"
        if kind is Pick:
            return self._pick(game), []
        if kind is Reveal:
            assert question.middle is not None
            state = self._state(question.middle)
            proof = path_of(self._states(question.cuts), question.cuts.index(question.middle))
            return Reveal(cut=question.middle, state=state, proof=tuple(proof)), [self._values[n] for n, _ in state]
        if kind is StepPledge:
            leaves = self._states(range(question.low, question.high + 1))
            first, last = (tuple(path_of(leaves, at)) for at in (0, len(leaves) - 1))
            return StepPledge(states=root_of(leaves), begin_proof=first, end_proof=last), []
        return self._last(question.cuts, question.low)

    def _pledge(self) -> Pledge:
        program, leaves = self._program, self._states(self._program.cuts)
        return Pledge(
            program=root_of(self._operators),
            operators=len(program.operators),
            starts=program.starts,
            states=root_of(leaves),
            begin=self._state(0),
            begin_proof=tuple(path_of(leaves, 0)),
            end=self._state(len(program.operators)),
            end_proof=tuple(path_of(leaves, len(leaves) - 1)),
        )

    def _pick(self, game: Game) -> Pick | Withdrawal:
        question = game.question
        assert question is not None
        assert question.revealed is not None
        cut, state = question.revealed.cut, question.revealed.state
        before = self._off(question.low, question.begin, cut, state)
        behind = self._off(cut, state, question.high, question.end)
        if before == behind == 0.0:
            return Withdrawal()
        return Pick(before=before > behind)

    def _off(self, low: int, begin: State, high: int, end: State) -> float:
        """How far the accused's state at `high` is from what its state at `low` leads to here."""
        values = {number: self._tensor(name) for number, name in begin}
        values = advance(self._program.operators[low:high], values, self._held)
        return max((apart(self._tensor(name), values[number]) for number, name in end), default=0.0)

    def _tensor(self, name: bytes) -> Tensor:
        if name not in self._shown:
            raise ProtocolViolation("A state of the dispute has a tensor that was never shown; the transcript was cut.")
        return self._shown[name]

    def _last(self, cuts: tuple[int, ...], at: int) -> tuple[Said, list[Tensor]]:
        operator, leaves, index = self._program.operators[at], self._states(cuts), cuts.index(at)
        inputs, outputs = operator.takes(), [made.number for made in operator.made]
        step = LastStep(
            operator=operator,
            operator_proof=tuple(path_of(self._operators, at)),
            before=self._state(at),
            before_proof=tuple(path_of(leaves, index)),
            after=self._state(at + 1),
            after_proof=tuple(path_of(leaves, index + 1)),
            inputs=tuple(self._digests[number] for number in inputs),
            outputs=tuple(self._digests[number] for number in outputs),
        )
        return step, [self._values[number] for number in (*inputs, *outputs)]

    def _outputs(self) -> list[Tensor]:
        return [self._values[number] for number in self._program.outputs]

    def _state(self, cut: int) -> State:
        return tuple((number, self._digests[number]) for number in self._program.alive(cut))

    def _states(self, cuts: Sequence[int]) -> list[bytes]:
        return [state_leaf(self._state(cut)) for cut in cuts]


class TracedReferee:
    """Implements `game.Referee` from a trace of the same layers with the same number of positions, on any numbers."""

    def __init__(self, traced: Traced, served: Tensor | None, limit: float) -> None:
        """`served` is what the accused has passed on, and `limit` how far from it its pass may be now.

        Whoever replays a transcript without it takes the word of the referee, who went on, that it was near.
        """
        self._traced, self._served, self._limit = traced, served, limit
        self._root = root_of(traced.program.leaves())

    def is_near(self, output: TensorBytes) -> bool:
        claimed = unpacked(output)
        if self._served is None:
            return True
        if claimed.numel() != self._served.numel():
            return False
        return apart(claimed.reshape(self._served.shape), self._served) <= self._limit

    def program(self) -> tuple[bytes, int, tuple[int, ...]]:
        return self._root, len(self._traced.program.operators), self._traced.program.starts

    def fault(
        self, operator: TracedOperator, inputs: tuple[TensorBytes, ...], outputs: tuple[TensorBytes, ...]
    ) -> Fault:
        check_sizes(operator)
        check_held(operator, self._traced.held)
        values = dict(zip(operator.takes(), map(unpacked, inputs), strict=True))
        found = judge(operator, values, self._traced.held, [unpacked(one) for one in outputs])
        if found.is_outside:
            return Fault(True, found.is_proven, f"is {found.usual:.3g} times as far off as honest machines get")
        return Fault(False, True, f"is within its interval ({found.usual:.2g} of it)")
