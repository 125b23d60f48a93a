"""`muster run` and `muster chat` against a head that is a table of answers."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from muster.cli import chat, local_completion, run
from muster.cli.head_client import HeadClient
from muster.cli.main import run_command
from muster.cli.prompt_words import MAX_PROMPT_CHARACTERS
from muster.cli.waiting import Say
from muster.errors import LinkDown, NotAllowed

SAID: list[dict[str, object]] = []


def answer(request: httpx.Request) -> httpx.Response:
    match request.url.path:
        case "/health":
            return httpx.Response(200, json={"status": "ok", "model": "tiny"})
        case "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "tiny", "chat_template": False}]})
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


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (["-"], "import os\n"),
        (["tiny", "Explain:", "-"], "Explain:\nimport os\n"),
        (["tiny", "-", "# the end"], "import os\n\n# the end"),
        (["tiny", "def f():", "    x"], "def f():\n    x"),
    ],
)
def test_words_and_standard_input_make_one_prompt(
    words: list[str], prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("import os\n"))
    assert run_command(["run", *words]) == 0
    assert (SAID[0]["prompt"], SAID[0]["model"]) == (prompt, "tiny")


def test_a_prompt_that_cannot_be_read_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["run", "tiny"]) == 2
    assert "There is no prompt" in capsys.readouterr().err
    assert run_command(["run", "-", "-"]) == 2
    assert "only once" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert run_command(["run", "tiny", "-"]) == 2
    assert "UTF-8" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * (MAX_PROMPT_CHARACTERS + 1)))
    assert run_command(["run", "tiny", "-"]) == 2
    assert "send less" in capsys.readouterr().err
    assert SAID == []


def test_run_as_json_is_one_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "tiny", "def f():", "--head", "http://head", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["text"] == " return"
    assert (record["finish_reason"], record["usage"]["total_tokens"], record["where"]) == ("length", 4, "http://head")


def test_a_head_asked_for_by_name_must_have_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "huge", "x", "--head", "http://head"]) == 2
    assert "serves tiny, not huge" in capsys.readouterr().err


def test_a_head_that_left_no_record_is_asked_where_heads_usually_are(capsys: pytest.CaptureFixture[str]) -> None:
    for known in (False, True):
        assert run.serves(run.find_head(None), "tiny", asked=False, known=known)
        assert not run.serves(run.find_head(None), "other", asked=False, known=known)


def test_another_program_at_the_usual_place_is_no_head_and_no_trouble() -> None:
    for body in (b"<html>", b"[]", b"{}", b'{"status": "ok"}'):
        transport = httpx.MockTransport(lambda request, body=body: httpx.Response(200, content=body))
        assert not run.serves(HeadClient("http://other", transport=transport), "tiny", asked=False, known=False)

    def locked(request: httpx.Request) -> httpx.Response:
        refusal = {"error": {"code": "invalid_api_key", "message": "No key."}}
        return answer(request) if request.url.path == "/health" else httpx.Response(401, json=refusal)

    remote = HeadClient("http://head", transport=httpx.MockTransport(locked))
    assert not run.serves(remote, "tiny", asked=False, known=False)
    with pytest.raises(NotAllowed, match="--key"):
        run.serves(remote, "tiny", asked=False, known=True)


def test_a_head_that_is_asked_for_by_name_must_be_one() -> None:
    remote = HeadClient(
        "http://x", transport=httpx.MockTransport(lambda request: httpx.Response(200, content=b"<html>"))
    )
    with pytest.raises(LinkDown, match="is no head of Muster"):
        run.serves(remote, "tiny", asked=True, known=False)


def test_chat_keeps_the_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nagain\n\n"))
    assert run_command(["chat", "--system", "Be brief."]) == 0
    assert capsys.readouterr().out == "Hi\nHi\n"
    assert [message["content"] for message in SAID[1]["messages"]] == ["Be brief.", "hello", "Hi", "again"]


def test_chat_takes_several_lines_and_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = '"""def f():\n    return 1"""\n/system Be kind.\nhello\n/nonsense\n/exit\nnever\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert run_command(["chat"]) == 0
    said = [[message["content"] for message in body["messages"]] for body in SAID]
    assert said == [["def f():\n    return 1"], ["Be kind.", "hello"]]
    told = capsys.readouterr()
    assert told.out == "Hi\nHi\n"
    assert "There is no command /nonsense" in told.err


def test_chat_says_so_where_a_model_was_not_made_to_converse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["chat", "-m", "hello"]) == 0
    told = capsys.readouterr()
    assert "tiny has no chat template" in told.err
    assert told.out == "Hi\n"
    chat.greet({"id": "other", "chat_template": True}, "http://head", alone=True)
    chat.greet({"id": "old"}, "http://head", alone=True)
    assert capsys.readouterr().err == ""


def test_chat_can_say_one_thing_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["chat", "-m", "hello", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "Hi"


def test_of_two_waits_one_is_told_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal has room for one spinner, and older versions of rich refuse a second."""
    waits: list[str] = []

    @contextmanager
    def waiting(what: str, as_json: bool = False) -> Iterator[Say]:
        assert not waits, f"{what} begins while it waits for {waits}"
        waits.append(what)
        yield lambda words: None
        waits.pop()

    def complete(*_: object) -> Iterator[dict[str, object]]:
        with waiting("finding the model"):
            pass
        yield {"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}

    monkeypatch.setattr(run, "waiting", waiting)
    monkeypatch.setattr(local_completion, "complete", complete)
    assert run_command(["run", "other", "x"]) == 0
    assert run_command(["run", "tiny", "x"]) == 0
    assert run_command(["chat", "-m", "x"]) == 0
