"""What must hold before a stage that serves is loaded: these sizes become loops and memory. Reads, changes nothing."""

from muster.errors import ProtocolViolation
from muster.spec.plan import ServeSettings

MAX_TOKENS = 2**40
"""That all pages hold together."""
MAX_PREFILL_TOKENS = 2**20
MAX_BATCH = 4096
MAX_MICROBATCHES = 4096
MAX_EOS_TOKENS = 4096
MAX_DRAFT_LAYERS = 1024


def check_settings(work: ServeSettings) -> None:
    """Raises `ProtocolViolation`."""
    _require(min(work.num_pages, work.page_size) > 0, "a cache needs pages and pages need tokens")
    _require(work.cache_tokens <= MAX_TOKENS, "so large a cache does not exist")
    _require(0 < work.prefill_tokens <= MAX_PREFILL_TOKENS, f"{work.prefill_tokens} tokens are no step")
    _require(0 <= work.batch <= MAX_BATCH, f"{work.batch} sequences are no step")
    _require(0 <= work.max_microbatches <= MAX_MICROBATCHES, f"{work.max_microbatches} steps cannot be in flight")
    _require(0 <= 2 * work.swap_pages <= work.num_pages, "it swaps through more than half of its pages")
    _require(1 <= work.num_microbatches <= MAX_MICROBATCHES, f"{work.num_microbatches} steps are no ring")
    _require(work.host_tokens <= MAX_TOKENS, "so large a cache does not exist")
    _require(work.draft is None or 0 < work.draft.num_layers <= MAX_DRAFT_LAYERS, "its draft model has no layers")
    _require(len(work.eos_token_ids) <= MAX_EOS_TOKENS, "it has too many tokens that end a sequence")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolViolation(f"The head's placement makes no sense ({what}); restart the head, or update it.")
