"""Completions over a head's HTTP door, many at once, with what a spectator wants to know of each. No processes here."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

CONNECT_S, SILENCE_S = 10.0, 120.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """`temperature` 0 is greedy; either way the answer is a function of the prompt and the seed."""

    name: str
    text: str
    temperature: float = 0.0
    seed: int = 0


@dataclass(slots=True)
class Stream:
    """One answer as it came."""

    prompt: Prompt
    text: str = ""
    num_tokens: int = 0
    finish: str | None = None
    error: str | None = None
    longest_silence_s: float = 0.0
    """Between two pieces of text, after the first."""
    arrivals: list[float] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.error is not None or self.finish is None


Watch = Callable[[list[Stream]], None]


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(CONNECT_S, read=SILENCE_S))


async def run_all(
    client: httpx.AsyncClient, model: str, prompts: Sequence[Prompt], max_tokens: int, watch: Watch
) -> tuple[list[Stream], float]:
    """All prompts at once; the finished streams and the seconds they took. `watch` sees them after every piece."""
    streams = [Stream(prompt) for prompt in prompts]
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(_follow(client, model, stream, max_tokens, lambda: watch(streams)))
    return streams, time.perf_counter() - started


async def _follow(
    client: httpx.AsyncClient, model: str, stream: Stream, max_tokens: int, moved: Callable[[], None]
) -> None:
    """Fill `stream`; a failure is kept in it, since the other streams go on."""
    prompt = stream.prompt
    body = {"model": model, "prompt": prompt.text, "max_tokens": max_tokens, "stream": True}
    body |= {"temperature": prompt.temperature, "seed": prompt.seed, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.is_error:
                stream.error = (await response.aread()).decode(errors="replace")[:500]
                return
            async for line in response.aiter_lines():
                if line.startswith("data:") and line != "data: [DONE]":
                    _take(stream, json.loads(line[5:]))
                    moved()
    except httpx.HTTPError as error:
        stream.error = str(error) or type(error).__name__


def _take(stream: Stream, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        stream.error = chunk["error"].get("message", "error without words")
    if usage := chunk.get("usage"):
        stream.num_tokens = usage["completion_tokens"]
    for choice in chunk.get("choices", []):
        if piece := choice.get("text"):
            now = time.perf_counter()
            if stream.arrivals:
                stream.longest_silence_s = max(stream.longest_silence_s, now - stream.arrivals[-1])
            stream.arrivals.append(now)
            stream.text += piece
        stream.finish = choice.get("finish_reason") or stream.finish
