"""What is wrong with a command line is told before anything slow is imported."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.errors import InvalidRequest, MachineTrouble, UnknownModel, WeightsInvalid
from muster.head.early import check_early

SLOW = ("torch", "transformers", "fastapi", "sqlalchemy", "huggingface_hub", "scipy", "iroh")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_what_can_serve_passes(tmp_path: Path) -> None:
    check_early("tiny", "127.0.0.1", 0, tmp_path)
    check_early("owner/name", "[::1]" if socket.has_dualstack_ipv6() else "localhost", 0, tmp_path)


def test_each_trouble_is_told_by_its_name(tmp_path: Path, taken: int) -> None:
    with pytest.raises(MachineTrouble, match=f"Port {taken} .* is taken"):
        check_early("tiny", "127.0.0.1", taken, tmp_path)
    with pytest.raises(MachineTrouble, match="There is no port 70000"):
        check_early("tiny", "127.0.0.1", 70_000, tmp_path)
    with pytest.raises(UnknownModel, match="There is no model 'tinny'"):
        check_early("tinny", "127.0.0.1", 0, tmp_path)
    with pytest.raises(WeightsInvalid, match=r"config\.json"):
        check_early(str(tmp_path), "127.0.0.1", 0, tmp_path)
    with pytest.raises(InvalidRequest, match="muster keys add"):
        check_early("tiny", "0.0.0.0", 0, tmp_path)


@pytest.mark.parametrize("words", [["tinny"], ["tiny", "--port", "TAKEN"], ["tiny", "--pin", "ada"]])
def test_nothing_slow_is_imported_for_a_refusal(words: list[str], tmp_path: Path, taken: int) -> None:
    words = [str(taken) if word == "TAKEN" else word for word in words]
    if "--port" not in words:
        words += ["--port", "0"]
    script = (
        "import sys; from muster.cli.main import run_command; "
        f"code = run_command(['serve', *{words!r}, '--data-dir', {str(tmp_path)!r}]); "
        f"print(code, *({set(SLOW)!r} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    code, *slow = ended.stdout.split()
    assert code in ("2", "8"), ended.stderr
    assert "Traceback" not in ended.stderr
    assert slow == []
