"""What an owner may promise of this machine's memory."""

from types import SimpleNamespace

import pytest

from muster.errors import InvalidRequest
from muster.node import memory
from muster.node.memory import check_host_memory, left_for_layers, less_than_promised

GB = 10**9


@pytest.fixture(autouse=True)
def eight_gigabytes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GB))


@pytest.mark.parametrize(
    ("host", "lent", "kind", "says"),
    [
        (9 * GB, None, "cpu", "9GB is more than the 8 GB that are free here; lend less"),
        (6 * GB, 3 * GB, "cpu", "more than the 5 GB that are free here beside --memory"),
        (9 * GB, 3 * GB, "cuda", "more than the 8 GB that are free here; lend less"),
        (GB, None, "mps", "on mps both have one memory; lend with --memory"),
    ],
)
def test_host_memory_that_is_not_there_is_refused_in_one_sentence(host, lent, kind, says):
    with pytest.raises(InvalidRequest, match=says):
        check_host_memory(host, lent, kind)


@pytest.mark.parametrize(
    ("host", "lent", "kind"), [(5 * GB, 3 * GB, "cpu"), (8 * GB, 70 * GB, "cuda"), (0, 9 * GB, "mps")]
)
def test_host_memory_that_is_there_is_lent(host, lent, kind):
    check_host_memory(host, lent, kind)


def test_who_promises_more_than_there_is_hears_what_is_lent_instead() -> None:
    assert "--memory 999GB is more than is free here, so it lends 7 GB" in less_than_promised(999 * GB, 7 * GB, "cpu")
    fits = left_for_layers(4 * GB, "cpu")
    assert less_than_promised(4 * GB, fits, "cpu") == less_than_promised(None, fits, "cpu") == ""
