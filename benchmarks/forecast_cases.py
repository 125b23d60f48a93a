"""The runs of the forecast benchmark: machines, where and how fast, the model, what is asked. Only names and figures.

Speeds are shares of this machine's, such that all machines of a pool together need little more than one of its cores.
"""

import random
from dataclasses import dataclass

from benchmarks.forecast_pool import Asked, Machine
from muster.spec.workload import ServeWorkload


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    model: str
    scenario: str
    machines: tuple[Machine, ...]
    workload: ServeWorkload
    requests: int
    blind: bool = False
    """Written down before it was ever run, and run once: nothing could be fitted to it."""

    @property
    def head_region(self) -> str:
        return self.machines[0].region

    def asked(self, seed: int, vocab_size: int) -> list[Asked]:
        """Prompts differ from seed to seed, so that no page of an earlier repetition is found again; times do not."""
        times, ids = random.Random(self.name), random.Random(f"{self.name} {seed}")
        at_s, found = 0.0, []
        for _ in range(self.requests):
            if self.workload.requests_per_s is not None:
                at_s += times.expovariate(self.workload.requests_per_s)
            prompt = tuple(ids.randrange(1, vocab_size) for _ in range(self.workload.prompt_tokens))
            found.append(Asked(at_s, prompt, self.workload.output_tokens))
        return found


def _machines(*rows: tuple[str, float, int]) -> tuple[Machine, ...]:
    names = ("ada", "bob", "cleo", "dan", "eve", "finn")
    return tuple(Machine(name, *row) for name, row in zip(names, rows, strict=False))


THREE, HOMES, US, CAMPUS, WORLD = (
    "three-regions-20-80ms",
    "home-uplinks",
    "regional-us",
    "two-universities",
    "worldwide",
)

CALIBRATION = (
    Case(
        "calibration",
        "tiny",
        CAMPUS,
        _machines(("ohio", 0.4, 2), ("virginia", 0.4, 2), ("ohio", 0.4, 2)),
        ServeWorkload(24, 48),
        1,
    ),
    Case(
        "calibration",
        "dense",
        THREE,
        _machines(("seoul", 0.4, 3), ("tokyo", 0.4, 3), ("seoul", 0.4, 2)),
        ServeWorkload(24, 32),
        1,
    ),
    Case(
        "calibration",
        "experts",
        US,
        _machines(("virginia", 0.4, 2), ("ohio", 0.4, 2), ("virginia", 0.4, 2)),
        ServeWorkload(24, 32),
        1,
    ),
)
"""Equal machines, one pool for each model."""

CASES = (
    Case(
        "two campuses",
        "tiny",
        CAMPUS,
        _machines(("ohio", 0.30, 4), ("virginia", 0.20, 3)),
        ServeWorkload(64, 64),
        8,
    ),
    Case(
        "the demo's pool",
        "tiny",
        THREE,
        _machines(("tokyo", 0.40, 3), ("seoul", 0.30, 2), ("singapore", 0.24, 1), ("seoul", 0.20, 1)),
        ServeWorkload(96, 48),
        16,
    ),
    Case(
        "homes, a few questions at a time",
        "tiny",
        HOMES,
        _machines(("datacenter", 0.45, 4), ("home-1", 0.2, 1), ("home-2", 0.15, 1)),
        ServeWorkload(40, 32, requests_per_s=1.5),
        24,
    ),
    Case(
        "around the world",
        "tiny",
        WORLD,
        _machines(
            ("oregon", 0.25, 1),
            ("virginia", 0.2, 1),
            ("london", 0.2, 1),
            ("frankfurt", 0.15, 1),
            ("tokyo", 0.25, 2),
            ("seoul", 0.15, 1),
        ),
        ServeWorkload(32, 24),
        32,
    ),
    Case(
        "neighbouring countries",
        "dense",
        THREE,
        _machines(("tokyo", 0.5, 5), ("seoul", 0.35, 4)),
        ServeWorkload(64, 32),
        12,
    ),
    Case(
        "one slow machine",
        "dense",
        US,
        _machines(("virginia", 0.5, 4), ("ohio", 0.12, 2), ("oregon", 0.4, 3)),
        ServeWorkload(32, 32),
        8,
    ),
    Case(
        "long prompts at home",
        "dense",
        HOMES,
        _machines(("datacenter", 0.4, 3), ("home-1", 0.25, 2), ("home-2", 0.25, 2), ("home-3", 0.2, 2)),
        ServeWorkload(300, 16),
        8,
    ),
    Case(
        "two campuses, questions all day",
        "dense",
        CAMPUS,
        _machines(("ohio", 0.4, 4), ("virginia", 0.4, 3), ("ohio", 0.3, 2)),
        ServeWorkload(48, 24, requests_per_s=0.8),
        20,
    ),
    Case(
        "six machines in Europe and America",
        "dense",
        WORLD,
        _machines(
            ("ohio", 0.25, 2),
            ("virginia", 0.25, 2),
            ("ireland", 0.2, 1),
            ("london", 0.2, 1),
            ("frankfurt", 0.2, 1),
            ("oregon", 0.15, 1),
        ),
        ServeWorkload(48, 20),
        24,
    ),
    Case(
        "experts next door",
        "experts",
        CAMPUS,
        _machines(("virginia", 0.4, 4), ("ohio", 0.4, 3)),
        ServeWorkload(48, 40),
        6,
    ),
    Case(
        "experts across the country",
        "experts",
        US,
        _machines(("california", 0.4, 3), ("oregon", 0.3, 2), ("virginia", 0.3, 2)),
        ServeWorkload(96, 32),
        12,
    ),
    Case(
        "experts at home",
        "experts",
        HOMES,
        _machines(("home-1", 0.25, 2), ("home-2", 0.25, 1), ("home-3", 0.25, 1), ("datacenter", 0.4, 3)),
        ServeWorkload(40, 32),
        16,
    ),
    Case(
        "experts, five machines, long answers",
        "experts",
        THREE,
        _machines(
            ("tokyo", 0.3, 2),
            ("seoul", 0.2, 1),
            ("singapore", 0.2, 1),
            ("seoul", 0.2, 1),
            ("tokyo", 0.25, 2),
        ),
        ServeWorkload(16, 64),
        10,
    ),
    Case(
        "experts, questions all day",
        "experts",
        THREE,
        _machines(("seoul", 0.4, 3), ("tokyo", 0.4, 2), ("seoul", 0.35, 2)),
        ServeWorkload(64, 24, requests_per_s=0.7),
        20,
    ),
    Case(
        "five machines in four cities",
        "tiny",
        US,
        _machines(
            ("california", 0.3, 2),
            ("ohio", 0.25, 1),
            ("oregon", 0.2, 1),
            ("virginia", 0.22, 2),
            ("ohio", 0.15, 1),
        ),
        ServeWorkload(80, 40),
        14,
        blind=True,
    ),
    Case(
        "experts on three continents",
        "experts",
        WORLD,
        _machines(
            ("virginia", 0.25, 2),
            ("frankfurt", 0.2, 1),
            ("ireland", 0.2, 1),
            ("ohio", 0.18, 1),
            ("tokyo", 0.22, 1),
            ("london", 0.15, 1),
        ),
        ServeWorkload(56, 28),
        18,
        blind=True,
    ),
    Case(
        "questions from home, one after the other",
        "dense",
        HOMES,
        _machines(("home-3", 0.35, 4), ("datacenter", 0.45, 4), ("home-1", 0.2, 2)),
        ServeWorkload(80, 20, requests_per_s=0.9),
        20,
        blind=True,
    ),
    Case(
        "long prompts, short answers",
        "tiny",
        CAMPUS,
        _machines(("virginia", 0.35, 2), ("ohio", 0.3, 2), ("virginia", 0.22, 2), ("ohio", 0.18, 1)),
        ServeWorkload(240, 12),
        10,
        blind=True,
    ),
    Case(
        "two islands and a mainland",
        "dense",
        THREE,
        _machines(
            ("singapore", 0.3, 3),
            ("tokyo", 0.3, 2),
            ("seoul", 0.2, 2),
            ("singapore", 0.16, 1),
            ("tokyo", 0.25, 2),
        ),
        ServeWorkload(24, 44),
        20,
        blind=True,
    ),
)
