"""The rates of this machine's tiers, measured as a stage that offloads uses them (`spec/tiers`). Knows no model.

Multiplications by several numbers of rows, with weights larger than the processor's cache; memory read by a product
with one row; attention over a cache; the disk through the same direct reads as weights take, several requests in
flight; and both at once, from which follows how much of the disk hides behind computing:

    share hidden = (computing + reading - both at once) / the lesser of the two
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from muster.errors import MachineTrouble
from muster.offload.direct import BLOCK, DirectFile, DirectReader, aligned_buffer
from muster.spec.tiers import TierRates

ROWS = (1, 4, 16, 64, 256, 1024)
WIDTH = 2048
_MATRICES = 6
"""Each is used in turn, so that none is in a cache when it is wanted."""
_FILE_BYTES = 128 * 2**20
_BLOCK_BYTES = 4 * 2**20
_RUNS = 3


def measure_tiers(device: torch.device, dtype: torch.dtype, folder: Path, file_bytes: int = _FILE_BYTES) -> TierRates:
    """In some seconds, with `file_bytes` of disk for as long. Raises `MachineTrouble` where `folder` takes no file."""
    path, write = _written(folder, file_bytes)
    reader = DirectReader()
    try:
        weights = [torch.randn(WIDTH, WIDTH).to(dtype).to(device) for _ in range(_MATRICES)]
        matmul = tuple((rows, _flops_per_s(weights, rows)) for rows in ROWS)
        to_device, from_device = _copies(device)
        read, hidden = _read_bytes_per_s(reader, path, file_bytes, weights)
    finally:
        reader.close()
        path.unlink(missing_ok=True)
    # A product with one row reads every weight once and computes next to nothing.
    reads = matmul[0][1] / 2 * weights[0].element_size()
    return TierRates(
        device_bytes_per_s=reads,
        to_device_bytes_per_s=to_device,
        from_device_bytes_per_s=from_device,
        disk_read_bytes_per_s=read,
        disk_write_bytes_per_s=write,
        host_attention_bytes_per_s=_attention_bytes_per_s(torch.device("cpu"), dtype),
        device_attention_bytes_per_s=_attention_bytes_per_s(device, dtype),
        matmul_flops_per_s=matmul,
        dtype=str(dtype).removeprefix("torch."),
        disk_overlap=hidden,
        attention_overlap=0.0 if device.type == "cpu" else 1.0,
        measured_on=f"{os.cpu_count()} processors, {torch.get_num_threads()} threads",
    )


def _seconds(work: Callable[[], object], runs: int = _RUNS) -> float:
    """The median: a forecast is of what usually comes."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


def _all(weights: list[Tensor], x: Tensor) -> None:
    for weight in weights:
        x @ weight.T
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _flops_per_s(weights: list[Tensor], rows: int) -> float:
    x = torch.randn(rows, WIDTH).to(weights[0].dtype).to(weights[0].device)
    return 2 * rows * WIDTH**2 * len(weights) / _seconds(lambda: _all(weights, x))


def _attention_bytes_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Keys and values of four times 1024 tokens, 8 heads of 128, for one token of 32 heads each."""
    query = torch.randn(4, 32, 1, 128).to(dtype).to(device)
    keys, values = (torch.randn(4, 8, 1024, 128).to(dtype).to(device) for _ in range(2))

    def attend() -> None:
        torch.nn.functional.scaled_dot_product_attention(query, keys, values, enable_gqa=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return (keys.nbytes + values.nbytes) / _seconds(attend)


def _copies(device: torch.device) -> tuple[float, float]:
    """Both directions; nothing where the device is the host's processor, which uses host memory where it lies."""
    if device.type != "cuda":
        return 0.0, 0.0
    here = torch.empty(_BLOCK_BYTES * 16, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(_BLOCK_BYTES * 16, dtype=torch.uint8, device=device)

    def copied(target: Tensor, source: Tensor) -> None:
        target.copy_(source)
        torch.cuda.synchronize(device)

    up, down = _seconds(lambda: copied(there, here)), _seconds(lambda: copied(here, there))
    return here.nbytes / up, here.nbytes / down


def _written(folder: Path, nbytes: int) -> tuple[Path, float]:
    """A file of so many bytes, and bytes per second until it is on the disk."""
    started = time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="muster-measure-", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            _fill(file.write, nbytes)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = f"Cannot write {nbytes / 1e6:.0f} MB to {folder} ({error.strerror}); free space or choose another."
        raise MachineTrouble(reason) from error
    return Path(name), nbytes / (time.perf_counter() - started)


def _fill(write: Callable[[bytes], object], nbytes: int) -> None:
    block = os.urandom(_BLOCK_BYTES)
    for _ in range(0, nbytes, _BLOCK_BYTES):
        write(block)


def _read_bytes_per_s(reader: DirectReader, path: Path, nbytes: int, weights: list[Tensor]) -> tuple[float, float]:
    """Bytes per second, and the share of the lesser that hides where the same is read while weights are multiplied."""
    file, whole = DirectFile(path), nbytes - nbytes % BLOCK
    target = aligned_buffer(whole)

    def begin() -> Callable[[], None]:
        return reader.read([(file, 0, whole, target)]).wait

    reading_s = _seconds(lambda: begin()())
    x = torch.randn(64, WIDTH).to(weights[0].dtype).to(weights[0].device)
    once_s = _seconds(lambda: _all(weights, x))
    times = max(1, round(reading_s / once_s))

    def both() -> None:
        wait = begin()
        for _ in range(times):
            _all(weights, x)
        wait()

    computing_s = times * once_s
    hidden = (computing_s + reading_s - _seconds(both)) / min(computing_s, reading_s)
    return whole / reading_s, min(1.0, max(0.0, hidden))
