"""What the records of benchmarks share: times, the machine, parts that are written as they are done, and claims."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.register import claims

Claimed = Callable[[Any], dict[str, float]]
"""Figures by the id of their claim, from a result."""


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, with its seconds by the wall clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
    }


def machine(accelerator: str = "") -> str:
    """`accelerator`: the name of the device, where the benchmark ran on one."""
    cores = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{accelerator}, {cores}" if accelerator else cores


def percent(share: float) -> float:
    """Without digits that floating-point numbers add."""
    return round(100 * share, 4)


def record_parts(
    path: Path | None,
    head: Mapping[str, str],
    parts: Sequence[str],
    run: Callable[[str], Any],
    about: Mapping[str, str],
    claimed: Mapping[str, Claimed],
) -> dict[str, Any]:
    """Run `parts` and keep each in the file at once, with its claims; parts that are already there stay. The whole
    record."""
    record: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    record |= head
    for part in parts:
        before = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "load_before": [round(load, 1) for load in os.getloadavg()],
            **about,
        }
        result = run(part)
        record[part] = {"about": before, "result": result}
        found = claims(claimed[part](result), machine(), before["date"]) if part in claimed else []
        tried = {one["id"] for one in found}
        record["claims"] = [one for one in record.get("claims", []) if one["id"] not in tried] + found
        if path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    return record
