"""The server inside a loop: ports, addresses, stopping."""

import asyncio
import socket
from contextlib import suppress

import httpx
import pytest

from muster.api.app import create_app
from muster.api.server import ApiServer, listen
from muster.errors import MachineTrouble
from muster.text.tokenizer import Tokenizer
from tests.api.fake_backend import SCRIPT, FakeBackend
from tests.api.served import Served, eventually


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


def test_a_client_who_says_nothing_or_reads_nothing_is_hung_up_on(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.api.impatience.LOOK_S", 0.3)
    backend = FakeBackend(tokenizer, max_context=100_000)
    with Served(backend) as served:
        address = ("127.0.0.1", int(served.url.rsplit(":", 1)[1]))
        body = b'{"model": "fake", "prompt": "x", "max_tokens": 50000, "stream": true, "logprobs": 20, "seed": 1}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        ask = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        with socket.create_connection(address, 5) as silent, socket.create_connection(address, 5) as halfway:
            halfway.sendall(head)
            with socket.socket() as unread:
                unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                unread.connect(address)
                unread.sendall(ask)
                assert eventually(lambda: len(backend.cancelled) == 1)
            for stuck in (silent, halfway):
                with suppress(ConnectionResetError):
                    assert stuck.recv(1) == b""
        # Whoever waits for a slow answer is left alone.
        backend.delay_s = 0.7
        answer = served.http.post("/v1/completions", json={"model": "fake", "prompt": "x", "max_tokens": 2})
        assert answer.status_code == 200
