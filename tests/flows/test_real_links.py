"""The same pool over real sockets: QUIC on loopback between the head and four workers."""

from pathlib import Path

import pytest

from tests.flows.live_pool import LivePool

PROMPT = "def main(): return"


def test_a_pool_over_iroh_says_the_same_as_one_in_memory(
    pool: LivePool, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its machines has the model: all of it comes from the head."""
    monkeypatch.setattr("muster.model.blobs.resolve_local", lambda model: None)
    ask = {"model": str(model_path), "prompt": PROMPT, "max_tokens": 16, "n": 3, "seed": 2, "temperature": 1.0}
    expected = [choice.text for choice in pool.client(pool.key).completions.create(**ask).choices]
    with LivePool(tmp_path, str(model_path), iroh=True) as real:
        real.until_serving(stages=4)
        assert [choice.text for choice in real.client().completions.create(**ask).choices] == expected
        real.until_idle()
        fetched = [list((tmp_path / machine.name / "blobs").iterdir()) for machine in real.machines]
    assert all(len(files) > 2 * 9 for files in fetched), "two layers of nine tensors each, and the manifest"
