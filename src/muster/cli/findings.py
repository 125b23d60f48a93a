"""What `muster doctor` finds, one record per matter. Knows neither the checks nor the terminal."""

from dataclasses import dataclass

OK, UNSURE, FAILED = "ok", "unsure", "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    state: str
    detail: str
    fix: str = ""
