"""A dispute as one file: all that was said, signed. Whoever has the weights replays it and gets to the same end."""

from collections.abc import Sequence

import msgspec

from muster.errors import InvalidRequest, ProtocolViolation
from muster.verify.disputes.game import Game, Stated
from muster.verify.disputes.outcome import DisputeOutcome, Referee
from muster.verify.disputes.statements import SignedBody

MAGIC = b"muster dispute 1\n"
MAX_ENTRIES = 4096

_entries = msgspec.msgpack.Decoder(tuple[SignedBody, ...])


def transcript(entries: Sequence[SignedBody]) -> bytes:
    """Of `Game.entries`; where somebody was silent, the referee's ruling on it is the last."""
    return MAGIC + msgspec.msgpack.encode(tuple(entries))


def read_transcript(data: bytes) -> tuple[SignedBody, ...]:
    """Raises `InvalidRequest` for what is none."""
    if not data.startswith(MAGIC):
        raise InvalidRequest("This is no transcript of a dispute.", "file")
    try:
        entries = _entries.decode(data[len(MAGIC) :])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(f"The transcript cannot be read ({error}); it was cut or changed.", "file") from None
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise InvalidRequest(f"A transcript of {len(entries)} statements is of no dispute.", "file")
    return entries


def replayed(entries: Sequence[SignedBody], referee: Referee) -> DisputeOutcome:
    """How it ended. Raises `ProtocolViolation` for a statement that does not fit, or where the end is missing."""
    game = Game(entries[0], referee)
    for one in entries[1:]:
        if game.outcome is not None:
            raise ProtocolViolation("The transcript goes on behind the end of the dispute; something was added.")
        game.handle(Stated(one), 0.0)
    if game.outcome is None:
        raise ProtocolViolation("The transcript ends before the dispute does; the rest is missing.")
    return game.outcome
