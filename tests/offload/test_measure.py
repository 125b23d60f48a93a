"""Rates that a machine measures of itself are rates, and leave nothing behind."""

import os

import pytest
import torch

from muster.cost.offload.rates import tier_rates
from muster.errors import MachineTrouble
from muster.offload import measure
from muster.spec.pool import Device


def test_a_machine_measures_its_tiers_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "WIDTH", 256)
    monkeypatch.setattr(measure, "ROWS", (1, 64))
    found = measure.measure_tiers(torch.device("cpu"), torch.float32, tmp_path, 2 * 2**20)
    assert not os.listdir(tmp_path)
    assert found.matmul_flops_per_s[0][1] < found.matmul_flops_per_s[1][1]
    for rate in (found.disk_read_bytes_per_s, found.disk_write_bytes_per_s, found.host_attention_bytes_per_s):
        assert 1e5 < rate < 1e13
    assert 0 <= found.disk_overlap <= 1
    rates = tier_rates(Device("cpu", "", 10**9, tiers=found), "float32")
    assert rates.disk_read_bytes_per_s == found.disk_read_bytes_per_s
    assert rates.layer_s > 0


def test_a_folder_that_takes_no_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineTrouble, match="Cannot write"):
        measure.measure_tiers(torch.device("cpu"), torch.float32, tmp_path / "file", 4096)
