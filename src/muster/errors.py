"""Every error that Muster raises on purpose. Knows nothing of who shows it.

    MusterError                 status 500, exit 1
    ├── InvalidRequest          400, exit 2   something the caller wrote is wrong
    │   ├── ContextTooLong      400
    │   ├── UnknownModel        404
    │   └── Unsupported         400           asked for something that Muster does not do
    ├── NotAllowed              401, exit 3   no key, wrong key, revoked key
    │   └── Banned              401           a machine that the pool's operator put out
    ├── LimitReached            429, exit 4   a key's requests or tokens are used up; the queue is full
    ├── PoolUnavailable         503, exit 5   no pipeline can serve now
    │   └── DoesNotFit          503           the model needs more memory than the pool has
    ├── TicketInvalid           401, exit 3   mangled, foreign or expired ticket
    ├── ProtocolViolation       400, exit 6   a peer sent what the protocol forbids
    │   ├── MalformedFrame
    │   ├── FrameTooLarge
    │   ├── VersionMismatch
    │   └── OutOfStep                         two ends of a link remember different things
    ├── LinkDown                503, exit 5   the connection to a peer is gone
    ├── WeightsInvalid          500, exit 7   missing tensor, wrong shape, truncated or unreadable file
    ├── UnsupportedModel        501, exit 7   this architecture fails the conformance check
    ├── TrainingDiverged        500, exit 9   a loss or gradient that is not a number
    └── MachineTrouble          500, exit 8   disk full, port taken, no such device
        └── StepFailed          500           weights or cache could not be read in mid-step; the next step may go well

A message is one sentence that says what is wrong, followed by the remedy.
"""


class MusterError(Exception):
    """`str(error)` is for a person: what is wrong and what to do about it."""

    status = 500
    exit_code = 1
    code = "internal_error"


class InvalidRequest(MusterError):
    status = 400
    exit_code = 2
    code = "invalid_request"

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class UnknownModel(InvalidRequest):
    status = 404
    code = "model_not_found"


class Unsupported(InvalidRequest):
    code = "unsupported"


class NotAllowed(MusterError):
    status = 401
    exit_code = 3
    code = "invalid_api_key"


class Banned(NotAllowed):
    code = "banned"


class LimitReached(MusterError):
    status = 429
    exit_code = 4
    code = "rate_limit_exceeded"


class PoolUnavailable(MusterError):
    status = 503
    exit_code = 5
    code = "pool_unavailable"


class DoesNotFit(PoolUnavailable):
    code = "model_does_not_fit"


class TicketInvalid(MusterError):
    status = 401
    exit_code = 3
    code = "invalid_ticket"


class ProtocolViolation(MusterError):
    status = 400
    exit_code = 6
    code = "protocol_violation"


class MalformedFrame(ProtocolViolation):
    code = "malformed_frame"


class FrameTooLarge(ProtocolViolation):
    code = "frame_too_large"


class VersionMismatch(ProtocolViolation):
    code = "version_mismatch"


class OutOfStep(ProtocolViolation):
    code = "out_of_step"


class LinkDown(MusterError):
    status = 503
    exit_code = 5
    code = "link_down"


class WeightsInvalid(MusterError):
    exit_code = 7
    code = "weights_invalid"


class UnsupportedModel(MusterError):
    status = 501
    exit_code = 7
    code = "unsupported_model"


class MachineTrouble(MusterError):
    exit_code = 8
    code = "machine_trouble"


class StepFailed(MachineTrouble):
    code = "step_failed"


class TrainingDiverged(MusterError):
    exit_code = 9
    code = "training_diverged"


def from_code(code: str, message: str) -> MusterError:
    """The error that a peer named by its code; an unknown code becomes a plain `MusterError`."""
    found = next((kind for kind in _tree(MusterError) if kind.code == code), MusterError)
    return found(message)


def _tree(root: type[MusterError]) -> list[type[MusterError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]
