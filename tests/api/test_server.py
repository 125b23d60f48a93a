"""The server inside a loop: ports, addresses, stopping."""

import asyncio
import socket

import httpx
import pytest

from muster.api.app import create_app
from muster.api.server import ApiServer, listen
from muster.errors import MachineTrouble
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import SCRIPT, FakeBackend


def test_a_taken_port_is_named_with_the_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(MachineTrouble, match=f"Port {port} on 127.0.0.1 is taken; choose another with --port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 80), ("203.0.113.7", 0), ("127.0.0.1", 99999)])
def test_an_address_that_cannot_be_listened_on_is_named(host: str, port: int) -> None:
    with pytest.raises(MachineTrouble, match=r"choose another|no address 203"):
        listen(host, port)


def test_a_server_starts_and_stops_within_a_loop_and_lets_answers_finish(tokenizer: Tokenizer) -> None:
    async def scene() -> str:
        backend = FakeBackend(tokenizer)
        backend.delay_s = 0.005
        async with ApiServer(create_app(backend, tokenizer), port=0) as server, httpx.AsyncClient() as client:
            body = {"model": "fake", "prompt": "x", "temperature": 0, "max_tokens": 200}
            answering = asyncio.create_task(client.post(f"{server.url}/v1/completions", json=body))
            while not backend.running:
                await asyncio.sleep(0.01)
            await server.stop()
            answer = await answering
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{server.url}/health")
            return str(answer.json()["choices"][0]["text"])

    assert asyncio.run(scene()) == SCRIPT


def test_the_url_of_an_ipv6_server_has_brackets(tokenizer: Tokenizer) -> None:
    assert ApiServer(create_app(FakeBackend(tokenizer), tokenizer), "::1", 8000).url == "http://[::1]:8000"
