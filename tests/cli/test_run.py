"""`muster run` and `muster chat` against a head that is a table of answers."""

import io
import json
from pathlib import Path

import httpx
import pytest

from muster.cli import chat, run
from muster.cli.head_client import HeadClient
from muster.cli.main import run_command

SAID: list[dict[str, object]] = []


def answer(request: httpx.Request) -> httpx.Response:
    match request.url.path:
        case "/health":
            return httpx.Response(200, json={})
        case "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "tiny"}]})
    body = json.loads(request.content)
    SAID.append(body)
    key, word = ("delta", {"content": "Hi"}) if "messages" in body else ("text", " return")
    chunks = [
        {"choices": [{"index": 0, key: word, "finish_reason": None}]},
        {"choices": [{"index": 0, key: {} if key == "delta" else "", "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}},
    ]
    lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return httpx.Response(200, content=lines + "data: [DONE]\n\n")


@pytest.fixture(autouse=True)
def _head(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_head(*_: object, **__: object) -> HeadClient:
        return HeadClient("http://head", transport=httpx.MockTransport(answer))

    SAID.clear()
    monkeypatch.setattr(run, "find_head", find_head)
    monkeypatch.setattr(chat, "find_head", find_head)


def test_run_prints_the_text_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "tiny", "def f():", "--head", "http://head", "--seed", "5", "--stop", "\n\n"]) == 0
    assert capsys.readouterr().out == " return\n"
    assert SAID[0] | {"prompt": "def f():", "seed": 5, "stop": ["\n\n"], "temperature": 0.0} == SAID[0]


def test_run_reads_a_prompt_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("import os\n"))
    assert run_command(["run", "tiny", "-", "--head", "http://head"]) == 0
    assert SAID[0]["prompt"] == "import os\n"


def test_run_as_json_is_one_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "tiny", "def f():", "--head", "http://head", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["text"] == " return"
    assert (record["finish_reason"], record["usage"]["total_tokens"], record["where"]) == ("length", 4, "http://head")


def test_a_head_asked_for_by_name_must_have_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "huge", "x", "--head", "http://head"]) == 2
    assert "serves tiny, not huge" in capsys.readouterr().err


def test_without_a_head_on_this_machine_nothing_is_asked(tmp_path: Path) -> None:
    remote = HeadClient("http://head", transport=httpx.MockTransport(lambda request: pytest.fail("asked")))
    assert not run.serves(remote, "tiny", asked=False, known=False)
    assert run.serves(run.find_head(None), "tiny", asked=False, known=True)
    assert not run.serves(run.find_head(None), "other", asked=False, known=True)


def test_chat_keeps_the_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nagain\n\n"))
    assert run_command(["chat", "--system", "Be brief."]) == 0
    assert capsys.readouterr().out == "Hi\nHi\n"
    assert [message["content"] for message in SAID[1]["messages"]] == ["Be brief.", "hello", "Hi", "again"]


def test_chat_can_say_one_thing_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["chat", "-m", "hello", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "Hi"
