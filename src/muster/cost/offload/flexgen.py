"""FlexGen's cost model: its equations and its constants, as published and as shipped. Knows no search.

Sheng et al., "FlexGen" (arXiv 2303.06865), appendix A.3, and `experimental/cost_model.py` of its repository at commit
19753bc (Apache-2.0; the equations are restated here, no code is). All sizes are bytes of FP16, of an OPT model.

    s, n  tokens of prompt and answer      l   layers      h1, h2  widths of the hidden state and of the MLP
    gbs   sequences computed at once       bls sequences of a block         nh  heads
    w = 8 h1^2 + 4 h1 h2: weights of a layer       x = (wg wc wd | cg cc cd | hg hc hd): shares on GPU, CPU, disk of
    weights, cache, hidden states

    T = l Tpre + l (n-1) Tgen,  tokens per second = bls n / T

Every term is affine in x, and is kept as its ten coefficients, the last of them the constant.
The two forms differ: the paper takes the plain maximum of five terms, and of a layer's operators the largest workspace;
the shipped code adds the load to the rest (its schedule waits for a load at the first batch), and sums the workspaces.
"""

from dataclasses import dataclass, field
from math import log2
from typing import Literal

import numpy as np
from numpy.typing import NDArray

GIB, TERA = 2.0**30, 1e12
Affine = NDArray[np.float64]
"""(10,): coefficients of x, then a constant."""
Form = Literal["paper", "code"]
WG, WC, WD, CG, CC, CD, HG, HC, HD, ONE = range(10)


@dataclass(frozen=True, slots=True)
class OptSizes:
    """An OPT model and what is asked of it."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    prompt: int = 512
    answer: int = 32

    @property
    def layer_bytes(self) -> float:
        return 8.0 * self.hidden**2 + 4.0 * self.hidden * self.mlp


OPT = {
    "opt-6.7b": OptSizes(32, 4096, 16384, 32),
    "opt-30b": OptSizes(48, 7168, 28672, 56),
    "opt-175b": OptSizes(96, 12288, 49152, 96),
}


@dataclass(frozen=True, slots=True)
class FlexGenMachine:
    """Constants fitted by its authors to a T4 with 208 GB of memory and a disk: bytes and FLOPs per second."""

    gpu_bytes: float = 16 * GIB
    cpu_bytes: float = 200 * GIB
    disk_bytes: float = 1500 * GIB
    usable: float = 0.8
    """Share of each memory that a policy may fill (`alpha`)."""
    to_gpu: float = 12.89 * GIB
    to_cpu_cache: float = 0.97 * GIB
    to_cpu_hidden: float = 4.82 * GIB
    from_disk: float = 0.473 * GIB
    to_disk_cache: float = 0.746 * GIB
    to_disk_hidden: float = 2.015 * GIB
    to_disk_decode: float = 2.015 * GIB
    matmul_prefill: float = 21.24 * TERA
    matmul_decode: float = 4.3 * TERA
    attention_prefill: float = 9.97 * TERA
    attention_decode: float = 0.079 * TERA
    cpu_attention: float = 0.0123 * TERA
    corrections: tuple[float, float, float] = (0.0168, 0.0328, 0.0621)
    """c1, c2, c3 of the rate of attention on the CPU, which falls with small batches and narrow models."""

    def cpu_flops_per_s(self, gbs: int, hidden: int) -> float:
        c1, c2, c3 = self.corrections
        few, narrow = max(0.0, log2(64 / gbs)), max(0.0, log2(4096 / hidden))
        return self.cpu_attention * max(0.1, 1 + c1 * few * narrow - c2 * few - c3 * narrow)


@dataclass(frozen=True, slots=True)
class FlexGenTerms:
    """Seconds of each activity in one layer, and bytes of each memory, all affine in x."""

    prefill: dict[str, Affine]
    """By activity: `to_gpu`, `to_cpu`, `from_disk`, `to_disk`, `compute`."""
    decode: dict[str, Affine]
    peaks: dict[str, tuple[Affine, ...]]
    """By memory: `gpu`, `cpu`, `disk`; none of the expressions may exceed its capacity."""
    form: Form = field(default="code")

    def prefill_parts(self) -> list[Affine]:
        """The time of one layer over all prompts of the block is the largest of these."""
        p = self.prefill
        if self.form == "paper":
            return list(p.values())
        return [p["to_gpu"] + p["from_disk"], p["to_cpu"] + p["to_disk"], p["compute"]]

    def decode_parts(self) -> list[Affine]:
        """Likewise of one layer over one token of each sequence."""
        d = self.decode
        if self.form == "paper":
            return list(d.values())
        return [d["to_gpu"] + d[name] for name in ("to_cpu", "from_disk", "to_disk", "compute")]


def affine(constant: float = 0.0, **shares: float) -> Affine:
    """`affine(3, wg=2)` is 2 wg + 3."""
    names = ("wg", "wc", "wd", "cg", "cc", "cd", "hg", "hc", "hd")
    return np.array([shares.get(name, 0.0) for name in names] + [constant])


def flexgen_terms(sizes: OptSizes, machine: FlexGenMachine, gbs: int, bls: int, form: Form = "code") -> FlexGenTerms:
    """Of a block of `bls` sequences, `gbs` at once."""
    return FlexGenTerms(
        _prefill(sizes, machine, bls), _decode(sizes, machine, gbs, bls), _peaks(sizes, gbs, bls, form), form
    )


def _prefill(sizes: OptSizes, m: FlexGenMachine, bls: int) -> dict[str, Affine]:
    s, h1, h2, w = sizes.prompt, sizes.hidden, sizes.mlp, sizes.layer_bytes
    hidden, cache = 2.0 * s * h1 * bls, 4.0 * (s + 1) * h1 * bls
    up = 1 / m.to_gpu
    compute = bls * (8.0 * s * h1**2 + 4.0 * s * h1 * h2) / m.matmul_prefill
    return {
        "to_gpu": affine(wc=w * up, wd=w * up, hc=hidden * up, hd=hidden * up),
        "to_cpu": affine(
            cc=cache / m.to_cpu_cache,
            cd=cache / m.to_cpu_cache,
            hc=hidden / m.to_cpu_hidden,
            hd=hidden / m.to_cpu_hidden,
        ),
        "from_disk": affine(wd=w / m.from_disk, hd=hidden / m.from_disk),
        "to_disk": affine(cd=cache / m.to_disk_cache, hd=hidden / m.to_disk_hidden),
        "compute": affine(compute + 4.0 * bls * s**2 * h1 / m.attention_prefill),
    }


def _decode(sizes: OptSizes, m: FlexGenMachine, gbs: int, bls: int) -> dict[str, Affine]:
    h1, h2, w = sizes.hidden, sizes.mlp, sizes.layer_bytes
    hidden, context = 2.0 * h1 * bls, sizes.prompt + sizes.answer / 2
    up = 1 / m.to_gpu
    cached = 4.0 * bls * context * h1
    """Bytes of cache, and by chance also FLOPs of attention."""
    on_cpu = cached / m.cpu_flops_per_s(gbs, h1)
    return {
        "to_gpu": affine(wc=w * up, wd=w * up, hc=hidden * up, hd=hidden * up),
        "to_cpu": affine(hc=hidden / m.to_cpu_hidden, hd=hidden / m.to_cpu_hidden),
        "from_disk": affine(cd=cached / m.from_disk, hd=hidden / m.from_disk, wd=w / (0.95 * m.from_disk)),
        "to_disk": affine(cd=4.0 * bls * h1 / m.to_disk_decode, hd=hidden / m.to_disk_decode),
        "compute": affine(
            bls * (8.0 * h1**2 + 4.0 * h1 * h2) / m.matmul_decode,
            cg=cached / m.attention_decode,
            cc=on_cpu,
            cd=on_cpu,
        ),
    }


def _peaks(sizes: OptSizes, gbs: int, bls: int, form: Form) -> dict[str, tuple[Affine, ...]]:
    s, n, h1, w = sizes.prompt, sizes.answer, sizes.hidden, sizes.layer_bytes
    whole = w * sizes.layers
    cache = 4.0 * (s + n) * h1 * bls * sizes.layers
    buffers = affine(2 * w, wg=-2 * w)

    def rest_of(tokens: int) -> Affine:
        """Hidden states of one batch that are not at home on the GPU."""
        return affine(2.0 * tokens * h1 * gbs, hg=-2.0 * tokens * h1 * gbs)

    gpu_prefill = affine(wg=whole, hg=2.0 * s * h1 * bls, cg=cache) + buffers + rest_of(s)
    gpu_decode = affine(wg=whole, hg=2.0 * h1 * bls, cg=cache) + buffers + rest_of(1)
    gpu_decode = gpu_decode + affine(cg=4.0 * gbs * (s + n) * h1)
    beside = affine(w, wg=-w) + rest_of(s)
    cpu_prefill = affine(wc=whole, hc=2.0 * s * h1 * bls, cc=4.0 * s * h1 * bls * sizes.layers) + beside
    cpu_decode = affine(
        2.0 * sizes.heads * (s + n) * gbs + 2.0 * h1 * gbs,
        wc=whole,
        hc=2.0 * h1 * bls,
        cc=cache,
        wd=w,
        hd=4.0 * h1 * gbs,
        cd=8.0 * (s + n) * h1 * gbs,
    )
    return {
        "gpu": (
            *(gpu_prefill + inter for inter in _workspaces(_prefill_operators(sizes, gbs, form), form)),
            *(gpu_decode + inter for inter in _workspaces(_decode_operators(sizes, gbs, form), form)),
        ),
        "cpu": (cpu_prefill, cpu_decode),
        "disk": (affine(wd=whole, hd=2.0 * s * h1 * bls, cd=cache),),
    }


def _workspaces(operators: list[Affine], form: Form) -> list[Affine]:
    return operators if form == "paper" else [np.sum(operators, axis=0)]


def _prefill_operators(sizes: OptSizes, gbs: int, form: Form) -> list[Affine]:
    """Queries, keys and values; scores; what they weigh; the output; and both multiplications of the MLP."""
    s, h1, h2, nh = sizes.prompt, sizes.hidden, sizes.mlp, sizes.heads
    hidden, scores, wide = 2.0 * gbs * s * h1, 2.0 * gbs * nh * s**2, 2.0 * gbs * s * h2
    if form == "paper":
        amounts = [4 * hidden, 2 * hidden + scores, 2 * hidden + scores, 2 * hidden, hidden + wide, hidden + wide]
    else:
        amounts = [4 * hidden, hidden + scores, hidden, 2 * hidden, wide, hidden]
    return [affine(amount) for amount in amounts]


def _decode_operators(sizes: OptSizes, gbs: int, form: Form) -> list[Affine]:
    seen, h1, h2, nh = sizes.prompt + sizes.answer, sizes.hidden, sizes.mlp, sizes.heads
    hidden, keys, scores, wide = 2.0 * gbs * h1, 2.0 * gbs * seen * h1, 2.0 * gbs * nh * seen, 2.0 * gbs * h2
    first = affine(cg=hidden + keys + scores)
    if form == "paper":
        rest = [affine(2 * hidden), affine(hidden + wide), affine(hidden + wide)]
        return [affine(4 * hidden), first, first, *rest]
    rest = [affine(2 * hidden), affine(wide), affine(hidden)]
    return [affine(4 * hidden), first, affine(cg=keys + hidden), *rest]
