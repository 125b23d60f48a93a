"""How far one rounding takes a number, by dtype; and the standard bound for sums in any order. Pure numbers.

Sources: IEEE 754-2019; N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, lemma 3.1 and section
4.2: a sum of n terms in any order and grouping, with or without fused multiply-add, is off by at most
gamma_n = n u / (1 - n u) times the sum of the absolute terms.
"""

import torch

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11,
        torch.complex64: 2.0**-24, torch.complex128: 2.0**-53}  # fmt: skip
"""Largest relative error of one rounding to nearest."""
SMALLEST = {torch.float64: 2.0**-1022, torch.float32: 2.0**-126, torch.bfloat16: 2.0**-126, torch.float16: 2.0**-24,
            torch.complex64: 2.0**-126, torch.complex128: 2.0**-1022}  # fmt: skip
"""What is smaller may be flushed to zero; float16's subnormal numbers never are."""
WIDER = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
         torch.complex64: torch.complex128}  # fmt: skip


def working_unit(dtype: torch.dtype) -> float:
    """Of what an operator computes in before it rounds its result to `dtype`: float32 for all halves."""
    return 2.0**-52 if dtype in (torch.float64, torch.complex128) else 2.0**-24


def gamma(terms: int, unit: float) -> float:
    """Higham's gamma_n, in units of `unit`: multiply by it again."""
    share = terms * unit
    return terms / (1.0 - share) if share < 0.5 else float("inf")
