"""What must hold before a stage that trains is loaded, and before it obeys: sizes become loops and memory."""

from muster.errors import ProtocolViolation
from muster.spec.plan import TrainSettings
from muster.wire.messages.train import BeginRound, TrainTexts

MAX_TEXT_TOKENS = 2**20
MAX_TEXTS = 65_536
MAX_MICROBATCHES = 4096
MAX_RUN_BYTES = 65_536
MAX_PLACES = 4096


def check_settings(work: TrainSettings) -> None:
    """Raises `ProtocolViolation`."""
    _require(1 <= work.microbatch <= MAX_TEXTS, f"{work.microbatch} texts are no microbatch")
    _require(1 <= work.length <= MAX_TEXT_TOKENS, f"{work.length} tokens are no text")
    _require(1 <= work.num_microbatches <= MAX_MICROBATCHES, f"{work.num_microbatches} microbatches are no step")
    _require(work.schedule != "interleaved", "stages of several pieces are not run yet")


def check_round(begin: BeginRound) -> None:
    """Raises `ProtocolViolation`."""
    _require(len(begin.run) <= MAX_RUN_BYTES, "its run is longer than any")
    _require(0 < len(begin.places) <= MAX_PLACES, f"{len(begin.places)} places are no round")
    pipelines = 1 + max(place.pipeline for place in begin.places)
    stages = 1 + max(place.stage for place in begin.places)
    _require(0 <= begin.pipeline < pipelines, "its own pipeline is none of the round's")
    _require(pipelines * stages == len(begin.places), "its pipelines are cut at other places")  # before it is a list
    due = [(pipeline, stage) for pipeline in range(pipelines) for stage in range(stages)]
    _require([(place.pipeline, place.stage) for place in begin.places] == due, "its pipelines are cut at other places")


def check_texts(order: TrainTexts, work: TrainSettings) -> None:
    """Raises `ProtocolViolation` on more than the stage was loaded for."""
    most = MAX_MICROBATCHES if order.score else work.num_microbatches
    _require(0 <= len(order.texts) <= most, f"{len(order.texts)} microbatches come where {most} are room for")
    _require(
        all(1 <= count <= work.microbatch for count in order.texts), "a microbatch is larger than there is room for"
    )
    _require(order.total_tokens > 0 and order.step >= 0 and order.sequence > 0, "it counts below one")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolViolation(f"The head's training makes no sense ({what}); restart the head, or update it.")
