"""Simon Willison's `llm`: its command line on a model from extra-openai-models.yaml, with a schema too."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from calls import KEY, MODEL, URL, run_calls


def ask(*words: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        model = [
            {"model_id": "pool", "model_name": MODEL, "api_base": URL, "supports_schema": True, "supports_tools": True}
        ]
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps(model))
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": KEY}
        command = [str(Path(sys.executable).parent / "llm"), "-m", "pool", *words]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert ran.returncode == 0, ran.stderr[-400:]
        return ran.stdout


def can_answer():
    assert ask("Say something.", "-o", "max_tokens", "8").strip()


def can_fill_in_a_schema():
    schema = {
        "type": "object",
        "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["days"],
    }
    written = ask("Plan a trip.", "-o", "max_tokens", "200", "--schema", json.dumps(schema))
    assert 1 <= json.loads(written)["days"] <= 9


if __name__ == "__main__":
    run_calls(globals())
