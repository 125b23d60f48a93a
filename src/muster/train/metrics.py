"""What a run tells of each step: a line of JSON, kept in a file. Knows no clock."""

import json
from pathlib import Path
from typing import Any


class MetricsFile:
    def __init__(self, path: Path, step: int) -> None:
        """Goes on after `step`; lines of later steps, which are made again, are taken out."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.go_back(step)

    def go_back(self, step: int) -> None:
        """Take out the lines of later steps."""
        kept = [line for line in _lines(self._path) if line["step"] <= step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, **fields: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(fields) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    return _lines(path)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last one of a program that was killed may be none."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found
