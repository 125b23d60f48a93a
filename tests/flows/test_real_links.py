"""The same pool over real sockets: QUIC on loopback between the head and four workers."""

import re
from pathlib import Path

import pytest

from muster.spec.pool_file import parse_pool
from tests.flows.live_pool import LivePool

PROMPT = "def main(): return"


def test_a_pool_over_iroh_says_the_same_as_one_in_memory(
    pool: LivePool, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its machines has the model: all of it comes from the head."""
    monkeypatch.setattr("muster.model.blobs.resolve_local", lambda model: None)
    ask = {"model": str(model_path), "prompt": PROMPT, "max_tokens": 16, "n": 3, "seed": 2, "temperature": 1.0}
    expected = [choice.text for choice in pool.client(pool.key).completions.create(**ask).choices]
    with LivePool(tmp_path, str(model_path), iroh=True, patient=True) as real:
        until_measured(real)
        assert [choice.text for choice in real.client().completions.create(**ask).choices] == expected
        real.until_idle()
        fetched = [list((tmp_path / machine.name / "blobs").iterdir()) for machine in real.machines]
    assert all(len(files) > 2 * 9 for files in fetched), "two layers of nine tensors each, and the manifest"


def until_measured(pool: LivePool) -> None:
    """Each machine looks at its ways to the head and to the next stage while the pool comes up."""
    route = pool.until_serving(stages=4)
    state = pool.service._state
    members, nodes = state.members.members, route.pipeline.nodes()
    ways = [*zip(nodes, (*nodes[1:], nodes[0]), strict=True), *((node, state.head) for node in nodes)]

    def all_known() -> bool:
        found = [members[source].links.get(target) for source, target in ways]
        return all(link is not None and link.bandwidth_bytes_per_s > 0 for link in found)

    pool.until("all links", all_known)
    for source, target in ways:
        link = members[source].links[target]
        assert link.latency_s < 1.0, "on loopback"
        assert 1e6 < link.bandwidth_bytes_per_s < 1e11, "loopback, however busy the machine is"
    # Four links join the stages, so eight directions; the placements before this one may have looked at more.
    text = pool.pool_file()
    measured = re.search(r"(\d+) measured from end to end", text)
    assert measured is not None
    assert int(measured[1]) in (8, 10, 12)
    assert {node.name for node in parse_pool(text).nodes} == {machine.name for machine in pool.machines}
