"""What a head counts, in Prometheus' form. Knows neither HTTP nor the pool: others call it with numbers.

Each `Metrics` has a registry of its own, so that two heads in one process (a test, the lab) do not mix. The pool's
state is read when Prometheus asks, from a status record of nested dictionaries: every number in it becomes a gauge
named after its path, `{"nodes": {"ready": 3}}` -> `muster_pool_nodes_ready 3`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MAX_POOL_GAUGES = 1024
_TTFT_BUCKETS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_INTER_TOKEN_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Counters of the front door, and the pool's gauges once `watch_pool` was called."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "muster_requests", "Requests answered, by path and HTTP status.", ["path", "status"], registry=registry
        )
        self.errors = Counter("muster_errors", "Errors answered, by error code.", ["code"], registry=registry)
        self.running = Gauge("muster_requests_running", "Requests being answered now.", registry=registry)
        self.cancelled = Counter("muster_requests_cancelled", "Requests whose client went away.", registry=registry)
        self.prompt_tokens = Counter("muster_prompt_tokens", "Tokens read in prompts.", registry=registry)
        self.completion_tokens = Counter("muster_completion_tokens", "Tokens generated.", registry=registry)
        self.time_to_first_token = Histogram(
            "muster_time_to_first_token_seconds",
            "From the request's arrival to its first token.",
            buckets=_TTFT_BUCKETS_S,
            registry=registry,
        )
        self.inter_token_latency = Histogram(
            "muster_inter_token_latency_seconds",
            "Between one token of a choice and the next.",
            buckets=_INTER_TOKEN_BUCKETS_S,
            registry=registry,
        )

    def watch_pool(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self.registry.register(_PoolGauges(status))

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


class _PoolGauges(Collector):
    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauges = dict(_numbers(self._status(), "muster_pool"))  # by name: two paths may spell the same name
        for name, value in list(gauges.items())[:_MAX_POOL_GAUGES]:
            yield GaugeMetricFamily(name, "From the pool's status.", value=value)

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # so that registering does not ask for the status


def _numbers(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        name = f"{prefix}_{re.sub('[^a-zA-Z0-9_]', '_', str(key))}"
        if isinstance(value, Mapping):
            yield from _numbers(value, name)
        elif isinstance(value, int | float):  # True and False count as 1 and 0
            yield name, float(value)
