"""What must hold before a placement is believed. Reads, raises `ProtocolViolation`, changes nothing.

The head is trusted with what is computed here, not with this machine: sizes of this message become loops and memory.
Whether the stage fits in what the owner lends is found out while loading.
"""

from itertools import pairwise

from muster.errors import ProtocolViolation
from muster.wire.messages import Assign

MOST_LAYERS = 1024
MOST_TOKENS = 2**40
"""That all pages hold together."""
MOST_PREFILL_TOKENS = 2**20
MOST_MICROBATCHES = 4096
MOST_EOS_TOKENS = 4096


def check_assign(assign: Assign, node: str) -> None:
    """Raise unless `node` holds the stage at `index` of a whole pipeline of reasonable size."""
    _require(0 <= assign.index < len(assign.stages), f"stage {assign.index} of {len(assign.stages)} does not exist")
    _require(assign.stages[assign.index].node == node, f"stage {assign.index} is not this node's")
    _check_stages(assign)
    _require(assign.epoch > 0, f"{assign.epoch} is no epoch")
    _require(min(assign.num_pages, assign.page_size) > 0, "a cache needs pages and pages need tokens")
    _require(assign.num_pages * assign.page_size <= MOST_TOKENS, "so large a cache does not exist")
    _require(0 < assign.prefill_tokens <= MOST_PREFILL_TOKENS, f"{assign.prefill_tokens} tokens are no step")
    _require(0 < assign.num_microbatches <= MOST_MICROBATCHES, f"{assign.num_microbatches} steps cannot be in flight")
    _require(len(assign.eos_token_ids) <= MOST_EOS_TOKENS, "it has too many tokens that end a sequence")


def _check_stages(assign: Assign) -> None:
    stages = assign.stages
    _require(len({stage.node for stage in stages}) == len(stages), "a node holds two stages")
    _require(all(stage.first < stage.last for stage in stages), "a stage has no layers")
    _require(all(stage.devices == (0,) for stage in stages), "a stage is split over devices, which nodes cannot yet")
    whole = stages[0].first == 0 and all(one.last == other.first for one, other in pairwise(stages))
    _require(whole, "its stages leave layers out or hold them twice")
    _require(stages[-1].last <= MOST_LAYERS, f"it has {stages[-1].last} layers where {MOST_LAYERS} are allowed")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolViolation(f"The head's placement makes no sense ({what}); restart the head, or update it.")
