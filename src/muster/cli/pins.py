"""`--pin ada=0-19` and `--plan FILE`: read. What they mean for a model is checked in `head/pins`. Knows no machines."""

import re
from pathlib import Path

from muster.cli.plan_inputs import read_text
from muster.errors import InvalidRequest
from muster.head.pins import SavedPlan
from muster.plan.serve.options import Pin
from muster.spec.plan_file import parse_plan_file

_PIN = re.compile(r"(.+)=(\d{1,9})(?:\s*[-–]\s*(\d{1,9}))?")


def read_pin(word: str) -> Pin:
    """Raises `InvalidRequest` on a word that is no pin."""
    match = _PIN.fullmatch(word.strip())
    if not match:
        raise InvalidRequest(f"--pin {word} cannot be read; write it like ada=0-19, layers counted from 0.", "pin")
    name, first, last = match[1].strip(), int(match[2]), int(match[3] or match[2])
    if first > last:
        raise InvalidRequest(f"--pin {word} begins behind its end; write it like {name}={last}-{first}.", "pin")
    return Pin(name, first, last + 1)


def read_saved_plan(path: Path) -> SavedPlan:
    """Raises `InvalidRequest` on a file that is no plan."""
    return SavedPlan(str(path), parse_plan_file(read_text(path, "plan"), str(path)))
