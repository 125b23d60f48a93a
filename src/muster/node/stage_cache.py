"""Stages that are in memory, used or not. Knows nothing of epochs, files or the network.

After a repair a node mostly holds the layers that it held before. So a stage that nobody uses any more stays for a
while, and goes when its memory is needed, or when it was idle for too long. Two placements may use one stage: its
`run` takes one step at a time.
"""

import gc
from dataclasses import dataclass

import torch

from muster.model.stage import Stage
from muster.node.memory import give_back
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.model_shape import ModelShape
from muster.spec.plan import ON_DEVICE, MemoryPolicy, ServeSettings

KEEP_S = 300.0
"""How long an idle stage stays."""


@dataclass(frozen=True, slots=True)
class StageKey:
    """What makes two stages the same."""

    manifest: str
    first: int
    last: int
    dtype: str
    rank: int = 0
    degree: int = 1
    """Of how many parts it is which."""
    few_bits: FewBits = AS_STORED
    memory: MemoryPolicy = ON_DEVICE
    work: ServeSettings | None = None
    """Of a stage that offloads, which is made for what it does."""


@dataclass(slots=True)
class CachedStage:
    stage: Stage
    shape: ModelShape
    """Of the whole model."""
    promised_bytes: int = 0
    """To a stage that offloads, which takes no more whatever its weights are."""
    users: int = 0
    idle_since_s: float = 0.0

    @property
    def nbytes(self) -> int:
        """Of its weights."""
        return self.promised_bytes or -(
            -self.shape.weight_bytes(self.stage.first, self.stage.last) // self.stage.degree
        )


class StageCache:
    def __init__(self) -> None:
        self._stages: dict[StageKey, CachedStage] = {}

    def put(self, key: StageKey, stage: Stage, shape: ModelShape, now_s: float) -> None:
        """A stage that was just built, idle at first. If there is one like it already, that one stays."""
        self._stages.setdefault(key, CachedStage(stage, shape, key.memory.device_bytes, idle_since_s=now_s))

    def take(self, key: StageKey) -> CachedStage | None:
        """The stage, in use from now on, if it is here."""
        found = self._stages.get(key)
        if found is not None:
            found.users += 1
        return found

    def give_back(self, key: StageKey, now_s: float) -> None:
        """One use has ended."""
        found = self._stages[key]
        assert found.users > 0, "a stage was given back more often than taken"
        found.users -= 1
        found.idle_since_s = now_s
        if key.memory.offloads and not found.users:
            self._let_go(key)  # it has what the next stage needs: buffers, and a cache that nobody reads

    @property
    def idle_bytes(self) -> int:
        """What would be free if it were needed."""
        return sum(cached.nbytes for cached in self._stages.values() if not cached.users)

    def make_room(self, most_idle_bytes: int) -> None:
        """Let go of idle stages, the longest idle first, until the others take no more than this."""
        for key in self._idle():
            if self.idle_bytes <= most_idle_bytes:
                return
            self._let_go(key)

    def tidy(self, now_s: float) -> None:
        """Let go of what was idle for too long."""
        for key in self._idle():
            if now_s - self._stages[key].idle_since_s > KEEP_S:
                self._let_go(key)

    def _idle(self) -> list[StageKey]:
        idle = [(cached.idle_since_s, key) for key, cached in self._stages.items() if not cached.users]
        return [key for _, key in sorted(idle, key=lambda pair: pair[0])]

    def _let_go(self, key: StageKey) -> None:
        device = self._stages.pop(key).stage.device
        gc.collect()  # a model refers to itself in circles, and its memory is wanted now
        give_back()
        if device.type == "cuda":
            torch.cuda.empty_cache()
