"""What every request passes: keys, limits, sizes, names, and a log that says nothing of content."""

import asyncio
import json
import socket

import httpx
import pytest
from structlog.testing import capture_logs

from muster.api.app import create_app
from muster.api.serving import ServingOptions
from muster.errors import LimitReached, MachineTrouble
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.fake_keys import FakeKeys, FakeRecord
from tests.api.served import Served, eventually
from tests.api.test_doors import FakeAdmin

BODY = {"model": "fake", "prompt": "x", "max_tokens": 10, "seed": 1}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_keys_requests_are_limited_with_retry_after(tokenizer: Tokenizer) -> None:
    keys = FakeKeys({"sk-1": FakeRecord("k1", requests_per_minute=2), "sk-2": FakeRecord("k2")})
    with Served(FakeBackend(tokenizer), keys=keys) as served:
        for _ in range(2):
            assert served.http.post("/v1/completions", json=BODY, headers=bearer("sk-1")).status_code == 200
        refused = served.http.post("/v1/completions", json=BODY, headers=bearer("sk-1"))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert served.http.get("/v1/models", headers=bearer("sk-1")).status_code == 200
        assert served.http.post("/v1/completions", json=BODY, headers=bearer("sk-2")).status_code == 200


def test_a_keys_tokens_are_charged_and_recorded_even_when_the_client_leaves(tokenizer: Tokenizer) -> None:
    keys = FakeKeys({"sk-1": FakeRecord("k1", tokens_per_minute=8)})
    backend = FakeBackend(tokenizer)
    backend.delay_s = 0.01
    with Served(backend, keys=keys) as served:
        with served.client("sk-1") as client:
            stream = client.completions.create(**BODY | {"stream": True, "max_tokens": 400})
            for _, _ in zip(range(10), stream, strict=False):
                pass
            stream.close()
        assert eventually(lambda: len(keys.usage) == 1)
        key, prompt_tokens, completion_tokens = keys.usage[0]
        assert (key, prompt_tokens) == ("k1", 1)
        assert 10 <= completion_tokens < 400
        refused = served.http.post("/v1/completions", json=BODY, headers=bearer("sk-1"))
        assert refused.status_code == 429
        assert "tokens per minute" in refused.json()["error"]["message"]


def test_a_used_up_key_is_told_not_to_retry(tokenizer: Tokenizer) -> None:
    keys = FakeKeys({"sk-1": FakeRecord("k1", tokens_left=0)})
    with Served(FakeBackend(tokenizer), keys=keys) as served:
        refused = served.http.post("/v1/completions", json=BODY, headers=bearer("sk-1"))
        assert refused.status_code == 429
        assert refused.headers["x-should-retry"] == "false"


def test_with_keys_only_health_is_open(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer), keys=FakeKeys({"sk-1": FakeRecord("k1")})) as served:
        assert served.http.get("/health").status_code == 200
        for path in ("/metrics", "/v1/models", "/v1/nonsense", "/"):
            refused = served.http.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert served.http.get("/metrics", headers=bearer("sk-1")).status_code == 200


def test_revoking_the_last_key_does_not_open_the_door(tokenizer: Tokenizer) -> None:
    keys = FakeKeys({"sk-1": FakeRecord("k1")})
    with Served(FakeBackend(tokenizer), keys=keys) as served:
        assert served.http.get("/v1/models", headers=bearer("sk-1")).status_code == 200
        keys.records.clear()
        assert served.http.get("/v1/models", headers=bearer("sk-1")).status_code == 401


def test_the_first_key_closes_an_open_door(tokenizer: Tokenizer) -> None:
    keys = FakeKeys()
    with Served(FakeBackend(tokenizer), keys=keys) as served:
        assert served.http.get("/v1/models").status_code == 200
        keys.records["sk-1"] = FakeRecord("k1")
        assert served.http.get("/v1/models").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", ""])
def test_without_keys_a_request_addressed_to_another_name_is_refused(served: Served, host: str) -> None:
    assert served.http.get("/v1/models", headers={"host": host}).status_code == 401
    assert served.http.get("/v1/models", headers={"host": "localhost:1234"}).status_code == 200
    assert served.http.get("/v1/models", headers={"host": "[::1]:1234"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1.evil.example:8000", "null", "", "http://[::1"]
)
def test_without_keys_a_web_page_from_elsewhere_is_refused(served: Served, origin: str) -> None:
    assert served.http.post("/v1/completions", json=BODY, headers={"origin": origin}).status_code == 401
    assert (
        served.http.post("/v1/completions", json=BODY, headers={"origin": "http://localhost:3000"}).status_code == 200
    )
    assert served.backend.most_running == 1


def test_a_body_that_trickles_in_is_given_up(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer), ServingOptions(body_s=0.2)) as served:
        with socket.create_connection((served.url.split(":")[1][2:], int(served.url.split(":")[2])), 10) as slow:
            slow.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000\r\n\r\n{"
            )
            answer = b""
            while b"send it faster" not in answer and (more := slow.recv(65536)):  # head and body may come apart
                answer += more
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"send it faster" in answer
        assert served.http.post("/v1/completions", json=BODY).status_code == 200


def test_a_client_has_its_answer_although_its_usage_cannot_be_written_down(tokenizer: Tokenizer) -> None:
    class FullDisk(FakeKeys):
        def record_usage(self, key_id: str, prompt_tokens: int, completion_tokens: int) -> None:
            raise MachineTrouble("The disk is full; free some space.")

    async def visit() -> int:
        app = create_app(FakeBackend(tokenizer), tokenizer, keys=FullDisk({"sk-1": FakeRecord("k1")}))
        transport = httpx.ASGITransport(app)  # raises what the application raises
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.post("/v1/completions", json=BODY, headers=bearer("sk-1"))).status_code

    with capture_logs() as logs:
        assert asyncio.run(visit()) == 200
    assert "usage.lost" in [entry["event"] for entry in logs]


def test_a_body_beyond_the_limit_is_refused_announced_or_not(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer), ServingOptions(max_body_bytes=2000)) as served:
        large = json.dumps(BODY | {"prompt": "x" * 3000}).encode()
        headers = {"content-type": "application/json"}
        announced = served.http.post("/v1/completions", content=large, headers=headers)
        pieces = served.http.post(
            "/v1/completions", content=(large[i : i + 500] for i in range(0, len(large), 500)), headers=headers
        )
        for refused in (announced, pieces):
            assert refused.status_code == 413
            assert refused.json()["error"]["code"] == "request_too_large"
            assert "2000 bytes" in refused.json()["error"]["message"]
        assert served.http.post("/v1/completions", json=BODY).status_code == 200


def test_a_full_queue_asks_for_a_retry(served: Served) -> None:
    served.backend.fail_at = (0, LimitReached("The queue is full; try again soon."))
    refused = served.http.post("/v1/completions", json=BODY)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


def test_a_failure_that_nobody_foresaw_is_told_without_its_details(served: Served) -> None:
    for after, status in ((0, 500), (3, 200)):
        served.backend.fail_at = (after, ValueError("secret prompt text"))
        answer = served.http.post("/v1/completions", json=BODY | {"stream": True})
        assert answer.status_code == status
        assert "secret" not in answer.text
        assert "send its log of request " + answer.headers["x-request-id"] in answer.text


def test_a_request_that_gets_nowhere_ends_with_an_error(tokenizer: Tokenizer) -> None:
    backend = FakeBackend(tokenizer)
    backend.delay_s = 60
    with Served(backend, ServingOptions(stall_s=0.1)) as served:
        answer = served.http.post("/v1/completions", json=BODY)
        assert answer.status_code == 503
        assert "no progress" in answer.json()["error"]["message"]
        assert len(backend.cancelled) == 1


def test_the_log_names_requests_and_counts_but_never_content(tokenizer: Tokenizer) -> None:
    backend = FakeBackend(tokenizer)

    async def visit() -> str:
        app = create_app(backend, tokenizer)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = BODY | {"prompt": "very private words", "temperature": 0, "max_tokens": 50}
            answer = await client.post("/v1/completions", json=body)
            backend.fail_at = (1, ValueError("very private words"))
            await client.post("/v1/completions", json=body)
            await client.post("/v1/completions", json=body | {"suffix": "very private words"})
            return str(answer.headers["x-request-id"])

    with capture_logs() as logs:
        request_id = asyncio.run(visit())
    assert logs[0]["request"] == request_id
    assert logs[0]["completion_tokens"] == 50
    assert [entry["event"] for entry in logs] == ["request", "request.failed_unexpectedly", "request", "request"]
    said = repr(logs)
    assert "private" not in said
    assert "The pool answers" not in said


def test_who_merely_looks_is_not_logged_but_who_acts_or_is_refused_is(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer), admin=FakeAdmin(), admin_token="t0p") as served, capture_logs() as logs:
        for path in ("/health", "/metrics", "/admin/status", "/admin/nodes"):
            assert served.http.get(path, headers=bearer("t0p")).status_code == 200
        assert served.http.get("/admin/status", headers=bearer("wrong")).status_code == 401
        assert served.http.post("/admin/nodes/n1/drain", headers=bearer("t0p")).status_code == 200
        assert served.http.get("/v1/models").status_code == 200
        assert eventually(lambda: len(logs) >= 3)
    told = [(entry["path"], entry["status"]) for entry in logs if entry["event"] == "request"]
    assert told == [("/admin", 401), ("/admin", 200), ("/v1/models", 200)]


def test_an_answer_that_the_end_of_the_server_cuts_off_is_logged_as_that(tokenizer: Tokenizer) -> None:
    async def scene() -> None:
        backend = FakeBackend(tokenizer)
        backend.delay_s = 60.0
        app = create_app(backend, tokenizer)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            asking = asyncio.create_task(client.post("/v1/completions", json=BODY | {"stream": True}))
            while not backend.running:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    with capture_logs() as logs:
        asyncio.run(scene())
    assert [entry["error"] for entry in logs if entry["event"] == "request"] == ["server_stopped"]
