"""`muster nodes` and `muster status` against a head that is a table of answers."""

import json

import httpx
import pytest

from muster.cli import doctor, nodes, status
from muster.cli.head_client import HeadClient
from muster.cli.main import run_command
from muster.cli.nodes import pick
from muster.errors import InvalidRequest

ADA = {
    "id": "a1" * 32,
    "name": "ada",
    "region": "oslo",
    "state": "serving",
    "memory_bytes": 64_000_000,
    "layers": [0, 3],
}
BOB = {"id": "a2" * 32, "name": "bob", "region": "lima", "state": "standby", "memory_bytes": 2e9, "round_trip_s": 0.02}
EVIL = {"id": "ff" * 32, "name": "x[red]\x1b[2Jy", "region": "", "state": "lost"}
STATUS = {
    "model": "tiny",
    "ready": True,
    "nodes": [ADA, BOB, EVIL],
    "placement": [{"node": ADA["id"], "name": "ada", "region": "oslo", "first": 0, "last": 3}],
}
ASKED: list[str] = []


def answer(request: httpx.Request) -> httpx.Response:
    ASKED.append(f"{request.method} {request.url.path}")
    if request.url.path == "/admin/story":
        return httpx.Response(200, text="The only event:\n    1.0 s  Tick\n  x\x1b[2Jy")
    return httpx.Response(200, json=STATUS)


@pytest.fixture(autouse=True)
def _head(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_head(*_: object, **__: object) -> HeadClient:
        return HeadClient("http://head", transport=httpx.MockTransport(answer))

    ASKED.clear()
    monkeypatch.setattr(nodes, "find_head", find_head)
    monkeypatch.setattr(status, "find_head", find_head)
    monkeypatch.setattr(doctor, "find_head", find_head)


def test_the_list_shows_every_node_and_no_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["nodes", "list"]) == 0
    out = capsys.readouterr().out
    assert "ada" in out
    assert "64 MB" in out
    assert "0–2" in out
    assert "20.0 ms" in out
    assert "\x1b[2J" not in out
    assert run_command(["nodes", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"][1]["name"] == "bob"


@pytest.mark.parametrize("action", ["drain", "ban", "unban", "forget"])
def test_a_node_is_named_by_name_or_by_the_beginning_of_its_id(action: str) -> None:
    assert run_command(["nodes", action, "ada"]) == 0
    assert run_command(["nodes", action, "A2"]) == 0
    posts = [line for line in ASKED if line.startswith("POST")]
    assert posts == [f"POST /admin/nodes/{ADA['id']}/{action}", f"POST /admin/nodes/{BOB['id']}/{action}"]


def test_machines_are_forgotten_by_age(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86_400
    old, young, banned = (
        {"id": digit * 64, "name": "vm", "state": state, "gone_s": age * day}
        for digit, state, age in (("b", "gone", 8), ("c", "gone", 6), ("d", "banned", 90))
    )
    monkeypatch.setitem(STATUS, "nodes", [ADA | {"gone_s": None}, old, young, banned])
    assert run_command(["nodes", "forget", "--older-than", "7d"]) == 0
    assert [line for line in ASKED if line.startswith("POST")] == [f"POST /admin/nodes/{old['id']}/forget"]
    assert capsys.readouterr().out == "Forgotten: vm (bbbbbbbbbb).\n"
    assert run_command(["nodes", "list"]) == 0
    assert "gone 6 d" in capsys.readouterr().out
    assert run_command(["nodes", "forget", "--older-than", "9w"]) == 0
    assert "No machine" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["vm", "--older-than", "7d"], ["--older-than", "7"], ["--older-than", "-1d"]])
def test_it_must_be_clear_who_is_to_be_forgotten(words: list[str]) -> None:
    assert run_command(["nodes", "forget", *words]) == 2
    assert ASKED == []


def test_an_unclear_or_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidRequest, match="could be any of"):
        pick([ADA, BOB], "a")
    assert run_command(["nodes", "ban", "nobody"]) == 2
    assert "muster nodes list" in capsys.readouterr().err


def test_a_machine_that_is_gone_makes_no_name_ambiguous() -> None:
    gone, banned = (
        {"id": "c3" * 32, "name": "ada", "state": "gone"},
        {"id": "d4" * 32, "name": "ada", "state": "banned"},
    )
    for action in ("drain", "ban"):
        assert pick([gone, ADA, banned], "ada", action) is ADA
    assert pick([gone, ADA, banned], "ada", "forget") is gone
    assert pick([gone, ADA, banned], "ada", "unban") is banned
    with pytest.raises(InvalidRequest, match="could be any of"):
        pick([gone, {**gone, "id": "e5" * 32}], "ada", "forget")


def test_a_node_that_calls_itself_by_the_id_of_another_hides_nobody() -> None:
    impostor = {"id": "b0" * 32, "name": ADA["id"]}
    assert pick([ADA, impostor], ADA["id"]) is ADA
    with pytest.raises(InvalidRequest, match="could be any of"):
        pick([BOB, {"id": "b0" * 32, "name": "a2a2"}], "a2a2")


def test_the_doctor_prints_what_the_head_was_told_lately(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["doctor", "--dump"]) == 0
    said = capsys.readouterr().out
    assert "1.0 s  Tick" in said
    assert "\x1b[2J" not in said
    assert run_command(["doctor", "--dump", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["story"][0] == "The only event:"
    assert ASKED == ["GET /admin/story"] * 2


def test_status_draws_the_ring(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status"]) == 0
    out = capsys.readouterr().out
    assert "tiny: serving" in out
    assert "layers 0–2" in out
    assert run_command(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ready"] is True
