"""Many completions at once: what came, how long it was silent, and which ones failed."""

import json

import anyio
import httpx

from muster.lab.prompts import excerpts
from muster.lab.streams import Prompt, Stream, run_all


def event(text: str = "", finish: str | None = None, tokens: int | None = None) -> str:
    usage = {"completion_tokens": tokens} if tokens is not None else None
    return "data: " + json.dumps({"choices": [{"text": text, "finish_reason": finish}], "usage": usage}) + "\n\n"


def answer(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    match body["prompt"]:
        case "refused":
            return httpx.Response(503, json={"error": {"message": "Nobody is here; wait.", "code": "pool_unavailable"}})
        case "broken off":
            return httpx.Response(200, content=event("half"))
        case "in error":
            return httpx.Response(200, content=event("half") + 'data: {"error": {"message": "Gone; again."}}\n\n')
        case "unreachable":
            raise httpx.ConnectError("refused", request=request)
    words = event(" one") + event(" two", "length") + event(tokens=body["max_tokens"]) + "data: [DONE]\n\n"
    return httpx.Response(200, content=words)


def run(*prompts: str) -> list[Stream]:
    seen: list[int] = []

    async def scene() -> list[Stream]:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(base_url="http://head", transport=transport) as client:
            wanted = [Prompt(text, text) for text in prompts]
            streams, seconds = await run_all(client, "tiny", wanted, 9, lambda now: seen.append(len(now)))
        assert seconds > 0
        return streams

    streams = anyio.run(scene)
    assert set(seen) <= {len(prompts)}
    return streams


def test_a_stream_keeps_its_text_its_tokens_and_its_end() -> None:
    (stream,) = run("hello")
    assert (stream.text, stream.num_tokens, stream.finish, stream.failed) == (" one two", 9, "length", False)
    assert len(stream.arrivals) == 2


def test_one_failure_of_whatever_kind_leaves_the_others_alone() -> None:
    streams = run("hello", "refused", "broken off", "in error", "unreachable", "hello again")
    assert [stream.failed for stream in streams] == [False, True, True, True, True, False]
    assert "Nobody is here" in str(streams[1].error)
    assert (streams[2].text, streams[2].error) == ("half", None)
    assert streams[3].error == "Gone; again."


def test_the_prompts_are_python_cut_in_the_middle() -> None:
    texts = excerpts()
    assert len(texts) == 6
    for name, text in texts.items():
        assert not text.endswith("\n"), name
        assert 200 < len(text) < 2000, name
