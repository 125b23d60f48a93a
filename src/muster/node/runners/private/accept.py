"""What must hold before roles of a private session are taken: sizes become loops and memory."""

from muster.errors import ProtocolViolation
from muster.spec.plan import PrivateSettings

MAX_ROLES = 4096
MAX_TEXT_TOKENS = 2**20
MAX_CACHE_TOKENS = 64 * MAX_TEXT_TOKENS


def check_settings(work: PrivateSettings) -> None:
    """Raises `ProtocolViolation`."""
    _require(min(work.cluster, work.comp_nodes, work.shards) >= 1, "its rule of sharding has a size below one")
    _require(max(work.comp_nodes, work.shards) <= MAX_ROLES, "it has more roles than there may be")
    _require(work.comp_nodes + work.shards**2 <= MAX_ROLES, "it has more roles than there may be")
    _require(1 <= work.max_tokens <= MAX_TEXT_TOKENS, f"{work.max_tokens} tokens are no text")
    _require(work.max_tokens <= work.cache_tokens <= MAX_CACHE_TOKENS, f"{work.cache_tokens} tokens are no cache")
    given = sorted(role for mine in work.roles for role in mine)
    _require(given == list(work.rule.roles), "its roles are not shared out one by one")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolViolation(f"The head's private session makes no sense ({what}); restart the head, or update it.")
