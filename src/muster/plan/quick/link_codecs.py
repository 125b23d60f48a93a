"""Which codec each link of a ring that serves carries. Knows no placement.

A link that is slower with raw values than the slowest stage gets the mildest codec with which it is not, or, where none
is mild enough, the slowest link the strongest and the others the mildest that do not make it worse (`plan/codecs`). The
way back from the last stage carries token ids only and needs none.
"""

from collections.abc import Sequence

from muster.cost.memory import dtype_bytes
from muster.plan.codecs import LinkLoad, least_period
from muster.plan.quick.tables import PlanOptions
from muster.spec.codec import RAW, Codec
from muster.spec.model_shape import ModelShape
from muster.spec.plan import CodedLink, Stage
from muster.spec.pool import LinkSpeed


def codecs_of(
    shape: ModelShape, links: Sequence[LinkSpeed], slowest_s: float, options: PlanOptions
) -> tuple[Codec, ...]:
    """Of the links from each stage to the next, which are up.

    `slowest_s` is the time of the slowest stage in the decode step that `options` names.
    """
    if not links or options.codecs == (RAW,):
        return (RAW,) * len(links)
    values, raw_bits = options.batch * shape.hidden_size, 8 * dtype_bytes(shape.dtype)
    loads = [LinkLoad(values, raw_bits, link.bandwidth_bytes_per_s) for link in links]
    return least_period(loads, useful(options.codecs, raw_bits), slowest_s).codecs


def useful(codecs: Sequence[Codec], raw_bits: float) -> tuple[Codec, ...]:
    """Where raw values may be sent as well, without those that send no less."""
    return tuple(codec for codec in codecs if codec.bits_per_value < raw_bits) if RAW in codecs else tuple(codecs)


def coded(stages: Sequence[Stage], codecs: Sequence[Codec]) -> tuple[CodedLink, ...]:
    """What a pipeline says of links that do not carry raw values."""
    hops = zip(stages, stages[1:], codecs, strict=False)
    return tuple(CodedLink(source.node, target.node, codec) for source, target, codec in hops if codec != RAW)
