"""Which answers are checked, by whom, and what follows. Pure: no clock, no randomness of its own, no numbers.

    receipts are in ──draw──> Recompute by one auditor ── right ──> reputation
                                      │ wrong
                                      ├── the auditor is trusted: confirmed
                                      └── else others recompute, until two say the same: confirmed, or outvoted
                                                   │
                              confirmed ──> the machine does the same work again (it looks like any other)
                                                   ├── wrong again: fraud, banned
                                                   └── right now: a failure, drained; banned as well if it recurs

A draw is decided after the receipts came, by a secret of the head, so nobody knows beforehand what is looked at. Nobody
is banned on the word of one auditor that is not trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from blake3 import blake3

from muster.broker.audits.reputation import AuditPolicy, Reputation
from muster.errors import ProtocolViolation
from muster.link.base import short_id
from muster.spec.pool import NodeId

Opinion = Literal["right", "wrong", "withheld", "unable"]
"""`withheld`: the machine gave no inputs, or others than it had signed; `unable`: it is the auditor's own trouble."""
MAX_OPEN = 1024
"""Cases at once; what is drawn beyond is let go."""


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReceiptsIn:
    """Every stage has signed its part of an answer."""

    request: str
    epoch: int
    nodes: tuple[NodeId, ...]
    """Of the stages, in order."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """An auditor's opinion on a case; it answers `Recompute`."""

    case: int
    auditor: NodeId
    opinion: Opinion


@dataclass(frozen=True, slots=True)
class Redone:
    """What came of a `Redo`."""

    case: int
    is_right: bool


@dataclass(frozen=True, slots=True)
class AuditorsChanged:
    """Who may recompute now. `trusted` are the head and machines of the operator's own."""

    auditors: frozenset[NodeId]
    trusted: frozenset[NodeId]


@dataclass(frozen=True, slots=True)
class AuditTick:
    """Time has passed."""


AuditEvent = ReceiptsIn | Recomputed | Redone | AuditorsChanged | AuditTick


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recompute:
    """Have one stage of an answer computed again from the inputs that it claims; answered by `Recomputed`."""

    case: int
    auditor: NodeId
    request: str
    epoch: int
    stage: int


@dataclass(frozen=True, slots=True)
class Redo:
    """Have the same stage do the same again, as work like any other, and look at it; answered by `Redone`."""

    case: int
    request: str
    epoch: int
    stage: int


@dataclass(frozen=True, slots=True)
class Sanction:
    node: NodeId
    kind: Literal["drain", "ban"]
    reason: str
    request: str


AuditCommand = Recompute | Redo | Sanction


@dataclass(slots=True)
class AuditCase:
    """One stage of one answer."""

    number: int
    request: str
    epoch: int
    stage: int
    node: NodeId
    nodes: tuple[NodeId, ...]
    opinions: dict[NodeId, Opinion] = field(default_factory=dict)
    asked: NodeId = ""
    asked_s: float = 0.0
    is_redone: bool = False
    """Whether the fault is confirmed, and the machine does it again."""

    def said(self, *opinions: Opinion) -> list[NodeId]:
        return [auditor for auditor, opinion in self.opinions.items() if opinion in opinions]


class Auditing:
    def __init__(self, secret: bytes, policy: AuditPolicy = AuditPolicy()) -> None:
        """`secret`: 32 bytes that nobody else knows."""
        self._secret, self.policy = secret, policy
        self.reputation = Reputation(policy)
        self.open: dict[int, AuditCase] = {}
        self.banned: set[NodeId] = set()
        self._auditors: frozenset[NodeId] = frozenset()
        self._trusted: frozenset[NodeId] = frozenset()
        self._cases = 0

    def handle(self, event: AuditEvent, now_s: float) -> list[AuditCommand]:
        """Raises `ProtocolViolation` for an opinion that nobody asked for."""
        match event:
            case ReceiptsIn():
                return self._draw(event, now_s)
            case Recomputed():
                return self._heard(event, now_s)
            case Redone(case, is_right):
                return self._redone(case, is_right, now_s)
            case AuditorsChanged(auditors, trusted):
                self._auditors, self._trusted = auditors | trusted, trusted
                return []
            case AuditTick():
                return self._tick(now_s)

    def check(self) -> None:
        """Raise `AssertionError` unless the books are in order."""
        for case in self.open.values():
            assert case.node == case.nodes[case.stage]
            assert bool(case.asked) != case.is_redone, "a case waits for nobody, or for two"
            assert not set(case.opinions) & set(case.nodes), "a machine judges its own ring"

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _draw(self, event: ReceiptsIn, now_s: float) -> list[AuditCommand]:
        if len(self.open) >= MAX_OPEN or not event.nodes:
            return []
        if self._chance("audit", event.request, event.epoch) >= self.reputation.rate_of(event.nodes):
            return []
        stage = self._stage(event)
        case = AuditCase(self._cases, event.request, event.epoch, stage, event.nodes[stage], event.nodes)
        self._cases += 1
        return self._ask(case, now_s)

    def _stage(self, event: ReceiptsIn) -> int:
        """Each with a weight that is the rate of its machine."""
        weights = [self.reputation.rate(node) for node in event.nodes]
        left = self._chance("stage", event.request, event.epoch) * sum(weights)
        for stage, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return stage
        return len(weights) - 1

    def _chance(self, *words: object) -> float:
        """In [0, 1), known to nobody without the secret."""
        drawn = blake3(" ".join(map(str, words)).encode(), key=self._secret).digest(8)
        return int.from_bytes(drawn, "little") / 2**64

    # --- opinions ---------------------------------------------------------------------------------------------------

    def _ask(self, case: AuditCase, now_s: float) -> list[AuditCommand]:
        """The next auditor: trusted ones first, never one of the ring, never twice. The case ends where none is."""
        free = self._auditors - set(case.nodes) - set(case.opinions) - self.banned
        order = sorted(free, key=lambda node: self._chance("auditor", case.number, node))
        order.sort(key=lambda node: node not in self._trusted)
        if not order:
            self.open.pop(case.number, None)
            return []
        case.asked, case.asked_s = order[0], now_s
        self.open[case.number] = case
        return [Recompute(case.number, case.asked, case.request, case.epoch, case.stage)]

    def _heard(self, event: Recomputed, now_s: float) -> list[AuditCommand]:
        case = self.open.get(event.case)
        if case is None or case.asked != event.auditor:
            raise ProtocolViolation(
                f"Node {short_id(event.auditor)} gave an opinion on case {event.case}, which it was not asked for; it "
                "does not count."
            )
        case.opinions[event.auditor], case.asked = event.opinion, ""
        return self._weigh(case, now_s)

    def _weigh(self, case: AuditCase, now_s: float) -> list[AuditCommand]:
        for opinion in ("right", "wrong", "withheld"):
            said = case.said(opinion)
            # One untrusted voice suffices to let somebody go, as most cases end; two are needed against somebody.
            alone = opinion == "right" and len(said) == len(case.opinions) == 1
            if len(said) >= 2 or alone or self._trusted & set(said):
                self._outvote(case, said)
                return self._conclude(case, opinion, now_s)
        return self._ask(case, now_s)

    def _outvote(self, case: AuditCase, right: Sequence[NodeId]) -> None:
        for auditor in case.said("right", "wrong", "withheld"):
            if auditor not in right:
                self.reputation.of(auditor).outvoted += 1

    def _conclude(self, case: AuditCase, opinion: str, now_s: float) -> list[AuditCommand]:
        if opinion == "wrong":
            case.is_redone, self.open[case.number] = True, case
            return [Redo(case.number, case.request, case.epoch, case.stage)]
        del self.open[case.number]
        record = self.reputation.of(case.node)
        if opinion == "right":
            self.reputation.pass_(case.node, now_s)
            return []
        record.refused += 1
        if record.refused < self.policy.refusals:
            return []
        reason = f"it made {record.refused} audits in a row impossible"
        return [Sanction(case.node, "drain", reason, case.request)]

    def _redone(self, number: int, is_right: bool, now_s: float) -> list[AuditCommand]:
        case = self.open.get(number)
        if case is None or not case.is_redone:
            raise ProtocolViolation(f"Nobody was asked to do case {number} again; the answer does not count.")
        del self.open[number]
        strikes = self.reputation.strike(case.node, now_s)
        if not is_right:
            return self._ban(case, "what it computed was wrong, and wrong again on the same inputs")
        if strikes >= self.policy.strikes:
            return self._ban(case, f"what it computed was wrong {strikes} times within days")
        reason = "what it computed was wrong once, and right on the same inputs: look at its memory and its clock"
        return [Sanction(case.node, "drain", reason, case.request)]

    def _ban(self, case: AuditCase, reason: str) -> list[AuditCommand]:
        self.banned.add(case.node)
        return [Sanction(case.node, "ban", reason, case.request)]

    def _tick(self, now_s: float) -> list[AuditCommand]:
        commands: list[AuditCommand] = []
        for case in list(self.open.values()):
            if case.asked and now_s - case.asked_s > self.policy.patience_s:
                case.opinions[case.asked], case.asked = "unable", ""
                commands += self._ask(case, now_s)
        return commands
