"""Runs the calls of one client's program and says of each how it went, one JSON line each. Knows no client.

A program is a script with functions named `can_...`; each makes real calls and raises where an answer is not what the
client is used for. It runs in an environment of its own, without Muster, so it finds the pool in its environment.
"""

import asyncio
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

URL = os.environ["MUSTER_URL"]
"""With /v1 at its end."""
ROOT = URL.removesuffix("/v1")
MODEL = os.environ["MUSTER_MODEL"]
KEY = os.environ.get("MUSTER_KEY", "unused")
PROMPT = "def read_text(path):\n    "
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
"""A form that even a model that follows no instructions fills in, because it can say nothing else."""


def run_calls(names: Mapping[str, Any]) -> None:
    """Run every `can_...` of a module; ends the process with 1 where one failed."""
    wanted = sys.argv[1:]
    calls = [(name, call) for name, call in names.items() if name.startswith("can_") and (name in wanted or not wanted)]
    sys.exit(0 if all([_run(name, call) for name, call in calls]) else 1)  # noqa: C419 - all of them run


def _run(name: str, call: Any) -> bool:
    began_s, error = time.monotonic(), ""
    try:
        result = call()
        if inspect.isawaitable(result):
            asyncio.run(_wait(result))
    except BaseException as caught:
        traceback.print_exc()
        error = f"{type(caught).__name__}: {caught}"[:500] or type(caught).__name__
    print(json.dumps({"call": name, "error": error, "seconds": round(time.monotonic() - began_s, 2)}), flush=True)
    return not error


async def _wait(result: Any) -> None:
    await result
