"""What can be set on an engine. Few dials: whoever plans a pipeline derives them."""

from dataclasses import dataclass, replace

from muster.cost.memory import SCORED_AT_ONCE
from muster.sim.serve.rounds import MAX_IN_FLIGHT
from muster.spec.plan import ServeSettings


@dataclass(frozen=True, slots=True)
class EngineOptions:
    max_context: int
    """Most tokens of prompt and output together; the model's own limit or less."""
    eos_token_ids: frozenset[int] = frozenset()
    epoch: int = 0
    """The placement that the engine serves; stamped on every step."""
    num_microbatches: int = 1
    """Steps in flight at once, until the first of them have told what stages and links take."""
    max_microbatches: int = MAX_IN_FLIGHT
    """Most that there may come to be."""
    prefill_tokens: int = 512
    """Most prompt tokens in one step. More is faster, fewer lets decodes return sooner."""
    max_batch: int = SCORED_AT_ONCE
    """Most sequences in one microbatch, for which workspace is set aside. As many run at once as all microbatches that
    may be in flight take together, and as pages suffice for."""
    max_queue: int = 4096
    """Most sequences that wait; more are refused."""

    @staticmethod
    def of(settings: ServeSettings, max_context: int, epoch: int) -> "EngineOptions":
        """As the plan has it; what it leaves open is as above. `max_context` is the model's."""
        options = EngineOptions(
            max_context=min(max_context, settings.cache_tokens),
            eos_token_ids=frozenset(settings.eos_token_ids),
            epoch=epoch,
            num_microbatches=settings.num_microbatches,
            max_microbatches=most_in_flight(settings),
            max_batch=settings.batch or SCORED_AT_ONCE,
        )
        if settings.prefill_tokens:
            options = replace(options, prefill_tokens=settings.prefill_tokens)
        return options


def most_in_flight(settings: ServeSettings) -> int:
    """So many steps may wait at a stage, at the most."""
    return max(settings.num_microbatches, settings.max_microbatches or MAX_IN_FLIGHT)
