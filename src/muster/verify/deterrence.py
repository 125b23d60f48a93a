"""How often work must be checked so that cheating does not pay. Pure arithmetic.

Of a machine whose requests are checked with probability p, each check finding a cheat with probability d, who cheats
gains G with each request that is not found and loses a stake S with the first that is: honesty pays where p d S exceeds
(1 - p d) G (the inspection game; R. Avenhaus, B. von Stengel, S. Zamir, "Inspection Games", 2002, section 2).
An audit recomputes one
stage of K at random, so a request must be drawn K times as often as each machine is to be checked.
"""

from dataclasses import dataclass
from math import ceil, inf, log

from muster.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Deterrence:
    """What a rate of audits does; see the module."""

    rate: float
    """Share of requests that are audited, one stage of each."""
    stages: int
    detection: float
    """Share of audits of a cheated stage that find it."""

    @property
    def checked(self) -> float:
        """Probability that one machine's work on one request is audited."""
        return self.rate / self.stages

    @property
    def found(self) -> float:
        """Probability that one cheated request is found."""
        return self.checked * self.detection

    @property
    def cost(self) -> float:
        """Recomputed, as a part of what is served: one stage of each audited request."""
        return self.rate / self.stages

    def least_stake(self, gain: float) -> float:
        """The stake from which on honesty pays, where each cheated request gains so much."""
        return inf if self.found == 0 else gain * (1 - self.found) / self.found

    def requests_until(self, confidence: float) -> float:
        """Cheated requests until one is found with this probability."""
        if self.found <= 0:
            return inf
        return 1 if self.found >= 1 else ceil(log(1 - confidence) / log(1 - self.found))


def least_rate(stake: float, gain: float, detection: float, stages: int) -> float:
    """The share of requests to audit so that honesty pays; above 1 where no rate suffices. Raises `InvalidRequest`."""
    if not 0 < detection <= 1:
        raise InvalidRequest(f"A detection of {detection:g} is no share above 0; give one up to 1.", "detection")
    if not 1 <= stages <= 1024:
        raise InvalidRequest(f"A ring of {stages} stages cannot be; give 1 to 1024.", "stages")
    if not (0 <= gain < inf and 0 <= stake < inf):
        raise InvalidRequest("Stake and gain are amounts of one currency, and not below 0.", "stake")
    if gain == 0:
        return 0.0
    return stages * gain / (detection * (stake + gain))
