"""What audits have shown of each machine, and how often its work is to be checked. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, field

from muster.spec.pool import NodeId


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    rate: float = 0.05
    """Share of requests that are audited where all machines have shown what they are."""
    newcomer_rate: float = 0.5
    """Where one has shown nothing yet."""
    settled_after: int = 20
    """Audits that went well make a machine one of whom little is asked."""
    patience_s: float = 60.0
    """An auditor that has not answered by then is asked no more for this case."""
    strikes: int = 2
    """Confirmed faults after which a machine that may merely fail is banned as well."""
    refusals: int = 3
    """Audits in a row that a machine makes impossible, by giving no inputs, before it is drained."""
    forget_s: float = 7 * 86_400.0
    """A strike counts for so long."""


@dataclass(slots=True)
class AuditRecord:
    """Of one machine."""

    passed: int = 0
    strikes_s: list[float] = field(default_factory=list)
    """When a fault was confirmed."""
    refused: int = 0
    """In a row."""
    outvoted: int = 0
    """Times that its verdict on others was not confirmed."""


@dataclass(slots=True)
class Reputation:
    policy: AuditPolicy = AuditPolicy()
    records: dict[NodeId, AuditRecord] = field(default_factory=dict)

    def of(self, node: NodeId) -> AuditRecord:
        return self.records.setdefault(node, AuditRecord())

    def rate(self, node: NodeId) -> float:
        """At which its requests are to be audited."""
        record, policy = self.of(node), self.policy
        if record.strikes_s or record.refused:
            return 1.0
        new = max(0.0, 1 - record.passed / policy.settled_after)
        return policy.rate + new * (policy.newcomer_rate - policy.rate)

    def rate_of(self, nodes: Collection[NodeId]) -> float:
        """Of a request that they served together: as of the one that is known least."""
        return max((self.rate(node) for node in nodes), default=0.0)

    def strike(self, node: NodeId, now_s: float) -> int:
        """One more; how many count now."""
        record = self.of(node)
        record.strikes_s = [at for at in record.strikes_s if now_s - at < self.policy.forget_s] + [now_s]
        return len(record.strikes_s)

    def pass_(self, node: NodeId, now_s: float) -> None:
        record = self.of(node)
        record.passed, record.refused = record.passed + 1, 0
        record.strikes_s = [at for at in record.strikes_s if now_s - at < self.policy.forget_s]
