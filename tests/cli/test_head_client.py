"""Talking to a head: its refusals keep their words and their kind, and its secrets stay at home."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from muster.cli.find_head import find_head
from muster.cli.head_client import HeadClient
from muster.errors import LimitReached, LinkDown, MusterError, NotAllowed
from muster.head.data_directory import HeadRecord, admin_token, write_head

Answer = Callable[[httpx.Request], httpx.Response]


def head(answer: Answer, **secrets: str) -> HeadClient:
    return HeadClient("http://pool:8000/", transport=httpx.MockTransport(answer), **secrets)


def refusal(status: int, code: str, message: str) -> Answer:
    return lambda request: httpx.Response(status, json={"error": {"message": message, "code": code}})


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(401, "invalid_api_key", NotAllowed), (429, "rate_limit_exceeded", LimitReached), (500, "news", MusterError)],
)
def test_a_refusal_keeps_its_words_and_its_kind(status: int, code: str, kind: type[MusterError]) -> None:
    with pytest.raises(MusterError, match="so it is") as refused:
        head(refusal(status, code, "so it is"), token="a").status()
    assert type(refused.value) is kind


def test_a_missing_secret_is_asked_for_by_the_option_that_brings_it() -> None:
    locked = refusal(401, "invalid_api_key", "so it is")
    with pytest.raises(NotAllowed, match="--token"):
        head(locked, key="user").nodes()
    with pytest.raises(NotAllowed, match="--key"):
        head(locked, token="operator").models()
    with pytest.raises(NotAllowed, match="--key"):
        list(head(locked).stream("/v1/completions", {}))
    with pytest.raises(NotAllowed, match="so it is"):
        head(locked, key="revoked").models()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "no"}', b'{"error": {}}'])
def test_an_error_without_words_names_the_status(body: bytes) -> None:
    with pytest.raises(MusterError, match="502"):
        head(lambda request: httpx.Response(502, content=body)).status()


def test_silence_says_how_to_go_on() -> None:
    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(LinkDown, match="muster serve MODEL"):
        head(silent).nodes()
    with pytest.raises(LinkDown, match="muster serve MODEL"):
        list(head(silent).stream("/v1/completions", {}))
    assert not head(silent).reachable()


def test_each_door_gets_its_own_secret() -> None:
    seen: dict[str, str | None] = {}

    def note(request: httpx.Request) -> httpx.Response:
        seen[request.url.path] = request.headers.get("authorization")
        return httpx.Response(200, json={"data": [{"id": "tiny"}], "nodes": []})

    both = head(note, token="operator", key="user")
    both.nodes()
    both.models()
    both.act("abc", "drain")
    assert seen == {
        "/admin/nodes": "Bearer operator",
        "/v1/models": "Bearer user",
        "/admin/nodes/abc/drain": "Bearer operator",
    }


def test_a_stream_yields_chunks_and_asks_for_usage() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["stream_options"] == {"include_usage": True}
        return httpx.Response(200, content=b': hi\n\ndata: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\n')

    assert list(head(answer).stream("/v1/completions", {"prompt": "x"})) == [{"a": 1}, {"a": 2}]


def test_an_error_in_mid_stream_is_raised() -> None:
    body = b'data: {"a": 1}\n\ndata: {"error": {"message": "gone; again", "code": "pool_unavailable"}}\n\n'
    stream = head(lambda request: httpx.Response(200, content=body)).stream("/v1/completions", {})
    assert next(stream) == {"a": 1}
    with pytest.raises(MusterError, match="gone; again"):
        next(stream)


def test_this_machines_admin_token_is_not_shown_to_another_head(tmp_path: Path) -> None:
    token = admin_token(tmp_path)
    write_head(tmp_path, HeadRecord("http://127.0.0.1:8123", "tiny", "muster1abc", 1))
    ours, theirs = find_head(None, folder=tmp_path), find_head("http://elsewhere:8000", folder=tmp_path)
    assert (ours.url, ours._token) == ("http://127.0.0.1:8123", token)
    assert (theirs.url, theirs._token) == ("http://elsewhere:8000", None)
