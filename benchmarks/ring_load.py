"""Offline load on a pool: always so many requests, each followed by the next as soon as it ends. Counts tokens.

A client that takes little of the processor, since it shares it with the machines that it measures: it reads bytes, and
every event of a stream is one token. Knows nothing of stages.
"""

import asyncio
import json
import random
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

PROMPT_TOKENS = 4
"""Few, so that it hardly matters how many prompts a window happens to have."""
OUTPUT_TOKENS = (16, 48)
"""The shortest and the longest answer; all lengths between are as frequent, so that no two streams stay in step."""
_HEADERS = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
)
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True, slots=True)
class Asked:
    prompt: tuple[int, ...]
    output_tokens: int


def requests(seed: int, vocab_size: int) -> "Requests":
    return Requests(random.Random(seed), vocab_size)


@dataclass(slots=True)
class Requests:
    """An endless supply."""

    random: random.Random
    vocab_size: int

    def __next__(self) -> Asked:
        prompt = tuple(self.random.randrange(1, self.vocab_size) for _ in range(PROMPT_TOKENS))
        return Asked(prompt, self.random.randint(*OUTPUT_TOKENS))


@dataclass(slots=True)
class Load:
    """`async with Load(url, model, concurrency, requests) as load:` and then `load.tokens` grows."""

    url: str
    model: str
    concurrency: int
    requests: Requests
    tokens: int = 0
    ended: int = 0
    failed: int = 0
    miscounted: int = 0
    """Answers whose events were not one for each token and one for the usage."""
    round_s: float = 0.0
    """Seconds of all answers that ended; over `ended_tokens` it is the time from one token to the next."""
    ended_tokens: int = 0
    words: str = ""
    """Of the last failure."""
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._one_after_the_other()) for _ in range(self.concurrency)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one_after_the_other(self) -> None:
        first = True
        while True:
            began_s, asked = time.perf_counter(), next(self.requests)
            if first:  # as if the load had been there for long: otherwise streams go in waves for minutes
                asked = replace(asked, output_tokens=self.requests.random.randint(1, asked.output_tokens))
            first = False
            try:
                body = await self.answer(asked)
            except (OSError, ValueError) as error:
                self.failed, self.words = self.failed + 1, repr(error)
                await asyncio.sleep(0.5)
                continue
            self.ended += 1
            self.round_s += time.perf_counter() - began_s
            self.ended_tokens += body

    async def answer(self, asked: Asked) -> int:
        """Its tokens."""
        place = urlsplit(self.url)
        body = {"model": self.model, "prompt": list(asked.prompt), "max_tokens": asked.output_tokens, "stream": True}
        body |= {"temperature": 0.0, "ignore_eos": True, "stream_options": {"include_usage": True}}
        packed = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            writer.write(_HEADERS + f"Content-Length: {len(packed)}\r\n\r\n".encode() + packed)
            counted, tail = 0, b""
            while data := await reader.read(65536):
                events = data.count(b"data: {")
                counted += events
                self.tokens += events
                tail = (tail + data)[-600:]
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        found = _USAGE.findall(tail)
        if not found:
            raise ValueError(tail[-300:])
        tokens = int(found[-1])
        self.tokens += tokens - counted  # the usage is an event as well, and one may lie across two reads
        self.miscounted += abs(tokens - counted) > 1
        return tokens


async def texts(url: str, model: str, asked: list[Asked]) -> list[str]:
    """What comes of these requests, all at once."""

    async def one(request: Asked) -> str:
        place = urlsplit(url)
        body = {"model": model, "prompt": list(request.prompt), "max_tokens": request.output_tokens}
        packed = json.dumps(body | {"temperature": 0.0, "ignore_eos": True}).encode()
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(_HEADERS + f"Content-Length: {len(packed)}\r\n\r\n".encode() + packed)
        answer = (await reader.read(-1)).split(b"\r\n\r\n", 1)[1]
        writer.close()
        record = json.loads(answer)
        if "choices" not in record:
            raise RuntimeError(f"No answer but {answer[:500]!r}")
        return str(record["choices"][0]["text"])

    return list(await asyncio.gather(*(one(request) for request in asked)))
