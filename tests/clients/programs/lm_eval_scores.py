"""lm-evaluation-harness: a loglikelihood task from a local file through `local-completions`.

Writes the log likelihoods to MUSTER_OUTPUT, to be held against those of `transformers`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from calls import MODEL, URL, run_calls

TASK = """task: local_continuations
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def can_score_a_task():
    data, output = Path(os.environ["MUSTER_TASK"]), Path(os.environ["MUSTER_OUTPUT"])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "local_continuations.yaml").write_text(TASK.format(data=data))
        where = f"model={MODEL},base_url={URL}/completions,tokenizer_backend=huggingface,num_concurrent=4"
        where += f",tokenizer={os.environ['MUSTER_TOKENIZER']},max_length=1024,max_retries=1"
        command = [
            str(Path(sys.executable).parent / "lm_eval"), "--model", "local-completions", "--model_args", where,
            "--tasks", "local_continuations", "--include_path", folder, "--output_path", str(Path(folder, "out")),
            "--log_samples", "--batch_size", "4",
        ]  # fmt: skip
        environment = {**os.environ, "OPENAI_API_KEY": "unused", "HF_HOME": folder, "HF_HUB_OFFLINE": "1"}
        ran = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
        assert ran.returncode == 0, ran.stderr[-600:]
        (samples,) = Path(folder, "out").rglob("samples_*.jsonl")
        scores = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
        output.write_text(
            json.dumps([[[float(score), str(greedy) == "True"] for score, greedy in one] for one in scores])
        )


if __name__ == "__main__":
    run_calls(globals())
