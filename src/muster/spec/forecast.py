"""What a plan is predicted to do. Knows nothing of how it was predicted."""

from dataclasses import dataclass

from muster.spec.pool import NodeId


@dataclass(frozen=True, slots=True)
class StageForecast:
    """One stage of one pipeline. Bytes are of each of its devices."""

    pipeline: int
    node: NodeId
    devices: tuple[int, ...]
    first: int
    last: int
    seconds: float
    """Busy with one step (serving: decode and its share of prefill; training: one microbatch forth and back)."""
    share: float
    """Of the time that it is busy."""
    weights_bytes: int
    cache_bytes: int
    """KV pages; in training, activations kept for the way back."""
    other_bytes: int
    """Workspace, codec buffers; in training also gradients and optimizer state."""
    cap_bytes: int

    @property
    def used_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.other_bytes

    @property
    def headroom_bytes(self) -> int:
        return self.cap_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class LinkForecast:
    """One direction of a link that the plan uses."""

    source: NodeId
    target: NodeId
    bytes_per_s: float
    share: float
    """Of its bandwidth."""


@dataclass(frozen=True, slots=True)
class ServeForecast:
    tokens_per_s: float
    """Generated, all pipelines together; under `requests_per_s`, what is asked for if the pool keeps up."""
    capacity_tokens_per_s: float
    """As many as the pool could generate."""
    time_to_first_token_s: float
    seconds_per_token: float
    """Between two tokens of one request."""
    request_s: float
    """A request from its arrival to its last token."""
    attainment: float | None
    """Share of requests within the deadline; None without one."""
    stages: tuple[StageForecast, ...]
    links: tuple[LinkForecast, ...]
    bottleneck: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class TrainForecast:
    step_s: float
    tokens_per_s: float
    pipeline_s: float
    """Until the last microbatch is back."""
    exchange_s: float
    """Gradients and the optimizer, as far as they are not hidden."""
    stages: tuple[StageForecast, ...]
    links: tuple[LinkForecast, ...]
    bottleneck: str
    """One sentence."""
