"""Web pages: those of this machine may call, others only where the operator says so, and nobody pretends to be one."""

import pytest

from muster.api.origins import Origins
from muster.api.serving import ServingOptions
from muster.errors import InvalidRequest
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.fake_keys import FakeKeys, FakeRecord
from tests.api.served import Served

BODY = {"model": "fake", "prompt": "x", "max_tokens": 3, "seed": 1}
OURS = ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080", "http://127.8.9.1:80", "tauri://localhost"]
FOREIGN = [
    "https://chat.example",
    "http://localhost:80@evil",
    "http://localhost@evil",
    "http://localhost.evil.example",
    "http://localhost:80:90",
    "http://localhost:evil",
    "http://localhost/evil",
    "http://[::1]evil",
    "http://[::1]:80@evil",
    "http://evil#localhost",
    "localhost",
    "://localhost",
    "null",
]


def preflight(origin: str) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }


@pytest.mark.parametrize("origin", OURS)
def test_a_page_of_this_machine_may_ask_and_read(served: Served, origin: str) -> None:
    may = served.http.options("/v1/completions", headers=preflight(origin))
    assert may.status_code == 204
    assert may.headers["access-control-allow-origin"] == origin
    assert may.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "POST" in may.headers["access-control-allow-methods"]
    for body in (BODY, BODY | {"stream": True}, BODY | {"model": "another"}):
        answer = served.http.post("/v1/completions", json=body, headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_from_elsewhere_may_not(served: Served, origin: str) -> None:
    may = served.http.options("/v1/completions", headers=preflight(origin))
    answer = served.http.post("/v1/completions", json=BODY, headers={"origin": origin})
    assert (may.status_code, answer.status_code) == (401, 401)
    for each in (may, answer):
        assert "access-control-allow-origin" not in each.headers


@pytest.mark.parametrize("origin", FOREIGN)
def test_with_a_key_a_page_from_elsewhere_is_answered_but_may_not_read(tokenizer: Tokenizer, origin: str) -> None:
    with Served(FakeBackend(tokenizer), keys=FakeKeys({"sk-1": FakeRecord("k1")})) as served:
        headers = {"origin": origin, "authorization": "Bearer sk-1"}
        answer = served.http.post("/v1/completions", json=BODY, headers=headers)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


def test_a_page_that_the_operator_names_may_and_a_preflight_needs_no_key(tokenizer: Tokenizer) -> None:
    page = "https://chat.example"
    options = ServingOptions(allow_origins=("https://Chat.example/",))
    with Served(FakeBackend(tokenizer), options, keys=FakeKeys({"sk-1": FakeRecord("k1")})) as served:
        assert served.http.options("/v1/completions", headers=preflight(page)).status_code == 204
        refused = served.http.post("/v1/completions", json=BODY, headers={"origin": page})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, page)
    with Served(FakeBackend(tokenizer), options) as served:
        assert served.http.post("/v1/completions", json=BODY, headers={"origin": page}).status_code == 200
        assert (
            served.http.post("/v1/completions", json=BODY, headers={"origin": "https://x.example"}).status_code == 401
        )


def test_all_pages_may_where_the_operator_says_so_but_never_at_the_admin_door(tokenizer: Tokenizer) -> None:
    from tests.api.test_doors import FakeAdmin

    options = ServingOptions(allow_origins=("*",))
    with Served(FakeBackend(tokenizer), options, admin=FakeAdmin(), admin_token="t") as served:
        for origin in ("https://any.example", "null"):
            answer = served.http.get("/v1/models", headers={"origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
            headers = {"origin": origin, "authorization": "Bearer t"}
            assert "access-control-allow-origin" not in served.http.get("/admin/status", headers=headers).headers
            assert served.http.options("/admin/status", headers=preflight(origin)).status_code == 405


@pytest.mark.parametrize(
    "host", ["localhost:80@evil", "localhost@evil", "localhost:80:80", "[::1]evil", "[::1", "localhost:", "localhost/"]
)
def test_a_host_that_only_begins_like_this_machine_is_refused(served: Served, host: str) -> None:
    assert served.http.get("/v1/models", headers={"host": host}).status_code == 401


@pytest.mark.parametrize("origin", ["chat.example", "https://", "https://chat.example/path", "null", ""])
def test_what_is_no_origin_is_named(origin: str) -> None:
    with pytest.raises(InvalidRequest, match="no origin of a web page"):
        Origins([origin])
