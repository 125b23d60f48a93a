"""Games over toy rings of five: real fingerprints of what a small network computes in bfloat16, audited in float32.

One machine cheats in a part of its work; of three auditors one lies. What the head decides is carried out on the spot,
and who is banned or drained is the outcome.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

import torch
from torch import Tensor

from muster.broker.audits.auditing import (
    AuditCommand,
    Auditing,
    AuditorsChanged,
    AuditTick,
    Opinion,
    ReceiptsIn,
    Recompute,
    Recomputed,
    Redo,
    Redone,
    Sanction,
)
from muster.broker.audits.reputation import AuditPolicy
from muster.verify.calibrating import calibrated
from muster.verify.fingerprint import drift, key_of, opened, places, taken
from muster.verify.judging import judge
from muster.verify.limits import DriftLimits, block_means

STAGES, WIDTH, TOKENS, LAYERS = 5, 32, 96, 2
DTYPE = "bfloat16"
RING = tuple(f"{stage}" * 64 for stage in range(1, STAGES + 1))
AUDITORS = ("a" * 64, "b" * 64, "c" * 64)
CHEATS = ("coarse weights", "a layer left out", "other weights", "work of another request")
POLICY = AuditPolicy(rate=0.3, newcomer_rate=1.0)
LIES = ("always wrong", "always right", "the contrary", "withheld")


def weights(stage: int, layer: int, other: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * other + 10 * stage + layer)
    return torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5


def compute(stage: int, x_TH: Tensor, cheat: str = "", seed: int = 0) -> Tensor:
    """Residual layers, in the dtype of `x_TH`."""
    for layer in range(LAYERS):
        if cheat == "a layer left out" and layer == LAYERS - 1:
            continue
        matrix = weights(stage, layer, other=int(cheat == "other weights"))
        if cheat == "coarse weights":
            step = matrix.abs().max() / 7
            matrix = (matrix / step).round() * step
        x_TH = x_TH + torch.tanh(x_TH @ matrix.to(x_TH.dtype))
    if cheat == "work of another request":
        return x_TH.roll(seed % 5 + 1, dims=0)
    return x_TH


def prompt(seed: int) -> Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


@dataclass
class Served:
    """What each stage of a ring gave away, [T, H]; the first is what the ring got."""

    name: str
    rows: list[Tensor]

    def drift_of(self, stage: int) -> "object":
        """Of what the receipts say from what comes out of the claimed inputs."""
        where = places(key_of(self.name, stage + 1), range(TOKENS), WIDTH)
        truth = compute(stage, self.rows[stage].float())
        return drift(opened(taken(self.rows[stage + 1], where), DTYPE), truth, where, DTYPE)


def serve(name: str, seed: int, cheat: Callable[[int], str] = lambda stage: "") -> Served:
    rows = [prompt(seed)]
    for stage in range(STAGES):
        rows.append(compute(stage, rows[-1], cheat(stage), seed))
    return Served(name, rows)


@lru_cache(maxsize=1)
def limits() -> tuple[DriftLimits, ...]:
    runs = [serve(f"{seed:032x}", 10**6 + seed) for seed in range(40)]
    return tuple(
        calibrated([block_means(run.drift_of(stage)) for run in runs], 1e-6)  # type: ignore[arg-type]
        for stage in range(STAGES)
    )


@dataclass
class Game:
    seed: int
    cheats: bool = True
    fails_once: bool = False
    """The machine errs by chance, and does it right when it does it again."""
    trusted: bool = False
    """Whether one auditor, an honest one, is the operator's own."""
    policy: AuditPolicy = POLICY
    sanctions: list[Sanction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.cheat_at = self.random.randrange(STAGES)
        self.way = self.random.choice(CHEATS)
        self.liar, self.lie = self.random.choice(AUDITORS), self.random.choice(LIES)
        self.share = self.random.choice((0.2, 0.5, 1.0))
        self.auditing = Auditing(self.random.randbytes(32), self.policy)
        honest = [node for node in AUDITORS if node != self.liar]
        trusted = frozenset(honest[:1]) if self.trusted else frozenset[str]()
        self.auditing.handle(AuditorsChanged(frozenset(AUDITORS), trusted), 0.0)
        self.served: dict[str, Served] = {}

    @property
    def guilty(self) -> str:
        return RING[self.cheat_at]

    def play(self, requests: int) -> list[Sanction]:
        """Until somebody is banned or drained."""
        for number in range(requests):
            name, now_s = f"{self.seed * 1000 + number:032x}", float(number)
            cheated = self.cheats and self.random.random() < self.share
            self.served[name] = serve(
                name,
                self.random.randrange(10**6),
                lambda stage, c=cheated: self.way if c and stage == self.cheat_at else "",
            )
            self._carry_out(self.auditing.handle(ReceiptsIn(name, 1, RING), now_s), now_s)
            self._carry_out(self.auditing.handle(AuditTick(), now_s + 0.5), now_s)
            if self.sanctions:
                break
        return self.sanctions

    def _carry_out(self, commands: list[AuditCommand], now_s: float) -> None:
        self.auditing.check()
        for command in commands:
            match command:
                case Recompute():
                    answer = Recomputed(command.case, command.auditor, self._opinion(command))
                    self._carry_out(self.auditing.handle(answer, now_s), now_s)
                case Redo():
                    is_right = self.fails_once or self._is_right(command.request, command.stage)
                    self._carry_out(self.auditing.handle(Redone(command.case, is_right), now_s), now_s)
                case Sanction():
                    self.sanctions.append(command)

    def _opinion(self, asked: Recompute) -> Opinion:
        truth: Opinion = "right" if self._is_right(asked.request, asked.stage) else "wrong"
        if asked.auditor != self.liar:
            return truth
        lies: dict[str, Opinion] = {"always wrong": "wrong", "always right": "right", "withheld": "withheld"}
        return lies.get(self.lie) or ("wrong" if truth == "right" else "right")

    def _is_right(self, request: str, stage: int) -> bool:
        return judge(self.served[request].drift_of(stage), limits()[stage]).passes  # type: ignore[arg-type]
