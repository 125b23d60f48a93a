"""One request on its way: what its client has, which pipeline it is at, and how fast that is. Pure."""

from dataclasses import dataclass, replace

from muster.client.open_route import SAMPLE, OpenRoute, remaining
from muster.spec.request import Request

SUSPECT_AFTER = 2


@dataclass(slots=True)
class Live:
    asked: Request
    epoch: int | None
    waiting_since: float
    emitted: list[int]
    """Grows as tokens are delivered."""
    scored: int
    failures: int = 0
    """Times that it was lost since its last token."""
    owed: float = 0.0
    """What its pipeline still has to do for it, as `open_route` counts."""
    prompt: float = 0.0
    """Of that, for its prompt, until that is computed."""
    begun: bool = False
    """Whether it has had a token from there."""
    paced_s: float = 0.0
    """When its pace there was last taken."""
    paced_tokens: int = 0
    """That it has had since."""

    @property
    def request(self) -> Request:
        """What a pipeline that goes on with it is sent. Made anew each time: not for every token."""
        return replace(self.asked, emitted=tuple(self.emitted), scored=self.scored)

    @property
    def is_suspect(self) -> bool:
        return self.failures >= SUSPECT_AFTER

    def got(self, route: OpenRoute, tokens: int, now: float) -> None:
        """So many tokens from its pipeline; `emitted` has them already."""
        if not tokens:
            return
        owed = float(remaining(self.asked, len(self.emitted)))
        route.owed[self.asked.priority] += owed - self.owed
        self.owed = owed
        route.heard(now)
        route.generated(tokens, now)
        if not self.begun:
            self.begun, self.paced_s, self.paced_tokens = True, now, 0
            route.begun += 1
            route.prompts -= self.prompt
            self.prompt = 0.0
            return
        self.paced_tokens += tokens
        if self.paced_tokens >= SAMPLE:
            route.paced((now - self.paced_s) / self.paced_tokens)
            self.paced_s, self.paced_tokens = now, 0
