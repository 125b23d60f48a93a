"""Control and data channel: what the codecs on a ring's links change, found out before anybody is served through them.

Control: `CheckCodecs`, `CodecsChecked`. Data: `Calibrate` from stage to stage, `Calibrated` from the last to the first.
"""

from muster.wire.messages.base import EpochMessage, TensorHeader
from muster.wire.messages.generate import Row

MAX_POSITIONS = 1024
"""Of a calibration text; a longer one takes longer and tells little more."""


class CheckCodecs(EpochMessage, frozen=True, tag="check_codecs"):
    """Broker to first stage, once all stages are loaded: send this text through the ring, raw and as its links pack it.

    Nothing is cached yet, and nothing of it stays.
    """

    tokens: tuple[int, ...]


class CodecsChecked(EpochMessage, frozen=True, tag="codecs_checked"):
    """First stage to broker. `agreed` positions of all have the same likeliest next token.

    `divergence` is the mean of KL(raw || packed) over the positions, in nats.
    """

    positions: int
    agreed: int
    divergence: float


class Calibrate(EpochMessage, frozen=True, tag="calibrate"):
    """Stage to stage: run this piece of the text through your layers. The payload is its hidden state.

    Pieces come in the order of `number`, each twice: first `raw` on all links, then as the links pack it, on pages of
    its own. The last stage compares the second with the first and answers `Calibrated`.
    """

    number: int
    row: Row
    raw: bool
    hidden: TensorHeader | None = None


class Calibrated(EpochMessage, frozen=True, tag="calibrated"):
    """Last stage to first: of one piece, as in `CodecsChecked`; `divergence` is the sum."""

    number: int
    agreed: int
    divergence: float
