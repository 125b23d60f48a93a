"""Which clients of others can do with a pool what they are used for?

One pool of four stages serves the embedded model `tiny`; every program under `tests/clients/programs` makes real calls
to it, each in an environment of its own with pinned versions (`tests/clients/pins.toml`), outside this checkout. What
`tiny` says means nothing: where a client needs a form or a call, the door holds the model to it. lm-evaluation-harness
scores continuations from a local file, and its log likelihoods are held against those of `transformers`.

An environment that cannot be installed counts as a client that did not run, and is no success.

    python benchmarks/clients.py                         all of them
    python benchmarks/clients.py openai_python ai_sdk    some
    python benchmarks/clients.py --json FILE             and keep the record
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import record_parts
from muster.disk import cache_directory
from muster.model.source import EMBEDDED
from tests.clients.environments import Environment, NotInstalled, environments
from tests.flows.live_pool import LivePool

PROGRAM_S = 900.0
BOOT_S = 600.0
CONTEXTS = [
    "import os\n\n\ndef ",
    "class Queue:\n    def",
    "for name in",
    "def main():\n    parser =",
    "try:\n    import",
    "x",
]
CHOICES = [" read_text(path):", " __init__(self):", " sorted(names):\n        print(name)"]


@dataclass(slots=True)
class Outcome:
    program: str
    not_run: str = ""
    """Why it did not run, if it did not."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""

    @property
    def is_good(self) -> bool:
        return not self.not_run and bool(self.calls) and not any(call["error"] for call in self.calls)


def run_program(environment: Environment, program: str, cache: Path, about: dict[str, str]) -> Outcome:
    outcome = Outcome(program)
    try:
        folder = environment.install(cache)
    except NotInstalled as error:
        outcome.not_run = str(error)
        return outcome
    about = {**os.environ, **about, "MUSTER_PACKAGES": str(folder)}
    about.pop("PYTHONPATH", None)
    command = environment.command(folder, program)
    try:
        ran = subprocess.run(command, env=about, capture_output=True, text=True, timeout=PROGRAM_S, check=False)
        written, outcome.log = ran.stdout, ran.stderr[-4000:]
    except subprocess.TimeoutExpired as late:
        written = (late.stdout or b"").decode()
        outcome.calls.append({"call": "all", "error": f"not done after {PROGRAM_S:.0f} s", "seconds": PROGRAM_S})
    lines = [line for line in written.splitlines() if line.startswith('{"call"')]
    outcome.calls = [json.loads(line) for line in lines] + outcome.calls
    if not outcome.calls:
        outcome.calls = [{"call": "begin", "error": outcome.log[-400:] or "it said nothing", "seconds": 0}]
    return outcome


def write_task(path: Path) -> None:
    lines = [{"context": context, "choices": CHOICES, "gold": 0} for context in CONTEXTS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@torch.inference_mode()
def expected() -> list[list[tuple[float, bool]]]:
    """The log likelihood of every choice in its context, and whether greedy decoding would say it."""
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED["tiny"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED["tiny"])

    def score(context: str, choice: str) -> tuple[float, bool]:
        # As the harness has it: spaces at the end of the context belong to what is scored.
        whole, known = tokenizer.encode(context + choice), len(tokenizer.encode(context.rstrip()))
        logprobs = model(torch.tensor([whole])).logits[0, known - 1 : -1].log_softmax(-1)
        target = torch.tensor(whole[known:])
        greedy = bool((logprobs.argmax(-1) == target).all())
        return float(logprobs.gather(1, target[:, None]).sum()), greedy

    return [[score(context, choice) for choice in CHOICES] for context in CONTEXTS]


def compare(path: Path) -> dict[str, float]:
    """The largest difference between the harness' log likelihoods and those of `transformers`."""
    scores = json.loads(path.read_text())
    pairs = [pair for ours, theirs in zip(scores, expected(), strict=True) for pair in zip(ours, theirs, strict=True)]
    assert all(bool(ours[1]) == theirs[1] for ours, theirs in pairs), "greedy or not is judged otherwise"
    return {"scores": len(pairs), "largest_difference": max(abs(ours[0] - theirs[0]) for ours, theirs in pairs)}


def run(wanted: Sequence[str], cache: Path) -> dict[str, Any]:
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(folder / "task.jsonl")
        with LivePool(folder / "pool", "tiny", patient=True) as pool:
            pool.until("a pipeline", lambda: pool.route() is not None, BOOT_S)
            pool.until_serving(stages=4)
            about = {
                "MUSTER_URL": f"{pool.server.url}/v1",
                "MUSTER_MODEL": "tiny",
                "MUSTER_TOKENIZER": str(EMBEDDED["tiny"]),
                "MUSTER_TASK": str(folder / "task.jsonl"),
                "MUSTER_OUTPUT": str(folder / "scores.json"),
            }
            for environment in environments():
                for program in environment.programs:
                    if not wanted or program in wanted:
                        outcomes.append(run_program(environment, program, cache, about))
                        tell(outcomes[-1])
        task = folder / "scores.json"
        scores = compare(task) if task.exists() else {}
    return {"clients": [vars_of(outcome) for outcome in outcomes], "lm_eval": scores}


def vars_of(outcome: Outcome) -> dict[str, Any]:
    return {"program": outcome.program, "not_run": outcome.not_run, "calls": outcome.calls, "good": outcome.is_good}


def tell(outcome: Outcome) -> None:
    if outcome.not_run:
        print(f"NOT RUN {outcome.program}: {outcome.not_run}", flush=True)
    for call in outcome.calls:
        print(
            f"{'failed ' if call['error'] else 'ok     '} {outcome.program}.{call['call']} {call['error']}", flush=True
        )


def claimed(result: dict[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {"door.1.clients": sum(not one["good"] for one in result["clients"])}
    if result["lm_eval"]:
        figures["door.1.scores"] = result["lm_eval"]["largest_difference"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", help="those to run; all if none is named")
    parser.add_argument("--cache", type=Path, default=cache_directory() / "clients", help="where environments are kept")
    parser.add_argument("--json", type=Path, help="where to keep the record, of all programs together")
    arguments = parser.parse_args()
    known = {program for environment in environments() for program in environment.programs}
    if strangers := set(arguments.programs) - known:
        raise SystemExit(f"No program {', '.join(sorted(strangers))}; there are {', '.join(sorted(known))}.")
    if arguments.json and arguments.programs:
        raise SystemExit("A record is of all programs; leave out their names, or --json.")
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    pins = {environment.name: " ".join(environment.packages) for environment in environments()}
    record = record_parts(
        arguments.json,
        {"benchmark": "clients", "method": __doc__ or ""},
        ["clients"],
        lambda _: run(arguments.programs, arguments.cache),
        pins,
        {"clients": claimed} if not arguments.programs else {},
    )
    found = record["clients"]["result"]
    bad = [one["program"] for one in found["clients"] if not one["good"]]
    print(f"{len(found['clients']) - len(bad)} of {len(found['clients'])} clients do all of it. {found['lm_eval']}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
