"""The quality gate of codecs on links: which of them a model has passed, and which it never gets again. Pure.

A placement whose links carry codecs serves only after a calibration text went through it, once raw and once packed
(`node/runners/serve/calibrating`), and next to nothing changed. A codec that fails takes with it all that lose more;
the pipeline is then planned anew with what is left. Links that have passed at some layers need not pass again there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from muster.errors import ProtocolViolation
from muster.spec.codec import RAW, Codec
from muster.spec.plan import Pipeline
from muster.wire.messages.calibrate import CodecsChecked

LEAST_AGREEMENT = 0.995
"""Share of the positions whose likeliest next token stays the same."""
MOST_DIVERGENCE = 1e-3
"""Nats: the mean of KL(raw || packed) over the positions."""
CHECK_S = 300.0
"""A check that takes longer has failed: the text goes around the ring twice."""
KEPT = 16
"""Checks that are remembered for people to read."""


@dataclass(frozen=True, slots=True)
class CodecCheck:
    """One calibration run and what came of it."""

    codecs: tuple[Codec, ...]
    """On the links, the mildest first."""
    found: CodecsChecked | None
    """None: it did not come to an end."""

    @property
    def agreement(self) -> float:
        return self.found.agreed / self.found.positions if self.found is not None else 0.0

    @property
    def passed(self) -> bool:
        found = self.found
        return found is not None and self.agreement >= LEAST_AGREEMENT and found.divergence <= MOST_DIVERGENCE

    @property
    def sentence(self) -> str:
        name = self.codecs[-1].name
        if self.found is None:
            return f"Whether {name} on the links changes what the model says was not found out within {CHECK_S:.0f} s"
        return (
            f"{name} on the links leaves the likeliest token the same at {self.agreement:.2%} of "
            f"{self.found.positions} positions, where {LEAST_AGREEMENT:.1%} are due, with a divergence of "
            f"{self.found.divergence:.2g} nats, where {MOST_DIVERGENCE:g} may be"
        )


def check_codecs_checked(found: CodecsChecked) -> None:
    """What a machine says it found. Raises `ProtocolViolation` where that is no result."""
    if not 0 <= found.agreed <= found.positions or found.positions == 0 or not 0 <= found.divergence < float("inf"):
        raise ProtocolViolation("A node sent figures of a codec check that make no sense; update Muster on it.")


class CodecChecks:
    def __init__(self) -> None:
        self.made: list[CodecCheck] = []
        """The latest last."""
        self._passed: list[frozenset[tuple[int, str]]] = []

    def is_due(self, pipeline: Pipeline) -> bool:
        links = _links(pipeline)
        return bool(links) and not any(links <= passed for passed in self._passed)

    def judge(self, pipeline: Pipeline, found: CodecsChecked | None) -> CodecCheck:
        """None where nothing came within `CHECK_S`."""
        codecs = sorted({link.codec for link in pipeline.codecs}, key=lambda codec: codec.distortion)
        check = CodecCheck(tuple(codecs), found)
        self.made = [*self.made, check][-KEPT:]
        if check.passed:
            self._passed.append(_links(pipeline))
        return check

    @property
    def last(self) -> CodecCheck | None:
        return self.made[-1] if self.made else None


def milder(allowed: Sequence[Codec], check: CodecCheck) -> tuple[Codec, ...]:
    """What is left of the allowed codecs once this check has failed."""
    limit = check.codecs[-1].distortion
    return tuple(codec for codec in allowed if codec == RAW or codec.distortion < limit)


def refusal(check: CodecCheck, known: Sequence[Codec]) -> str:
    """Where no codec is left, since only this one was wanted; names the next milder one of `known`."""
    limit = check.codecs[-1].distortion
    remedy = max(
        (codec for codec in known if codec.distortion < limit), key=lambda codec: codec.distortion, default=RAW
    )
    return f"{check.sentence}; serve with --codec {remedy.name}, or with --codec auto."


def _links(pipeline: Pipeline) -> frozenset[tuple[int, str]]:
    """(first layer behind the link, codec) of each that does not carry raw values."""
    firsts = {stage.node: stage.first for stage in pipeline.stages}
    return frozenset((firsts[link.target], link.codec.name) for link in pipeline.codecs)
