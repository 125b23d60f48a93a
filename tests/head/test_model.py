"""What a head knows of a model that it has served before, it knows without torch."""

import subprocess
import sys

from muster.head.model import load_model


def test_a_head_without_a_worker_of_its_own_loads_neither_torch_nor_transformers() -> None:
    load_model("tiny").tokenizer.close()  # whatever has to be found out about the model is known from now on
    code = """
import sys
import muster.head.run
from muster.head.model import load_model
load_model("tiny").tokenizer.close()
sys.exit(any(name in sys.modules for name in ("torch", "transformers", "scipy.optimize")))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
