"""Receipts of a request held against the numbers of its model: at which boundary what was signed first is no rounding.

From the tokens on everything is computed again, so the first stage whose output is out of its limits is to blame; what
stages behind it got was wrong already.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from muster.errors import InvalidRequest
from muster.node.audit.kept import ModelLimits
from muster.serve.penalties import needs_history
from muster.serve.redraw import Redrawn, redraw
from muster.spec.pool import NodeId
from muster.spec.receipt import ReceiptBlock
from muster.spec.sampling import Sampling
from muster.verify.fingerprint import drift, key_of, opened, places
from muster.verify.judging import Verdict, judge
from muster.verify.receipts import RequestReceipts

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NumbersFinding:
    """Of one boundary."""

    epoch: int
    layer: int
    sender: NodeId
    verdict: Verdict


def drift_of(
    blocks: Iterable[ReceiptBlock], name: str, layer: int, truth_TH: Tensor, first: int, dtype: str
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Positions of the blocks and how far each is off; `truth_TH` are rows from position `first` on."""
    positions, values = [], b""
    for block in blocks:
        if first <= block.start and block.end <= first + len(truth_TH):
            positions.append(np.arange(block.start, block.end))
            values += block.values
    if not positions:
        return np.array([], dtype=np.int64), np.array([])
    at = np.concatenate(positions)
    where = places(key_of(name, layer), at, truth_TH.shape[1])
    return at, drift(opened(values, dtype), truth_TH[at - first], where, dtype)


def redrawn(logits_SV: Tensor, tokens: Sequence[int], first: int, sampling: Sampling | None) -> Redrawn | None:
    """Of the tokens behind position `first`; None where more than the logits had a say."""
    if sampling is None or needs_history(sampling) or sampling.logit_bias or sampling.grammar or sampling.min_tokens:
        return None
    chosen = list(tokens[first + 1 : first + 1 + len(logits_SV)])
    return redraw(logits_SV[: len(chosen)].float(), chosen, sampling, first + 1) if chosen else None


def look(
    receipts: RequestReceipts, epoch: int, truths: Iterator[Tensor], limits: ModelLimits, tokens: Sequence[int],
    num_prompt: int, sampling: Sampling | None,
) -> Iterator[NumbersFinding]:  # fmt: skip
    """`truths` are what each stage of that placement should have given; logits from the last prompt token on."""
    ring = receipts.rings[epoch]
    for layer, truth in zip(ring.cuts[1:], truths, strict=True):
        if layer not in limits.layers:
            raise InvalidRequest(f"No limits were found for layer {layer}; run `muster calibrate` again.", "model")
        boundary = receipts.boundaries.get((epoch, layer))
        if boundary is None:
            continue
        is_last = layer == ring.cuts[-1]
        first, dtype = (num_prompt - 1, "float32") if is_last else (0, ring.dtype)
        _, drift_T = drift_of(boundary.blocks(), receipts.name.hex(), layer, truth, first, dtype)
        if not len(drift_T):
            continue
        drawn = redrawn(truth, tokens, first, sampling) if is_last else None
        margins, surprise = (None, None) if drawn is None else (drawn.margins_S, drawn.surprise_S)
        verdict = judge(drift_T, limits.layers[layer], margins, surprise)
        yield NumbersFinding(epoch, layer, ring.ends(layer)[0], verdict)
