"""A dispute's statements in a file, and the last of them, which shows one operator. Trusts nothing in it.

A file is MessagePack: all signed statements in order, with the tensors that came along.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from muster.errors import InvalidRequest, ProtocolViolation
from muster.verify.disputes.program import TracedOperator
from muster.verify.disputes.statements import (
    NOTHING_BEFORE,
    DisputeOpening,
    LastStep,
    SignedBody,
    TensorBytes,
    opened,
)

MAX_FILE_BYTES = 2**31
_entries = msgspec.msgpack.Decoder(tuple[SignedBody, ...])


@dataclass(frozen=True, slots=True)
class ShownOperator:
    """What the accused showed last, and signed."""

    dispute: bytes
    place: bytes
    """Digest of the statement."""
    operator: TracedOperator
    inputs: tuple[TensorBytes, ...]
    outputs: tuple[TensorBytes, ...]


def write_transcript(path: Path, entries: Sequence[SignedBody]) -> None:
    path.write_bytes(msgspec.msgpack.encode(tuple(entries)))


def read_transcript(path: Path) -> ShownOperator:
    """Raises `InvalidRequest` where there is no such file, `ProtocolViolation` where it is not one whole dispute."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidRequest(f"{path} is larger than any dispute; name the file that was written at its end.")
        return shown(_entries.decode(path.read_bytes()))
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror}); name the file of a dispute.") from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ProtocolViolation(f"{path} holds no dispute; it was cut or changed.") from error


def shown(entries: Sequence[SignedBody]) -> ShownOperator:
    """The last step of a dispute. Raises `ProtocolViolation` unless every statement follows the one before it."""
    bodies = [opened(one) for one in entries]
    if not bodies or not isinstance(bodies[0].said, DisputeOpening) or not isinstance(bodies[-1].said, LastStep):
        raise ProtocolViolation("The dispute does not end at one operator; only such a one can be proven.")
    before = NOTHING_BEFORE
    for number, (one, body) in enumerate(zip(entries, bodies, strict=True)):
        if (body.number, body.previous, body.dispute) != (number, before, bodies[0].dispute):
            raise ProtocolViolation(f"Statement {number} does not follow the one before it; some are missing.")
        before = one.digest()
    last, said = entries[-1], bodies[-1].said
    if last.signer != bodies[0].said.accused:
        raise ProtocolViolation("The last statement is not the accused's; it was replaced.")
    if [tensor.digest() for tensor in last.tensors] != [*said.inputs, *said.outputs]:
        raise ProtocolViolation("The last statement comes with other tensors than it names; they were cut or changed.")
    count = len(said.inputs)
    return ShownOperator(bodies[0].dispute, last.digest(), said.operator, last.tensors[:count], last.tensors[count:])
