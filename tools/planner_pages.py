"""Generated parts of docs/planner.md: what `muster plan` really prints, and the keys of its JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
POOL = "docs/friends.toml"

KEYS = {
    "muster_plan": "format of the file, 1",
    "objective": "what was asked for",
    "seed": "of the search",
    "model": "sizes of the model, layer by layer, in the dtype that it is served in",
    "workload": "requests (lengths, rate, deadline) or the training step",
    "pool": "the pool, as the text of a pool file",
    "plan": "pipelines of stages: node, layers `first` up to but without `last`, devices; pages, batches, codecs",
    "forecast": "what the plan will do; see below",
    "cost": "of the machines in use: `dollars_per_hour`, `dollars_per_million_tokens`, `watts`, `tokens_per_joule`",
    "search": "`score` on the objective, the `bound` that no plan beats, the `gap` between, `evaluations`, `finished`",
    "beyond_runtime": "what of the plan no pool runs yet; empty if a pool can run it",
    "seconds": "that planning took",
    "explain": "with `--explain`: `rejected`, `one_more`, `break_even`",
}
DTFM_KEYS = {
    "cost_s": "communication in a step by DT-FM's equations, the sum of the next two",
    "data_parallel_s": "exchange of gradients (eq. 2)",
    "pipeline_s": "along the pipeline (eqs. 3 and 4)",
    "placement": "names of machines, one row for each pipeline, in the order of stages",
    "job": "replicas, stages, and the bytes that the equations take",
}
FORECAST = {
    "tokens_per_s": "generated, all pipelines together",
    "capacity_tokens_per_s": "what it could be if requests enough came",
    "time_to_first_token_s": "from a request's arrival",
    "seconds_per_token": "between two tokens of one request",
    "request_s": "from arrival to the last token",
    "attainment": "share of requests within the deadline; null without one",
    "stages": "of each stage: seconds of a step, share of the time busy, bytes by kind, cap and headroom",
    "links": "of each link in use: bytes per second and share of its bandwidth",
    "bottleneck": "one sentence",
}


def pool_file() -> str:
    return f"```toml\n{(ROOT / POOL).read_text(encoding='utf-8').strip()}\n```"


def said(*words: str) -> str:
    """What `muster` prints for `words`, on a screen of 100 columns."""
    text = "\n".join(line.rstrip() for line in _run(*words).splitlines())
    return f"```text\n$ muster {' '.join(words)}\n{text.strip()}\n```"


def simulated(*words: str) -> str:
    """What `muster simulate` prints for the example's plan."""
    return said("simulate", "llama-2-13b", "--pool", POOL, *words)


def keys() -> str:
    """Tables of what JSON says. Raises if it says anything else."""
    plan = json.loads(_run("plan", "llama-3-8b", "--pool", POOL, "--explain", "--json"))
    dtfm = json.loads(_run("plan", "gpt3-xl", "--pool", "dtfm-1", "--objective", "dtfm", "--json"))
    _agree(plan, KEYS)
    _agree(plan["forecast"], FORECAST)
    _agree(dtfm, {key: says for key, says in {**KEYS, **DTFM_KEYS}.items() if key != "explain"})
    tables = (("key", KEYS), ("in `forecast`, for serving", FORECAST), ("with `--objective dtfm` also", DTFM_KEYS))
    return "\n\n".join(_table(head, rows) for head, rows in tables)


def _agree(record: dict[str, Any], described: dict[str, str]) -> None:
    if set(record) != set(described):
        raise SystemExit(f"docs/planner.md describes other keys: {sorted(set(record) ^ set(described))}")


def _table(head: str, rows: dict[str, str]) -> str:
    return "\n".join([f"| {head} | |", "|---|---|", *(f"| `{key}` | {says} |" for key, says in rows.items())])


def _run(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "muster.cli.main", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise SystemExit(f"muster {' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return done.stdout
