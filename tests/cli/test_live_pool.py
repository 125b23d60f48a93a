"""The pool of a running head, read over HTTP."""

import httpx
import pytest

from muster.cli.head_client import HeadClient
from muster.cli.live_pool import live_pool
from muster.errors import MusterError, NotAllowed, PoolUnavailable
from muster.spec.fleets import shipped_fleet
from muster.spec.pool_text import to_toml


def head(answer: httpx.Response) -> tuple[HeadClient, list[httpx.Request]]:
    asked: list[httpx.Request] = []

    def transport(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answer

    return HeadClient("http://pool:8000", token="operator", transport=httpx.MockTransport(transport)), asked


def test_the_pool_and_its_file_come_from_the_heads_admin_door() -> None:
    pool = shipped_fleet("deserve-8xl4")
    text = "# 56 measured\n" + to_toml(pool)
    remote, asked = head(httpx.Response(200, text=text))
    read, same_text = live_pool(remote)
    assert read.nodes == pool.nodes
    assert same_text == text
    assert (asked[0].url.path, asked[0].headers["authorization"]) == ("/admin/pool", "Bearer operator")


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(401, "invalid_api_key", NotAllowed), (503, "pool_unavailable", PoolUnavailable)]
)
def test_a_head_without_a_pool_says_why(status: int, code: str, kind: type[MusterError]) -> None:
    remote, _ = head(httpx.Response(status, json={"error": {"message": "so it is", "code": code}}))
    with pytest.raises(kind, match="so it is"):
        live_pool(remote)
