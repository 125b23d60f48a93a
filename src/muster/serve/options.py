"""What can be set on an engine. Few dials: whoever plans a pipeline derives them."""

from dataclasses import dataclass, replace

from muster.spec.plan import ServeSettings


@dataclass(frozen=True, slots=True)
class EngineOptions:
    max_context: int
    """Most tokens of prompt and output together; the model's own limit or less."""
    eos_token_ids: frozenset[int] = frozenset()
    epoch: int = 0
    """The placement that the engine serves; stamped on every step."""
    num_microbatches: int = 1
    """Steps in flight at once; one per stage at least, more if links are slow."""
    prefill_tokens: int = 512
    """Most prompt tokens in one step. More is faster, fewer lets decodes return sooner."""
    max_batch: int = 256
    """Most sequences that hold pages at the same time."""
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
        )
        if settings.prefill_tokens:
            options = replace(options, prefill_tokens=settings.prefill_tokens)
        if settings.batch:
            options = replace(options, max_batch=settings.batch * settings.num_microbatches)
        return options
