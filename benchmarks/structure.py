"""What became of the structure: lines, names and silences now, beside those of the commit before it was changed.

python benchmarks/structure.py --part size [--json FILE]
python benchmarks/structure.py --part silence [--rounds 3] [--json FILE]

size      lines of src/; public class names that stand for two things, which are those that two modules define; and
          files that take a plan's only pipeline, by `(pipeline,) = plan.pipelines` or `pipelines[0]`
silence   `muster demo` of then and now in turns: the longest silence of any stream while the ring is repaired, the
          median over the rounds
"""

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import Claimed, record_parts
from benchmarks.register import ROOT

BEFORE = "3314793"
"""The commit before the change."""
ONLY_PIPELINE = re.compile(r"\(\w+,\) *= .*pipelines|pipelines\[0\]")


@contextmanager
def sources_before(commit: str = BEFORE) -> Iterator[Path]:
    """A folder with src/ as it was."""
    packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder) / "src"


def run_size(rounds: int) -> dict[str, Any]:
    with sources_before() as before:
        return {"before": size(before), "now": size(ROOT / "src")}


def size(sources: Path) -> dict[str, Any]:
    texts = {path.relative_to(sources).as_posix(): path.read_text("utf-8") for path in sorted(sources.rglob("*.py"))}
    modules = Counter(name for text in texts.values() for name in public_classes(text))
    return {
        "lines": sum(text.count("\n") for text in texts.values()),
        "files": len(texts),
        "ambiguous": sorted(name for name, count in modules.items() if count > 1),
        "only_pipeline": [name for name, text in texts.items() if ONLY_PIPELINE.search(text)],
    }


def public_classes(text: str) -> set[str]:
    classes = (node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef))
    return {name for name in classes if not name.startswith("_")}


def run_silence(rounds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {"before": [], "now": []}
    with sources_before() as before:
        for _ in range(rounds):
            for name, sources in (("before", before), ("now", ROOT / "src")):
                found[name].append(longest_silence_s(sources))
                print(name, found[name][-1], flush=True)
    return {"rounds": found, **{f"{name}_s": statistics.median(silences) for name, silences in found.items()}}


def longest_silence_s(sources: Path) -> float:
    command = [sys.executable, "-m", "muster.cli.main", "demo", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    silence_s: float = json.loads(done.stdout.splitlines()[-1])["longest_silence_s"]
    return silence_s


def claimed_of_size(found: dict[str, Any]) -> dict[str, float]:
    return {
        "structure.1.lines": round(found["now"]["lines"] / found["before"]["lines"], 4),
        "structure.1.names": len(found["now"]["ambiguous"]),
        "structure.1.only-pipeline": len(found["now"]["only_pipeline"]),
    }


PARTS = {"size": run_size, "silence": run_silence}
CLAIMED: dict[str, Claimed] = {
    "size": claimed_of_size,
    "silence": lambda found: {"structure.5": round(found["now_s"] / found["before_s"], 3)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=1, help="of the demo, then and now")
    parser.add_argument("--json", type=Path, help="where to write the record; parts that are already there stay")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    record = record_parts(
        arguments.json,
        {"benchmark": "structure", "method": __doc__ or "", "before": BEFORE},
        arguments.part,
        lambda part: PARTS[part](arguments.rounds),
        {"note": arguments.note},
        CLAIMED,
    )
    print(json.dumps({part: record[part]["result"] for part in arguments.part}, indent=1))


if __name__ == "__main__":
    main()
