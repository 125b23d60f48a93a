"""A dispute that ended at a linear operator, with the weights that it was about."""

import torch
from torch import Tensor

from muster.verify.disputes.program import HeldTensor, Made, TracedOperator, Value
from muster.verify.disputes.statements import Body, LastStep, SignedBody, TensorBytes, sign
from muster.verify.disputes.tensors import digest, dtype_name, raw
from tests.verify.disputes.toys import ACCUSED, DISPUTE, chain, opening

NAME = "model.layers.1.mlp.up_proj.weight"
TOKENS, INNER, OUTER = 3, 16, 12


def weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(OUTER, INNER, generator=torch.Generator().manual_seed(seed)) / INNER**0.5).to(dtype)


def sent(tensor: Tensor) -> TensorBytes:
    return TensorBytes(dtype_name(tensor), tuple(tensor.shape), raw(tensor))


def dispute(w: Tensor, lie: float = 0.0, x: Tensor | None = None) -> tuple[SignedBody, ...]:
    """The accused claims the product, with `lie` added to number 7 of token 1. Only what a proof needs is said."""
    if x is None:
        x = torch.randn(TOKENS, INNER, generator=torch.Generator().manual_seed(9)).to(w.dtype)
    y = x @ w.T
    y[1, 7] += lie
    made = Made(7, dtype_name(y), tuple(y.shape))
    operator = TracedOperator("aten.linear.default", (Value(6), HeldTensor(NAME, digest(w))), (), (made,))
    begun = opening(chain(1, 1), bytes(32))
    last = LastStep(
        operator=operator,
        operator_proof=(),
        before=((6, digest(x)),),
        before_proof=(),
        after=((7, digest(y)),),
        after_proof=(),
        inputs=(digest(x),),
        outputs=(digest(y),),
    )
    body = Body(dispute=DISPUTE, number=1, previous=begun.digest(), said=last)
    return begun, sign(ACCUSED, body, [sent(x), sent(y)])
