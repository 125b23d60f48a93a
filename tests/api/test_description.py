"""openapi.json says what is so: whatever a client does wrong, the answer is one that is declared for the operation."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import httpx
import pytest

from muster.api.serving import ServingOptions
from muster.errors import LimitReached, PoolUnavailable
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.fake_keys import FakeKeys, FakeRecord
from tests.api.served import Served
from tests.api.test_doors import FakeAdmin

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
TEXT = {"model": "fake", "prompt": "x", "max_tokens": 3}
LINES = {"model": "fake", "messages": CHAT["messages"], "options": {"num_predict": 3}}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": {name: CHAT[name] for name in ("model", "messages")},
    "/v1/responses": {"model": "fake", "input": "Hello", "max_output_tokens": 3},
    "/api/chat": LINES,
    "/api/generate": {"model": "fake", "prompt": "Hello", "options": {"num_predict": 3}},
    "/tokenize": {"model": "fake", "prompt": "Hello"},
    "/detokenize": {"model": "fake", "tokens": [1, 2]},
}
KEY, ADMIN = {"authorization": "Bearer sk-1"}, {"authorization": "Bearer admin"}


@pytest.fixture(scope="module")
def locked(tokenizer: Tokenizer) -> Iterator[Served]:
    keys = FakeKeys({"sk-1": FakeRecord("k1"), "sk-2": FakeRecord("k2", tokens_left=0)})
    options = ServingOptions(max_body_bytes=100_000, body_s=0.2)
    with Served(FakeBackend(tokenizer), options, keys=keys, admin=FakeAdmin(), admin_token="admin") as served:
        yield served


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def provoked(served: Served, method: str, path: str) -> Iterator[httpx.Response]:
    """One of everything that a client may get wrong here, and of everything that may be wrong with the pool."""
    key = ADMIN if path.startswith("/admin") else KEY
    names = product(("fake", "another", "%00", "%F0%9F%A6%80"), ("drain", "ban", "explode"))
    # Most paths have no name in them, and are one place.
    for where in dict.fromkeys(
        path.format(model=name, node=name, request=name, action=action) for name, action in names
    ):
        for headers in ({}, key, {"authorization": "Bearer wrong"}, {"authorization": "Basic"}):
            yield served.http.request(method, where, headers=headers)
    served.backend.ready = False
    yield served.http.request(method, path, headers=key)
    served.backend.ready = True
    good = BODIES.get(path)
    if good is None:
        return
    yield served.http.post(path, json=good, headers={"authorization": "Bearer sk-2"})
    json_key = key | {"content-type": "application/json"}
    for body in (b"", b"{", b"\xff", b"[]", b"1", b"[" * 1000, b" " * 200_000, json.dumps(good).encode()):
        yield served.http.post(path, content=body, headers=json_key)
        yield served.http.post(path, content=body, headers=key)
    for wrong in ({"model": "another"}, {"n": 99}, {"seed": 1.5}, {"user": 1}, {"max_tokens": 10**6}):
        yield served.http.post(path, json=good | wrong, headers=key)
    for trouble in (LimitReached("Full; try again."), PoolUnavailable("Nobody is here; try again."), ValueError("bug")):
        served.backend.fail_at = (0, trouble)
        for stream in (False, True):
            yield served.http.post(path, json=good | {"stream": stream}, headers=key)
    served.backend.fail_at = None
    for stream in (False, True):
        yield served.http.post(path, json=good | {"stream": stream}, headers=key)


def test_every_answer_is_a_declared_one(locked: Served) -> None:
    seen: set[int] = set()
    for method, path, operation in operations(locked.http.get("/openapi.json").json()):
        for answer in provoked(locked, method, path):
            declared = operation["responses"].get(str(answer.status_code))
            where = f"{method} {answer.request.url} answers {answer.status_code}: {answer.text[:200]}"
            assert declared is not None, where
            media_type = answer.headers["content-type"]
            assert any(media_type.startswith(name) for name in declared["content"]), f"{where} as {media_type}"
            seen.add(answer.status_code)
    assert seen == {200, 400, 401, 404, 413, 429, 500, 503}


def test_nothing_is_declared_that_is_never_answered(locked: Served) -> None:
    for _, path, operation in operations(locked.http.get("/openapi.json").json()):
        assert "422" not in operation["responses"]
        assert ("429" in operation["responses"]) == (path in BODIES)
        assert operation.get("security") == (
            None
            if path == "/health"
            else [{"admin": []}]
            if path.startswith("/admin")
            else [{}, {"key": []}, {"x_api_key": []}]
        )


def test_another_method_is_answered_with_those_that_there_are(locked: Served) -> None:
    everything = {"get", "post", "put", "patch", "delete", "options", "head"}
    for method, path, _ in operations(locked.http.get("/openapi.json").json()):
        key = ADMIN if path.startswith("/admin") else KEY
        for other in sorted(everything - {method}):
            answer = locked.http.request(
                other, path.format(model="fake", node="n", request="r", action="drain"), headers=key
            )
            assert (answer.status_code, answer.headers.get("allow", "").lower()) == (405, method)


def test_a_path_with_several_methods_names_all_of_them(tokenizer: Tokenizer) -> None:
    with Served(FakeBackend(tokenizer), ServingOptions(store_responses_s=60)) as served:
        answer = served.http.options("/v1/responses/resp_1")
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")


@pytest.mark.parametrize("strict", [False, True])
def test_a_field_that_nobody_knows_is_described_as_it_is_dealt_with(tokenizer: Tokenizer, strict: bool) -> None:
    with Served(FakeBackend(tokenizer), ServingOptions(strict_fields=strict)) as served:
        schemas = served.http.get("/openapi.json").json()["components"]["schemas"]
        answer = served.http.post("/detokenize", json=BODIES["/detokenize"] | {"another": 1})
    assert (schemas["ChatRequest"].get("additionalProperties") is False) is strict
    assert answer.status_code == (400 if strict else 200)


def test_watching_is_not_what_is_watched(locked: Served) -> None:
    for _ in range(2):
        lines = locked.http.get("/metrics", headers=KEY).text.splitlines()
        assert "muster_requests_running 0.0" in lines


def test_whoever_cannot_be_served_now_is_told_when_to_ask_again(served: Served) -> None:
    served.backend.fail_at = (0, PoolUnavailable("Nobody is here; try again."))
    refused = served.http.post("/v1/completions", json=TEXT)
    assert refused.status_code == 503
    assert 1 <= int(refused.headers["retry-after"]) <= 30


def test_a_stream_with_nothing_to_say_says_that_it_is_still_there(tokenizer: Tokenizer) -> None:
    backend = FakeBackend(tokenizer)
    backend.delay_s = 0.3
    with Served(backend, ServingOptions(silence_s=0.1)) as served:
        with served.http.stream("POST", "/v1/completions", json=TEXT | {"stream": True, "seed": 1}) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert lines[0].startswith(":")
        assert lines[-1] == "data: [DONE]"
        assert sum(line.startswith("data: {") for line in lines) >= 3
        with served.client() as client:
            said = [chunk.choices[0].text for chunk in client.completions.create(**TEXT, seed=1, stream=True)]
        assert len("".join(said)) == 3
        backend.fail_at = (1, PoolUnavailable("Everybody left; try again."))
        broken = served.http.post("/v1/completions", json=TEXT | {"stream": True})
        assert broken.status_code == 200
        assert "Everybody left" in broken.text.splitlines()[-2]
