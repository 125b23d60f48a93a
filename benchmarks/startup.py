"""How long Muster takes to start, now and before a change: seconds by the clock and of the processor, in turns.

python benchmarks/startup.py [--rounds 3] [--against DIR] [--json FILE]

serve     from spawning `muster serve tiny` to the first token over HTTP, on a folder that no head has used yet
join      from spawning `muster join` to `joined`, by a head of the same sources that waits for more machines
plan      `muster plan` of the friends in the README, with a file for the plan
help      `muster --help`

Processor seconds are those of the process and of the processes that it started. The sources before are those of
DIR/src, or of the commit before the structure was changed. Each command runs once beforehand with each sources, for
bytecode and for what is kept on disk between starts; that run is in the record, and in no median.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import record_parts
from benchmarks.register import ROOT
from benchmarks.structure import sources_before

PATIENCE_S = 120
REQUEST = {"model": "tiny", "prompt": "def ", "max_tokens": 4, "stream": True}
Figures = dict[str, float]


@dataclass(frozen=True)
class Tree:
    """Sources, and a folder for what commands that run from them keep between two starts."""

    sources: Path
    folder: Path

    def spawn(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "muster.cli.main", *words]
        environment = {**os.environ, "PYTHONPATH": str(self.sources), "MUSTER_CACHE": str(self.folder / "cache")}
        log = (self.folder / "log.txt").open("a")
        return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=log, text=True, **options)


def processor_s(process: psutil.Process) -> float:
    """Of the process and of all that it has started."""
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times) + sum(times[0][2:4])


@contextmanager
def running(tree: Tree, *words: str) -> Iterator["Running"]:
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.perf_counter()
        process = tree.spawn(*words, "--data-dir", folder, "--json", stdout=subprocess.PIPE)
        try:
            yield Running(process, started_s)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Running:
    process: "subprocess.Popen[str]"
    started_s: float

    def event(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event.get("event") == name:
                return event
        raise RuntimeError(f"It ended before it said {name}; see its log.")

    def figures(self) -> Figures:
        wall_s = time.perf_counter() - self.started_s
        return {"wall_s": round(wall_s, 3), "cpu_s": round(processor_s(psutil.Process(self.process.pid)), 3)}


def serve(tree: Tree) -> Figures:
    with running(tree, "serve", "tiny", "--port", "0") as head:
        url = head.event("listening")["url"]
        body = urllib.request.Request(f"{url}/v1/completions", json.dumps(REQUEST).encode(), HEADERS)
        with urllib.request.urlopen(body, timeout=PATIENCE_S) as answer:
            if not any(line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"] for line in answer):
                raise RuntimeError("No token came.")
            return head.figures()


HEADERS = {"content-type": "application/json"}


def join(tree: Tree, ticket: str) -> Figures:
    with running(tree, "join", ticket, "--name", "one") as worker:
        worker.event("joined")
        return worker.figures()


def to_the_end(tree: Tree, *words: str) -> Figures:
    started_s = time.perf_counter()
    process = tree.spawn(*words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{words} failed; see its log.")
    return {
        "wall_s": round(time.perf_counter() - started_s, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
    }


def plan(tree: Tree) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        return to_the_end(tree, *PLAN, "--lock", f"{folder}/plan.lock")


PLAN = ("plan", "llama-2-13b", "--pool", "docs/friends.toml")


def show_help(tree: Tree) -> Figures:
    return to_the_end(tree, "--help")


def in_turns(trees: dict[str, Tree], measure: Callable[[Tree], Figures], rounds: int) -> dict[str, Any]:
    """Every run by sources, and what the medians now are of those before."""
    runs: dict[str, list[Figures]] = {name: [] for name in trees}
    for number in range(rounds + 1):
        for name in list(trees)[:: 1 if number % 2 else -1]:
            runs[name].append(measure(trees[name]))
    medians = {
        name: {unit: statistics.median(run[unit] for run in these[1:]) for unit in ("wall_s", "cpu_s")}
        for name, these in runs.items()
    }
    share = {unit: round(medians["now"][unit] / medians["before"][unit], 3) for unit in ("wall_s", "cpu_s")}
    return {"runs": runs, "median": medians, "now_to_before": share}


def measure(part: str, rounds: int, against: Path | None) -> dict[str, Any]:
    with ExitStack() as stack:
        before = against / "src" if against is not None else stack.enter_context(sources_before())
        folders = {name: Path(stack.enter_context(tempfile.TemporaryDirectory())) for name in ("before", "now")}
        trees = {name: Tree(before if name == "before" else ROOT / "src", folders[name]) for name in folders}
        if part != "join":
            return in_turns(trees, {"serve": serve, "plan": plan, "help": show_help}[part], rounds)
        words = ("serve", "tiny", "--port", "0", "--no-local-worker", "--min-nodes", "99")
        heads = {tree.folder: stack.enter_context(running(tree, *words)) for tree in trees.values()}
        tickets = {folder: head.event("listening")["ticket"] for folder, head in heads.items()}
        return in_turns(trees, lambda tree: join(tree, tickets[tree.folder]), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="of each command with each sources")
    parser.add_argument("--against", type=Path, help="a folder whose src/ are the sources before")
    parser.add_argument("--json", type=Path, help="where to write the record; parts that are already there stay")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    record = record_parts(
        arguments.json,
        {"benchmark": "startup", "method": __doc__ or ""},
        arguments.part,
        lambda part: measure(part, arguments.rounds, arguments.against),
        {"note": arguments.note},
        {part: lambda found, part=part: {CLAIMS[part][0]: found["now_to_before"][CLAIMS[part][1]]} for part in PARTS},
    )
    print(json.dumps({part: record[part]["result"] for part in arguments.part}, indent=1))


CLAIMS = {
    "help": ("structure.4.help", "cpu_s"),
    "plan": ("structure.4.plan", "cpu_s"),
    "serve": ("structure.4.first-token", "wall_s"),
    "join": ("structure.4.join", "cpu_s"),
}
PARTS = tuple(CLAIMS)


if __name__ == "__main__":
    main()
