"""What a stranger's template or tokenizer does to the process that runs it, and what becomes of the request."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from muster.errors import InvalidRequest, Unsupported, WeightsInvalid
from muster.text.calls import Limit
from muster.text.chat import Message, render_chat
from muster.text.tokenizer import load_tokenizer
from tests.text.small_tokenizers import Converted

ECHO = "{% for m in messages %}{{ m.content }}{% endfor %}"
WHEN_ASKED = "{% if messages[0].content == 'go' %}%s{% endif %}" + ECHO
DEEDS = {
    "a loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ (10 ** (10 ** 9)) % 3 }}",
    "a gigabyte": "{{ 'a' * 3000000000 }}",
    "a wide field": "{{ '%3000000000d' % 1 }}",
    "a list": "{{ ([1] * 999999999) | length }}",
    "a long text": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
}
HI = [Message("user", "hi")]


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.text.tokenizer.RENDERING", Limit(0.5, 256 * 2**20))
    monkeypatch.setattr("muster.text.tokenizer.ENCODING", Limit(0.5, 128 * 2**20))


def workers() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_template_that_breaks_a_limit_is_refused_once_and_for_all(converted: Converted, deed: str) -> None:
    tokenizer = converted.tokenizer(chat_template=DEEDS[deed] + ECHO)
    for _ in range(2):
        before, started_s = workers(), time.monotonic()
        with pytest.raises(Unsupported, match=r"chat template .* so it is not used; send a prompt to /v1/completions"):
            render_chat(tokenizer, HI)
        assert workers() <= before
        assert time.monotonic() - started_s < 0.4
    assert tokenizer.decode(tokenizer.encode("texts go on")) == "texts go on"


@pytest.mark.parametrize("deed", ["a loop", "a gigabyte"])
def test_a_template_that_waits_for_a_word_before_it_misbehaves_is_found_out_then(
    converted: Converted, deed: str
) -> None:
    tokenizer = converted.tokenizer(chat_template=WHEN_ASKED.replace("%s", DEEDS[deed]))
    assert render_chat(tokenizer, HI).text == "hi"
    with pytest.raises(Unsupported, match="so it is not used"):
        render_chat(tokenizer, [Message("user", "go")])
    with pytest.raises(Unsupported, match="so it is not used"):
        render_chat(tokenizer, HI)


@pytest.mark.parametrize(
    ("quadratic", "content"),
    [
        ("{% for m in messages %}{% set n.t = n.t ~ m.content %}{% endfor %}{{ n.t }}", "a" * 800),
        ("{% for m in messages %}{% set n.t = messages | map(attribute='content') | join %}{% endfor %}{{ n.t }}", "a"),
    ],
)
def test_a_huge_conversation_cannot_have_an_honest_template_refused(
    converted: Converted, quadratic: str, content: str
) -> None:
    tokenizer = converted.tokenizer(chat_template="{% set n = namespace(t='') %}" + quadratic)
    huge = [Message("user", content)] * 9_000
    with pytest.raises(InvalidRequest, match="send fewer or shorter") as caught:
        render_chat(tokenizer, huge)
    assert not isinstance(caught.value, Unsupported)
    assert render_chat(tokenizer, HI).text == "hi"


def test_no_request_starts_a_process_of_its_own(converted: Converted) -> None:
    before = workers()
    tokenizer = converted.tokenizer(chat_template=ECHO)
    (worker,) = workers() - before
    for _ in range(20):
        tokenizer.encode("hello")
        render_chat(tokenizer, HI)
    assert workers() - before == {worker}


def test_short_texts_do_not_wait_for_long_ones(converted: Converted) -> None:
    tokenizer = converted.tokenizer()
    long = tokenizer.encoding("the quick brown fox " * 50_000)
    assert tokenizer.encode("hello") == tokenizer.encode("hello")
    assert not long.done()
    assert len(long.result()) > 100_000


def test_a_worker_that_died_while_idle_is_replaced(converted: Converted) -> None:
    before = workers()
    tokenizer = converted.tokenizer()
    (worker,) = workers() - before
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_workers_end_with_their_tokenizer_and_with_their_process(converted: Converted) -> None:
    before = workers()
    tokenizer = converted.tokenizer()
    assert workers() - before
    del tokenizer
    assert workers() <= before
    closed = converted.tokenizer()
    closed.close()
    assert workers() <= before


def test_a_killed_head_leaves_no_worker_behind() -> None:
    program = """
        import psutil, tempfile, time
        from muster.text.calls import Call, Limit, Load
        from muster.text.confined import Confined
        confined = Confined("muster.text.sandbox.answer", tempfile.TemporaryFile())
        confined.call(Call(Limit(10, 2**30), Load()))
        print(psutil.Process().children()[0].pid, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as head:
        assert head.stdout is not None
        worker = psutil.Process(int(head.stdout.readline()))
        head.kill()
    worker.wait(timeout=5)


def split_by(expression: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [step, {"type": "ByteLevel", **BYTE_LEVEL}]}}


BYTE_LEVEL = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
HANGING = split_by("a*a*a*[^a ]")
"""Takes a minute for the text below, and fails nowhere."""
PANICKING = split_by("(a+)+$")


@pytest.mark.parametrize(
    ("entries", "text", "words"),
    [
        (HANGING, ("a" * 250 + " ") * 40, r"takes more than 0\.5 s of computing; send a shorter one"),
        (PANICKING, "a" * 40 + "!", "tokenizer fails on this text .*retry-limit"),
    ],
)
def test_a_text_that_a_tokenizer_fails_on_is_refused_and_others_are_not(
    converted: Converted, entries: dict[str, Any], text: str, words: str
) -> None:
    tokenizer = converted.tokenizer(tokenizer_json=converted.described(lambda described: described.update(entries)))
    with pytest.raises(InvalidRequest, match=words):
        tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode("the quick fox")) == "the quick fox"


@pytest.mark.parametrize(
    "entries",
    [
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},  # panics when it is used
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "YWJj"}},  # panics when it is read
        split_by("("),
        {"decoder": {"type": "Strip", "content": "a"}},
    ],
)
def test_a_tokenizer_that_cannot_take_one_letter_is_refused_at_loading(
    converted: Converted, entries: dict[str, Any]
) -> None:
    hostile = converted.described(lambda described: described.update(entries))
    with pytest.raises(WeightsInvalid, match=r"The tokenizer in .* cannot be read .*; put a valid tokenizer\.json"):
        converted.tokenizer(tokenizer_json=hostile)


def test_a_tokenizer_that_panics_while_its_folder_is_read_is_refused(converted: Converted, tmp_path: Path) -> None:
    shutil.copytree(converted.folder, tmp_path / "model")
    described = converted.described(
        lambda entries: entries.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "YWJj"})
    )
    (tmp_path / "model" / "tokenizer.json").write_bytes(described)
    with pytest.raises(WeightsInvalid, match=r"cannot be read .*Cannot parse precompiled_charsmap"):
        load_tokenizer(tmp_path / "model")
