"""guidellm: a short benchmark of the pool, as operators measure servers."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from calls import MODEL, ROOT, run_calls


def can_measure_the_pool():
    tokenizer = os.environ["MUSTER_TOKENIZER"]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).parent / "guidellm"), "run", "--disable-console",
            "--backend", f"kind=openai_http,target={ROOT},model={MODEL}",
            "--profile", "kind=synchronous", "--constraint", "kind=max_requests,count=3",
            "--tokenizer", f"kind=huggingface_auto,model={tokenizer}",
            "--data", "kind=synthetic_text,prompt_tokens=24,output_tokens=8",
            "--output", f"kind=json,path={Path(folder, 'report.json')}",
        ]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=folder)
        assert ran.returncode == 0, (ran.stdout + ran.stderr)[-500:]
        (report,) = json.loads(Path(folder, "report.json").read_text())["benchmarks"]
        totals = report["metrics"]["request_totals"] if "metrics" in report else report["request_totals"]
        assert totals["successful"] == 3, totals


if __name__ == "__main__":
    run_calls(globals())
