import os
import time
from pathlib import Path

import pytest
import torch

from muster.errors import MachineTrouble, StepFailed
from muster.model.load import load_stage
from muster.model.rehearsal import run_stages, sequences
from muster.offload.direct import DirectFile
from muster.offload.load import load_offloaded
from muster.offload.microbatches import PieceLimits
from muster.offload.stage import DiskRoom, WeightStreamOptions
from muster.offload.throttle import Throttle, ThrottledFile
from muster.serve.options import EngineOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from tests.offload.llama import Written, write
from tests.serve.ring import Ring

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Written:
    return write(tmp_path_factory.mktemp("llama"))


def offloaded(model: Written, first=0, last=3, share=0.0, dtype=torch.float32, most_bytes=10**9, **options):
    room = DiskRoom(model.path / "spilled", most_bytes)
    return load_offloaded(model.weights, first, last, dtype, CPU, share, room, WeightStreamOptions(**options))


@pytest.mark.parametrize("limits", [PieceLimits(), PieceLimits(rows=2, tokens=4), PieceLimits(rows=1, tokens=3)])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_logits_are_those_of_a_stage_that_is_in_memory_whatever_the_pieces(model, limits, share):
    tokens = sequences(300)
    expected = run_stages([load_stage(model.weights, 0, 3, torch.float32, CPU)], tokens)
    stage, stream = offloaded(model, share=share, limits=limits)
    for ours, theirs in zip(run_stages([stage], tokens), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert stream.stats.restarts == 0, "nothing was read in vain"


def test_stages_of_a_pool_offload_each_their_own_layers(model):
    tokens = sequences(300)
    expected = run_stages([load_stage(model.weights, 0, 3, torch.float32, CPU)], tokens)
    stages = [offloaded(model, 0, 1)[0], offloaded(model, 1, 3, share=0.5)[0]]
    for ours, theirs in zip(run_stages(stages, tokens), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_what_is_cast_on_the_way_is_written_to_the_disk_that_is_lent_and_no_more(model):
    tokens = sequences(300)
    expected = run_stages([load_stage(model.weights, 0, 3, torch.bfloat16, CPU)], tokens)
    stage, _ = offloaded(model, dtype=torch.bfloat16)
    for ours, theirs in zip(run_stages([stage], tokens), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=0.3)
    assert os.listdir(model.path / "spilled") == []
    with pytest.raises(MachineTrouble, match="raise --disk"):
        offloaded(model, dtype=torch.bfloat16, most_bytes=100_000)


def test_mixtures_come_from_disk_too(tmp_path):
    mixture = write(tmp_path, model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, intermediate_size=128)
    tokens = sequences(300)
    expected = run_stages([load_stage(mixture.weights, 0, 3, torch.float32, CPU)], tokens)
    for ours, theirs in zip(run_stages([offloaded(mixture)[0]], tokens), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_reading_hides_behind_computing(model):
    """A disk of 8 MB/s, and layers that compute as long as theirs are read: neither waits but at the start."""
    throttle = Throttle(8e6)
    stage, stream = offloaded(
        model, open_file=lambda path: ThrottledFile(DirectFile(path), throttle), chunk_bytes=2**16
    )
    layer_s = stream.units[0].read_bytes / 8e6
    for layer in stage.model.model.layers:
        layer.mlp.register_forward_hook(lambda *_: time.sleep(layer_s))
    run_stages([stage], sequences(300))
    read_s = stream.reader.read_bytes / 8e6
    assert stream.stats.waited_s < 0.35 * read_s


# --- what goes wrong --------------------------------------------------------------------------------------------------


class Faulty:
    """A disk whose next reads fail."""

    def __init__(self) -> None:
        self.failures = 0

    def open(self, path: Path) -> "FaultyFile":
        return FaultyFile(DirectFile(path), self)


class FaultyFile:
    def __init__(self, inner: DirectFile, disk: Faulty) -> None:
        self._inner, self._disk = inner, disk

    def read_into(self, target: memoryview, start: int, needed: int) -> None:
        if self._disk.failures:
            self._disk.failures -= 1
            raise StepFailed("The disk failed; check it.")
        self._inner.read_into(target, start, needed)

    def check_unchanged(self) -> None:
        self._inner.check_unchanged()


def ring_of(stage) -> Ring:
    options = EngineOptions(max_context=120, prefill_tokens=32)
    return Ring([stage], [stage.new_cache(60, 4)], options)


def request(name: str, prompt=range(1, 20)) -> Request:
    return Request(name, tuple(prompt), Sampling(max_tokens=6, temperature=0.0))


def test_a_read_that_fails_ends_the_requests_of_that_step_and_no_others(model):
    disk = Faulty()
    stage, _ = offloaded(model, open_file=disk.open)
    ring = ring_of(stage)
    ring.submit(request("before"))
    ring.run()
    ring.submit(request("hit"))
    disk.failures = 50
    ring.step()
    disk.failures = 0
    assert isinstance(ring.local.failed["hit"], StepFailed)
    ring.engine.check()
    ring.submit(request("after"))
    ring.submit(request("fresh", range(30, 45)))
    ring.run()
    assert ring.tokens["after"] == ring.tokens["before"]
    alone = ring_of(offloaded(model)[0])
    alone.submit(request("fresh", range(30, 45)))
    alone.run()
    assert ring.tokens["fresh"] == alone.tokens["fresh"]


def test_a_prefix_whose_step_failed_is_found_by_nobody(model):
    disk = Faulty()
    stage, _ = offloaded(model, open_file=disk.open)
    ring = ring_of(stage)
    disk.failures = 50
    ring.submit(request("hit"))
    ring.step()
    disk.failures = 0
    ring.submit(request("same"))
    ring.run()
    assert ring.engine.stats().reused_tokens == 0
    other = ring_of(offloaded(model)[0])
    other.submit(request("same"))
    other.run()
    assert ring.tokens["same"] == other.tokens["same"]


def test_a_file_that_changes_under_us_is_named(tmp_path):
    mine = write(tmp_path)
    stage, _ = offloaded(mine)
    ring = ring_of(stage)
    ring.submit(request("before"))
    ring.run()
    with mine.file.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"abcd")
    ring.submit(request("after"))
    while ring.local.busy:
        ring.step()
    assert "model.safetensors was changed" in str(ring.local.failed["after"])
