"""Health, metrics, and the operator's door."""

from collections.abc import Mapping
from typing import Any

import pytest

from muster.errors import InvalidRequest
from muster.metrics import Metrics
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.fake_keys import FakeKeys, FakeRecord
from tests.api.served import Served


class FakeAdmin:
    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    def status(self) -> Mapping[str, Any]:
        return {"epoch": 3}

    def nodes(self) -> list[Mapping[str, Any]]:
        return [{"id": "n1"}]

    def story(self) -> str:
        return "Nothing has happened yet."

    async def pool_file(self) -> str:
        return 'name = "measured"\n'

    async def receipts(self, request: str) -> bytes:
        if request != "chat-1":
            raise InvalidRequest(f"There are no receipts of request {request!r}.", "request")
        return b'{"muster_receipts": 1}'

    async def drain(self, node: str) -> Mapping[str, Any]:
        self.done.append(("drain", node))
        return {"id": node, "state": "draining"}

    async def ban(self, node: str) -> Mapping[str, Any]:
        raise InvalidRequest(f"No node {node}; see `muster nodes list`.", "node")

    async def unban(self, node: str) -> Mapping[str, Any]:
        self.done.append(("unban", node))
        return {"id": node, "state": "gone"}

    async def trust(self, node: str) -> Mapping[str, Any]:
        self.done.append(("trust", node))
        return {"id": node, "state": "gone"}

    async def distrust(self, node: str) -> Mapping[str, Any]:
        self.done.append(("distrust", node))
        return {"id": node, "state": "gone"}

    async def forget(self, node: str) -> Mapping[str, Any]:
        return {"id": node}


def test_health_says_whether_requests_can_be_served(served: Served) -> None:
    assert served.http.get("/health").json() == {"status": "ok", "model": "fake"}
    served.backend.ready = False
    assert served.http.get("/health").status_code == 503


def test_metrics_count_requests_tokens_latencies_errors_and_the_pool(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer)) as served:
        body = {"model": "fake", "prompt": "x", "max_tokens": 10, "seed": 1}
        served.http.post("/v1/completions", json=body)
        served.http.post("/v1/completions", json=body | {"n": 99})
        served.http.get("/v1/made-up-by-a-visitor")
        text = served.http.get("/metrics").text
    for line in (
        'muster_requests_total{path="/v1/completions",status="200"} 1.0',
        'muster_requests_total{path="/v1/completions",status="400"} 1.0',
        'muster_requests_total{path="other",status="404"} 1.0',
        'muster_errors_total{code="invalid_request"} 1.0',
        "muster_prompt_tokens_total 1.0",
        "muster_completion_tokens_total 10.0",
        "muster_time_to_first_token_seconds_count 1.0",
        "muster_inter_token_latency_seconds_count 9.0",
        "muster_pool_nodes_ready 4.0",
        "muster_pool_queue_length 2.0",
        "muster_pool_ready 1.0",
    ):
        assert line in text.splitlines(), line


def test_pool_gauges_are_bounded_and_named_validly() -> None:
    metrics = Metrics()
    metrics.watch_pool(lambda: {"a b/c": {"é": 1}, "text": "x", "many": {str(i): i for i in range(2000)}})
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("muster_pool")]
    assert "muster_pool_a_b_c__ 1.0" in lines
    assert len(lines) == 1024


@pytest.mark.parametrize("token", ["none", "wrong", "sk-1"])
def test_the_operators_door_asks_for_its_own_token(tokenizer: Tokenizer, token: str) -> None:
    keys = FakeKeys({"sk-1": FakeRecord("k1")})
    with Served(FakeBackend(tokenizer), keys=keys, admin=FakeAdmin(), admin_token="t0p") as served:
        for path in ("/admin/status", "/admin/nodes", "/admin/pool", "/admin/story"):
            assert served.http.get(path, headers={"authorization": f"Bearer {token}"}).status_code == 401


def test_the_operator_sees_and_steers_the_pool(tokenizer: Tokenizer) -> None:
    admin = FakeAdmin()
    with Served(FakeBackend(tokenizer), admin=admin, admin_token="t0p") as served:
        served.http.headers["authorization"] = "Bearer t0p"
        assert served.http.get("/admin/status").json() == {"epoch": 3}
        assert served.http.get("/admin/nodes").json() == {"nodes": [{"id": "n1"}]}
        assert served.http.get("/admin/story").text == "Nothing has happened yet."
        assert served.http.get("/admin/receipts/chat-1").json() == {"muster_receipts": 1}
        assert served.http.get("/admin/receipts/other").status_code == 400
        pool = served.http.get("/admin/pool")
        assert (pool.headers["content-type"], pool.text) == ("application/toml", 'name = "measured"\n')
        assert served.http.post("/admin/nodes/n1/drain").json()["state"] == "draining"
        assert admin.done == [("drain", "n1")]
        refused = served.http.post("/admin/nodes/n9/ban")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "node")
        assert served.http.post("/admin/nodes/n1/explode").status_code == 400


def test_without_a_token_there_is_no_operators_door(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer), admin=FakeAdmin()) as served:
        assert served.http.get("/admin/status").status_code == 404
