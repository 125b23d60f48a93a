"""What the records of the planners' benchmarks share: times, the machine, parts that are written as they are done."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, with its seconds by the wall clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
    }


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def record_parts(
    path: Path | None,
    head: Mapping[str, str],
    parts: Sequence[str],
    run: Callable[[str], Any],
    about: Mapping[str, str],
) -> dict[str, Any]:
    """Run `parts` and keep each in the file at once; parts that are already there stay. The whole record."""
    record: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    record |= head
    for part in parts:
        before = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "load_before": [round(load, 1) for load in os.getloadavg()],
            **about,
        }
        record[part] = {"about": before, "result": run(part)}
        if path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    return record
