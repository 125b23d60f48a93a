"""Codecs of few bits: what they lose and send of the values that a published table has, and how fast they are.

    python benchmarks/compression.py [--rounds N] [--json FILE]

Errors: |x - decoded| / |x| of 1,024 x 1,600 Gaussian values (NumPy's RandomState(0); one sample of GPT2-XL's hidden
states has this size), beside what AQ-SGD's own quantizer (github.com/DS3Lab/AC-SGD at 95a0f2e, its default: a scale
for each channel, rounded to the nearest) and a plain quantizer of 32-value groups lose of them. Payloads: float32 bytes
over all bytes that are sent, scales included.

Speed: GB of float32 a second, encoded and decoded on one core, beside a copy of the same memory, in turns; medians.
`packing` is packing alone, of the numbers that are packed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import machine
from benchmarks.register import claims
from muster.compress.packing import pack, unpack
from muster.compress.registry import make_coder
from muster.spec.codec import Codec

PUBLISHED = {
    "channel": {2: 0.504, 3: 0.250, 4: 0.125, 6: 0.0312, 8: 0.0078},
    "group": {2: 0.393, 3: 0.168, 4: 0.078, 6: 0.0186, 8: 0.0046},
}
"""Relative errors."""
OTHERS = (
    *(f"{share}-{bits}-stochastic" for share in ("channel", "token", "group") for bits in (2, 3, 4, 6, 8)),
    *(f"token-{bits}" for bits in (2, 3, 4, 6, 8)),
    *("int8", "int4", "tile-4", "top-k-1/10", "top-k-1/100", "random-k-1/10", "chunk-top-k-1/64", "rank-16"),
)
TIMED = ("int8", "int4", "channel-4", "channel-2", "group-4", "group-4-stochastic", "tile-4", "top-k-1/10")
MOST = 2**30


def values() -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).randn(1024, 1600).astype(np.float32))


def errors() -> dict[str, dict[str, float]]:
    x = values()
    published = [f"{share}-{bits}" for share, rows in PUBLISHED.items() for bits in rows]
    found = {}
    for name in (*published, *OTHERS):
        coder = make_coder(Codec(name))
        header, payload = coder.encode(x)
        lost = float((coder.decode(header, payload, MOST) - x).norm() / x.norm())
        found[name] = {"error": lost, "bytes": len(payload), "times_below_float32": x.nbytes / len(payload)}
    return found


def furthest(found: dict[str, dict[str, float]]) -> float:
    """Percent: the row that is furthest from the published one."""
    return max(
        100 * abs(found[f"{share}-{bits}"]["error"] / expected - 1)
        for share, rows in PUBLISHED.items()
        for bits, expected in rows.items()
    )


def speeds(rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    x = values()
    target = torch.empty_like(x)
    works: dict[str, tuple[Callable[[], Any], int]] = {"copy": (lambda: target.copy_(x), x.nbytes)}
    for name in TIMED:
        coder = make_coder(Codec(name))
        header, payload = coder.encode(x)
        works[f"{name} encode"] = (lambda coder=coder: coder.encode(x), x.nbytes)
        works[f"{name} decode"] = (lambda c=coder, h=header, p=payload: c.decode(h, p, MOST), x.nbytes)
    for bits in (2, 3, 4):
        numbers = torch.randint(0, 2**bits, x.shape, dtype=torch.uint8)
        packed = pack(numbers, bits)
        works[f"packing {bits}"] = (lambda n=numbers, b=bits: pack(n, b), numbers.nbytes)
        works[f"unpacking {bits}"] = (lambda p=packed, b=bits: unpack(p, b, 1600), numbers.nbytes)
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, nbytes) in works.items():
            started = time.perf_counter()
            work()
            taken[name].append(nbytes / (time.perf_counter() - started) / 1e9)
    return {name: round(statistics.median(all_), 3) for name, all_ in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = errors()
    for name, row in found.items():
        print(f"{name:22} error {row['error']:.4f}   {row['times_below_float32']:6.2f}x below float32")
    off = furthest(found)
    print(f"furthest from the published table: {off:.2f} %")
    fast = speeds(arguments.rounds)
    for name, gigabytes in fast.items():
        print(f"{name:28} {gigabytes:7.3f} GB/s")
    if arguments.json is not None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        figures = {
            "train.2.errors": off,
            "train.2.four-bits": found["channel-4"]["times_below_float32"],
            "train.2.two-bits": found["channel-2"]["times_below_float32"],
        }
        record = {"date": date, "machine": machine(), "codecs": found, "gigabytes_per_s": fast}
        record["claims"] = claims(figures, machine(), date)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
