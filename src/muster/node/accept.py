"""What must hold before a placement is believed. Reads, raises `ProtocolViolation`, changes nothing.

The head is trusted with what is computed here, not with this machine: sizes of this message become loops and memory.
Whether the stage fits in what the owner lends is found out while loading.
"""

from itertools import pairwise

from muster.errors import ProtocolViolation
from muster.spec.plan import ON_DEVICE, ServeSettings
from muster.wire.messages.placement import Assign

MAX_LAYERS = 1024
MAX_TOKENS = 2**40
"""That all pages hold together."""
MAX_PREFILL_TOKENS = 2**20
MAX_BATCH = 4096
MAX_MICROBATCHES = 4096
MAX_EOS_TOKENS = 4096


def check_assign(assign: Assign, node: str) -> None:
    """Raise unless `node` holds the stage at `index` of a whole pipeline of reasonable size."""
    _require(0 <= assign.index < len(assign.stages), f"stage {assign.index} of {len(assign.stages)} does not exist")
    _require(assign.stages[assign.index].node == node, f"stage {assign.index} is not this node's")
    _check_stages(assign)
    _require(assign.epoch > 0, f"{assign.epoch} is no epoch")
    work = assign.pipeline.work
    _require(0 < work.num_microbatches <= MAX_MICROBATCHES, f"{work.num_microbatches} microbatches cannot be in flight")
    if isinstance(work, ServeSettings):
        _check_serving(work)


def _check_serving(work: ServeSettings) -> None:
    _require(min(work.num_pages, work.page_size) > 0, "a cache needs pages and pages need tokens")
    _require(work.cache_tokens <= MAX_TOKENS, "so large a cache does not exist")
    _require(0 < work.prefill_tokens <= MAX_PREFILL_TOKENS, f"{work.prefill_tokens} tokens are no step")
    _require(0 <= work.batch <= MAX_BATCH, f"{work.batch} sequences are no step")
    _require(work.swap_pages == 0, "it swaps cache, which nodes cannot yet")
    _require(len(work.eos_token_ids) <= MAX_EOS_TOKENS, "it has too many tokens that end a sequence")


def _check_stages(assign: Assign) -> None:
    stages = assign.stages
    _require(len({stage.node for stage in stages}) == len(stages), "a node holds two stages")
    _require(all(stage.first < stage.last for stage in stages), "a stage has no layers")
    _require(
        all(stage.memory == ON_DEVICE for stage in stages), "a stage is kept outside its device, which nodes cannot yet"
    )
    _require(all(stage.devices == (0,) for stage in stages), "a stage is split over devices, which nodes cannot yet")
    whole = stages[0].first == 0 and all(one.last == other.first for one, other in pairwise(stages))
    _require(whole, "its stages leave layers out or hold them twice")
    _require(stages[-1].last <= MAX_LAYERS, f"it has {stages[-1].last} layers where {MAX_LAYERS} are allowed")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolViolation(f"The head's placement makes no sense ({what}); restart the head, or update it.")
