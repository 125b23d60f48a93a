"""A stage of a model that may be trusted to come out right: the conformance check, then the weights.

Apart from `stage`, because the check itself builds stages.
"""

import torch

from muster.model.conformance import check_conformance
from muster.model.parallel.group import Seat
from muster.model.stage import Stage, build_stage
from muster.model.weights import Weights
from muster.spec.few_bits import AS_STORED, FewBits


def load_stage(
    weights: Weights,
    first: int,
    last: int,
    dtype: torch.dtype,
    device: torch.device,
    seat: Seat | None = None,
    few_bits: FewBits = AS_STORED,
) -> Stage:
    """Build layers [first, last) of a model that passes the conformance check, and read only their tensors.

    With a `seat`, only the part of that member of an island.

    Raises `UnsupportedModel` (architecture), `WeightsInvalid` (missing tensor, wrong shape, unreadable file).
    """
    check_conformance(weights.config_json, 1 if seat is None else seat.size)
    return build_stage(weights, first, last, dtype, device, seat, few_bits=few_bits)
