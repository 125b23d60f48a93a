"""What only torch can say of a model is asked of a process of its own, and its errors are ours."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from muster.errors import MachineTrouble, UnsupportedModel, WeightsInvalid
from muster.head.model import load_model
from muster.model import apart
from muster.model.checked import config_as_stored, described
from muster.model.source import resolve
from muster.model.weights import open_directory

ASKED = """
import sys
from pathlib import Path
from muster.errors import MusterError
from muster.head.model import load_model
from muster.model import apart
apart.end = lambda: None  # one process for all questions, as torch takes seconds
for model in sys.argv[1:]:
    try:
        said = load_model(model, "float32").choices[0].num_layers
    except MusterError as error:
        said = f"{type(error).__name__}: {error}"
    print(said, "torch" in sys.modules)
"""


def asked(*models: str) -> list[str]:
    ended = subprocess.run([sys.executable, "-c", ASKED, *models], capture_output=True, text=True, timeout=220)
    assert not ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path / "cache"))


def test_a_head_without_torch_hears_what_one_with_torch_would(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in resolve("tiny").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_size": 2 * config["hidden_size"]}))
    with pytest.raises((UnsupportedModel, WeightsInvalid)) as here:
        load_model(str(broken), "float32")
    assert asked("tiny", str(broken)) == ["6 False", f"{type(here.value).__name__}: {here.value} False"]


def test_a_process_that_dies_or_is_ended_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")  # as on a head that does not compute
    weights = open_directory(resolve("tiny"))
    tensors = described(weights)
    assert config_as_stored(weights, ()) == weights.config_json
    running = apart._process._running
    assert running is not None
    ending = threading.Timer(0.2, apart.end)
    ending.start()
    running.send_signal(19)  # it will never answer
    began_s = time.monotonic()
    with pytest.raises(MachineTrouble, match="ended before it was done"):
        apart.ask(apart.Shape(weights.config_json, tensors, "tiny", "float32"))
    assert time.monotonic() - began_s < 30
    ending.join()
    assert apart._process._running is None
    assert running.returncode is not None
