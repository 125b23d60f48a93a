"""A dispute, as its referee leads it: a statement comes in, commands go out. Pure: no clock, no socket, no tensor.

The accused pledges its states at every boundary between layers before anything is asked of it, so that no answer can
be made up to suit a question. Then the accuser, who runs the same program from the accused's own numbers, follows the
fault: which half, which layer, which operator. So an honest accused loses against nobody, whatever the accuser picks:
every single operator of its pass is within its interval. And the accuser needs no numbers of its own to be believed.

What does not fit (forged, replayed, out of turn, cut short) is refused by one sentence and changes nothing; its sender
may still say the right thing until its time is up. Who says two things at the same place has lost.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from muster.errors import ProtocolViolation
from muster.link.base import short_id
from muster.spec.pool import NodeId
from muster.spec.story import Caused, Story
from muster.verify.disputes.outcome import DisputeOutcome, Party, Question, Referee
from muster.verify.disputes.program import TracedOperator
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
    SilenceRuling,
    State,
    StepPledge,
    Withdrawal,
    is_in,
    opened,
    operator_leaf,
    state_leaf,
)

REMIND_S = 2.0
"""Whoever owes an answer is asked again after so long: statements may get lost."""


@dataclass(frozen=True, slots=True)
class Stated:
    """Event: something was received; who sent it does not matter, only who signed it."""

    one: SignedBody


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Event: look at the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOn(Caused):
    """Command: give this statement to a side, which may have it already."""

    to: NodeId
    one: SignedBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide(Caused):
    """Command: the dispute is over."""

    outcome: DisputeOutcome


@dataclass(slots=True)
class _Range:
    """Where the fault is: behind a state that stands, before one that is contested. Cuts are numbers of operators."""

    low: int
    high: int
    begin: State
    end: State


@dataclass(slots=True)
class _Tree:
    """What was pledged: states at these cuts."""

    root: bytes
    cuts: tuple[int, ...]

    def has(self, cut: int, state: State, proof: tuple[bytes, ...]) -> bool:
        return cut in self.cuts and is_in(self.root, len(self.cuts), self.cuts.index(cut), state_leaf(state), proof)


@dataclass(slots=True)
class _Course:
    """What has been said so far."""

    entries: list[SignedBody]
    pledges: list[Pledge] = field(default_factory=list)
    tree: _Tree | None = None
    range: _Range | None = None
    revealed: Reveal | None = None
    in_steps: bool = False


class Game:
    """See the module. `opening` is the referee's own signed statement; raises `ProtocolViolation` where it is none."""

    def __init__(self, opening: SignedBody, referee: Referee, now_s: float = 0.0) -> None:
        body = opened(opening)
        if not isinstance(body.said, DisputeOpening) or body.number != 0 or body.previous != NOTHING_BEFORE:
            raise ProtocolViolation("A dispute begins with something else than its opening; the start is missing.")
        said = body.said
        if said.dispute != body.dispute or said.accused == said.accuser or not 0 < said.answer_s < 86_400:
            raise ProtocolViolation("The opening of a dispute contradicts itself; ask the referee for another.")
        self.opening, self.referee = said, referee
        self.judge_node = opening.signer
        self.outcome: DisputeOutcome | None = None
        self.rounds = 0
        self.story = Story()
        self._course = _Course([opening])
        self._since_s = self._reminded_s = now_s

    @property
    def entries(self) -> tuple[SignedBody, ...]:
        """All that has been said, in order."""
        return tuple(self._course.entries)

    @property
    def due(self) -> tuple[NodeId, type[Said]]:
        """Who is to say what next. The accuser may withdraw instead of a pick."""
        course, accused, accuser = self._course, self.opening.accused, self.opening.accuser
        if len(course.pledges) < 2:
            return (accuser if course.pledges else accused), Pledge
        if course.revealed is not None:
            return accuser, Pick
        assert course.range is not None
        assert course.tree is not None
        if self._middle() is not None:
            return accused, Reveal
        return accused, (LastStep if course.in_steps else StepPledge)

    @property
    def question(self) -> "Question | None":
        """Where the fault is sought now; None while both sides still pledge."""
        tree, range_ = self._course.tree, self._course.range
        if tree is None or range_ is None:
            return None
        middle, revealed = self._middle(), self._course.revealed
        return Question(tree.cuts, range_.low, range_.high, middle, revealed, range_.begin, range_.end)

    def handle(self, event: Stated | TimePassed, now_s: float) -> list[PassOn | Decide]:
        """What to do. Raises `ProtocolViolation`, with nothing changed, for a statement that does not fit."""
        commands = self._tick(now_s) if isinstance(event, TimePassed) else self._stated(event.one, now_s)
        return self.story.add(now_s, event, commands) if commands else []

    def check(self) -> None:
        """Raise `AssertionError` unless the books are in order."""
        with self.story.told():
            course = self._course
            assert len({one.digest() for one in course.entries}) == len(course.entries), "something was said twice"
            if course.range is not None:
                assert course.range.low < course.range.high, "nothing is left to dispute"

    # --- time ---------------------------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> list[PassOn | Decide]:
        if self.outcome is not None:
            return []
        node, kind = self.due
        if now_s - self._since_s > self.opening.answer_s:
            party = self._party(node)
            return self._end((party,), f"the {party} was silent where its {kind.__name__} was due")
        if now_s - self._reminded_s >= REMIND_S:
            self._reminded_s = now_s
            return self._pass_on(node)
        return []

    def _pass_on(self, node: NodeId) -> list[PassOn | Decide]:
        """Everything: whoever got some of it already knows what to do with the rest."""
        return [PassOn(to=node, one=one) for one in self._course.entries]

    # --- statements ---------------------------------------------------------------------------------------------------

    def _stated(self, one: SignedBody, now_s: float) -> list[PassOn | Decide]:
        if self.outcome is not None:
            return []
        body = opened(one)
        who = f"A statement of node {short_id(one.signer)}"
        if body.dispute != self.opening.dispute:
            raise ProtocolViolation(f"{who} belongs to another dispute; it was replayed or sent astray.")
        if one.signer == self.judge_node and isinstance(body.said, SilenceRuling):
            return self._silence(body)
        if one.signer not in (self.opening.accused, self.opening.accuser):
            raise ProtocolViolation(f"{who} is of neither side of this dispute.")
        if body.number < len(self._course.entries):
            return self._again(one, body)
        if body.number > len(self._course.entries):
            raise ProtocolViolation(f"{who} comes before its turn; what lies between is missing.")
        if body.previous != self._course.entries[-1].digest():
            raise ProtocolViolation(f"{who} follows something that was never said here; it is of another course.")
        node, kind = self.due
        if one.signer != node or not isinstance(body.said, (kind, Withdrawal) if kind is Pick else kind):
            raise ProtocolViolation(f"{who} is a {type(body.said).__name__} where a {kind.__name__} is due.")
        commands = self._said(one, body.said, who)
        self._course.entries.append(one)
        self._since_s = self._reminded_s = now_s
        if self.outcome is not None:
            return commands
        return self._pass_on(self.due[0])[-1:]

    def _again(self, one: SignedBody, body: Body) -> list[PassOn | Decide]:
        known = self._course.entries[body.number]
        if known.body == one.body or known.signer != one.signer:
            return []  # it was on its way twice, or is not of whose turn it was
        party = self._party(one.signer)
        return self._end((party,), f"the {party} signed two different statements at place {body.number}")

    def _silence(self, body: Body) -> list[PassOn | Decide]:
        assert isinstance(body.said, SilenceRuling)
        if body.said.node != self.due[0] or body.number != len(self._course.entries):
            raise ProtocolViolation("The referee speaks of a silence where that side had nothing to say.")
        party = self._party(body.said.node)
        return self._end((party,), f"the {party} was silent where its {self.due[1].__name__} was due")

    def _said(self, one: SignedBody, said: Said, who: str) -> list[PassOn | Decide]:
        match said:
            case Pledge():
                return self._pledged(one, said, who)
            case Reveal():
                return self._revealed(one, said, who)
            case Pick():
                return self._picked(said.before)
            case Withdrawal():
                return self._end((), "the accuser found no fault and withdrew")
            case StepPledge():
                return self._steps_pledged(said, who)
            case LastStep():
                return self._last(one, said, who)
        raise ProtocolViolation(f"{who} is a {type(said).__name__}, which no side says.")

    def _pledged(self, one: SignedBody, said: Pledge, who: str) -> list[PassOn | Decide]:
        cuts = (*said.starts, said.operators)
        rising = all(low < high for low, high in pairwise(cuts))
        tree = _Tree(said.states, cuts)
        if said.starts[0] != 0 or not rising or len(said.starts) > self.opening.last - self.opening.first:
            raise ProtocolViolation(f"{who} pledges segments that cannot be; the layers of the stage are others.")
        begins = tree.has(0, said.begin, said.begin_proof)
        if not begins or not tree.has(said.operators, said.end, said.end_proof) or len(said.end) != 1:
            raise ProtocolViolation(f"{who} pledges states that do not lead to its root; it was cut or changed.")
        if said.begin != tuple(enumerate(self.opening.inputs)):
            raise ProtocolViolation(f"{who} begins with other inputs than both ends of the boundary signed.")
        if not self._course.pledges:
            _check_tensors(one, [said.end[0][1]], who)
            self._course.pledges.append(said)
            if not self.referee.is_near(one.tensors[0]):
                return self._end(("accused",), "what the accused computes now is not what it has served")
            return []
        self._course.pledges.append(said)
        return self._compared(*self._course.pledges)

    def _compared(self, mine: Pledge, other: Pledge) -> list[PassOn | Decide]:
        """The accused's pledge, and the accuser's."""
        course = self._course
        programs = [(one.program, one.operators, one.starts) for one in (mine, other)]
        if programs[0] != programs[1]:
            due = self.referee.program()
            parties: tuple[Party, Party] = ("accused", "accuser")
            liars = tuple(party for party, one in zip(parties, programs, strict=True) if one != due)
            return self._end(liars, f"the {' and the '.join(liars)} pledged another program than that of these layers")
        if mine.end == other.end:
            return self._end(("accuser",), "the accuser computes the same as the accused, and contests it")
        course.tree = _Tree(mine.states, (*mine.starts, mine.operators))
        course.range = _Range(0, mine.operators, mine.begin, mine.end)
        return []

    def _revealed(self, one: SignedBody, said: Reveal, who: str) -> list[PassOn | Decide]:
        tree = self._course.tree
        assert tree is not None
        if said.cut != self._middle():
            raise ProtocolViolation(f"{who} reveals the state at {said.cut} where that at {self._middle()} is due.")
        if not tree.has(said.cut, said.state, said.proof):
            raise ProtocolViolation(f"{who} reveals a state that it did not pledge.")
        _check_tensors(one, [digest for _, digest in said.state], who)
        self._course.revealed = said
        return []

    def _picked(self, before: bool) -> list[PassOn | Decide]:
        course = self._course
        range_, revealed = course.range, course.revealed
        assert range_ is not None
        assert revealed is not None
        if before:
            range_.high, range_.end = revealed.cut, revealed.state
        else:
            range_.low, range_.begin = revealed.cut, revealed.state
        course.revealed = None
        self.rounds += 1
        return []

    def _steps_pledged(self, said: StepPledge, who: str) -> list[PassOn | Decide]:
        range_ = self._course.range
        assert range_ is not None
        tree = _Tree(said.states, tuple(range(range_.low, range_.high + 1)))
        begins = tree.has(range_.low, range_.begin, said.begin_proof)
        if not begins or not tree.has(range_.high, range_.end, said.end_proof):
            raise ProtocolViolation(f"{who} pledges steps between other states than those of the layer.")
        self._course.tree, self._course.in_steps = tree, True
        return []

    def _middle(self) -> int | None:
        """The cut to ask for next; None where one segment or one operator is left."""
        tree, range_ = self._course.tree, self._course.range
        assert tree is not None
        assert range_ is not None
        low, high = tree.cuts.index(range_.low), tree.cuts.index(range_.high)
        return tree.cuts[(low + high) // 2] if high - low > 1 else None

    # --- the last step ------------------------------------------------------------------------------------------------

    def _last(self, one: SignedBody, said: LastStep, who: str) -> list[PassOn | Decide]:
        tree, range_, pledge = self._course.tree, self._course.range, self._course.pledges[0]
        assert tree is not None
        assert range_ is not None
        operator, at = said.operator, range_.low
        if not is_in(pledge.program, pledge.operators, at, operator_leaf(operator), said.operator_proof):
            raise ProtocolViolation(f"{who} shows another operator than number {at} of the program that it pledged.")
        known = tree.has(at, said.before, said.before_proof) and tree.has(at + 1, said.after, said.after_proof)
        if not known:
            raise ProtocolViolation(f"{who} shows states that it did not pledge.")
        _check_tensors(one, [*said.inputs, *said.outputs], who)
        if len(said.inputs) != len(operator.takes()) or len(said.outputs) != len(operator.made):
            raise ProtocolViolation(f"{who} shows too few or too many tensors for {operator.name}.")
        before, after = dict(said.before), dict(said.after)
        made = {made.number: digest for made, digest in zip(operator.made, said.outputs, strict=True)}
        if any(before.get(number) != digest for number, digest in zip(operator.takes(), said.inputs, strict=True)):
            return self._guilty(operator, "takes inputs that are not those of the state before it")
        if any(digest != (made | before).get(number) for number, digest in after.items()):
            return self._guilty(operator, "is followed by a state that does not come of it")
        count = len(said.inputs)
        fault = self.referee.fault(operator, one.tensors[:count], one.tensors[count:])
        if fault.is_outside:
            return self._guilty(operator, fault.reason, fault.is_proven)
        return self._end(("accuser",), f"operator {at}, {operator.in_words()}, {fault.reason}", operator.in_words())

    def _guilty(self, operator: TracedOperator, reason: str, is_proven: bool = True) -> list[PassOn | Decide]:
        assert self._course.range is not None
        text = f"operator {self._course.range.low} of the accused, {operator.in_words()}, {reason}"
        return self._end(("accused",), text, operator.in_words(), is_proven)

    def _party(self, node: NodeId) -> Party:
        return "accused" if node == self.opening.accused else "accuser"

    def _end(
        self, liars: tuple[Party, ...], reason: str, operator: str = "", is_proven: bool = True
    ) -> list[PassOn | Decide]:
        self.outcome = DisputeOutcome(liars, reason, self.rounds, operator, is_proven)
        return [Decide(outcome=self.outcome)]


def _check_tensors(one: SignedBody, digests: list[bytes], who: str) -> None:
    if [tensor.digest() for tensor in one.tensors] != digests:
        raise ProtocolViolation(f"{who} comes with other tensors than it names; they were cut or changed.")
