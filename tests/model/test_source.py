"""A model's name leads to its directory, or to a sentence that says what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from muster.errors import UnknownModel
from muster.model.source import resolve, resolve_local, revision_of
from tests.model.fake_hub import COMMIT, fake_hub

RESOLVE = """
import json, sys
from muster.errors import MusterError
from muster.model.from_hub import resolve_config
from muster.model.source import resolve
try:
    print(json.dumps({"path": str(globals()[sys.argv[2]](sys.argv[1]))}))
except MusterError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


def resolve_with(name: str, how: str = "resolve", **environment: str) -> dict[str, str]:
    """In a process of its own, as huggingface_hub reads its environment when it is imported."""
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, **quiet, **environment}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, name, how],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def test_a_directory_is_its_own_name(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve_local(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("spelling", ["m/", "./m", "./m/", "m//", "m/.", "~/m", "~/m/", "link", "link/", "./link/"])
def test_a_directory_is_found_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "link").symlink_to("m")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(spelling).samefile(tmp_path / "m")


@pytest.mark.parametrize("name", ["no such model", "../../etc/shadow", "a/b/c", ""])
def test_a_name_that_cannot_be_one_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(UnknownModel, match="directory, or a hub id"):
        resolve(name)
    assert resolve_local(name) is None


def test_the_hub_is_asked_for_safe_files_only_and_offline_uses_what_is_there(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "onnx").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin", "modeling_evil.py"):
        (repository / name).write_text("{}")
    (repository / "onnx" / "model.json").write_text("{}")
    home = str(tmp_path / "home")
    with fake_hub({"someone/small": repository}) as (endpoint, asked):
        found = resolve_with("someone/small", HF_ENDPOINT=endpoint, HF_HOME=home)
        assert sorted(file.name for file in Path(found["path"]).iterdir()) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ]
        assert set(asked) == {"config.json", "tokenizer.json", "model.safetensors"}
        assert revision_of("someone/small", Path(found["path"])) == COMMIT
        assert revision_of("/someone/small", Path(found["path"])) == revision_of("someone/small", repository) == ""
        unknown = resolve_with("someone/else", HF_ENDPOINT=endpoint, HF_HOME=home)
        assert unknown["error"] == "UnknownModel"
        assert "check the spelling" in unknown["message"]
    assert resolve_with("someone/small", HF_HOME=home, HF_HUB_OFFLINE="1") == found
    absent = resolve_with("someone/else", HF_HOME=home, HF_HUB_OFFLINE="1")
    assert absent["error"] == "UnknownModel"
    assert "HF_HUB_OFFLINE" in absent["message"]


def test_sizes_take_the_configuration_alone_and_once(tmp_path: Path) -> None:
    for name in ("whole", "bare"):
        (tmp_path / name).mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "whole" / file).write_text("{}")
    home = str(tmp_path / "home")
    with fake_hub({"someone/small": tmp_path / "whole", "someone/bare": tmp_path / "bare"}) as (endpoint, asked):
        found = resolve_with("someone/small", "resolve_config", HF_ENDPOINT=endpoint, HF_HOME=home)
        assert Path(found["path"]).read_text() == "{}"
        assert set(asked) == {"config.json"}
        asked.clear()
        assert resolve_with("someone/small", "resolve_config", HF_ENDPOINT=endpoint, HF_HOME=home) == found
        assert asked == [], "it is on this machine"
        bare = resolve_with("someone/bare", "resolve_config", HF_ENDPOINT=endpoint, HF_HOME=home)
        assert "has no config.json on the hub" in bare["message"]
