"""What must hold before a placement is believed. Reads, raises `ProtocolViolation`, changes nothing.

The head is trusted with what is computed here, not with this machine: sizes of this message become loops and memory.
What only one kind of work has is checked by its kind, in `runners`. Whether the stage fits in what the owner lends is
found out while loading.
"""

from muster.errors import ProtocolViolation
from muster.spec.plan import MemoryPolicy
from muster.wire.messages.placement import Assign

MAX_LAYERS = 1024
MAX_MICROBATCHES = 4096
MAX_DEGREE = 8
MAX_BLOCK = 2**20
MAX_PROMISED_BYTES = 2**50


def check_assign(assign: Assign, node: str) -> None:
    """Raise unless `node` holds the stage at `index` of a whole pipeline of reasonable size."""
    _require(0 <= assign.index < len(assign.stages), f"stage {assign.index} of {len(assign.stages)} does not exist")
    _require(node in assign.stages[assign.index].members, f"stage {assign.index} is not this node's")
    _check_stages(assign)
    _require(assign.epoch > 0, f"{assign.epoch} is no epoch")
    steps = assign.pipeline.work.num_microbatches
    _require(0 < steps <= MAX_MICROBATCHES, f"{steps} microbatches cannot be in flight")


def _check_memory(memory: MemoryPolicy) -> None:
    _require(memory.broken_share(1e-6) is None, "it keeps a stage in shares that make no whole")
    counts = memory.microbatch, memory.num_microbatches, memory.prompt_tokens
    _require(all(0 <= count <= MAX_BLOCK for count in counts), "a block has more sequences than there can be")
    promised = memory.device_bytes, memory.host_bytes
    _require(all(0 <= nbytes <= MAX_PROMISED_BYTES for nbytes in promised), "it promises memory that no machine has")


def _check_stages(assign: Assign) -> None:
    stages = assign.stages
    members = assign.pipeline.members()
    _require(len(set(members)) == len(members), "a node holds two stages")
    _require(all(stage.degree <= MAX_DEGREE for stage in stages), f"a stage has more than {MAX_DEGREE} members")
    _require(all(stage.first < stage.last for stage in stages), "a stage has no layers")
    for stage in stages:
        _check_memory(stage.memory)
    one_each = all(stage.devices == (0,) for stage in stages)
    _require(one_each, "a stage is on several devices of one process, and each process lends one")
    _require(assign.pipeline.covers_layers_once, "its stages leave layers out or hold them twice")
    _require(stages[-1].last <= MAX_LAYERS, f"it has {stages[-1].last} layers where {MAX_LAYERS} are allowed")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolViolation(f"The head's placement makes no sense ({what}); restart the head, or update it.")
