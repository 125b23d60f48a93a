"""A private session in a pool of processes: parts `search` and `speed` of `private.py`, which starts them.

search   six workers on loopback sockets; an OpenAI client asks at the private door; one worker is killed in mid-stream;
         the answer is held against the plain ring's. Then the memory of every worker that is left is searched for the
         text of prompt and answer, for their token ids, and for rows of the embedding of each token. Likewise all that
         each of three machines is sent, with the same roles in one process, where nothing is encrypted.
speed    tokens per second and first token at the private door and at the head's, whose ring of three stages is on
         machines of the same pool, beside what the client was told before; `--scenario` shapes the links of machines.

Memory is what the process has of its own (not files that it maps: the table of weights has all rows). What a process
has freed and not overwritten is found, too.
"""

import argparse
import asyncio
import re
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import torch
from openai import AsyncOpenAI

from muster.lab.processes import Child, Lab, WorkerSpec
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.plan.private.placement import PrivateMember, place
from muster.private.client import NewIds, private_ends
from muster.private.local import LocalSession
from muster.spec.token_shards import CLIENT
from muster.text.tokenizer import load_tokenizer
from muster.wire.frame import Payload, encode
from muster.wire.messages.private import PrivateMessage

WORKERS, MEMORY, WAIT_S = 6, 600_000_000, 150.0
RING = ("w0=0-1", "w1=2-3", "w2=4-5")
"""Of `tiny`, which has six layers."""
PROMPT = (
    "Dear Doctor Quillfeather, since the ninth of Brumaire my left knee aches whenever the marsh harriers migrate. "
    "Please tell nobody in Zwolle, least of all my employer, that I asked you about it. Yours, Ermintrude Vandersloot."
)
ANSWER = 48
ROWS, PIECE = 32, 16
"""So many of the different tokens are looked for, by so many first numbers of their rows: a search takes its time."""


@dataclass
class Table:
    lab: Lab
    head: Child
    client: Child
    workers: list[Child]
    words: list[str]
    """What the client was told before it sent anything."""
    links_s: float | None
    plain: AsyncOpenAI
    private: AsyncOpenAI
    key: str

    async def ask(
        self, door: AsyncOpenAI, tokens: int, kill_at: int = 0, victim: Child | None = None
    ) -> dict[str, Any]:
        began = time.perf_counter()
        arrivals, parts = [], []
        stream = await door.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=tokens, temperature=0, stream=True, extra_body={"ignore_eos": True}
        )
        async for chunk in stream:
            arrivals.append(time.perf_counter() - began)
            parts.append(chunk.choices[0].text)
            if victim is not None and len(parts) == kill_at:
                victim.kill()
        waits = [after - before for before, after in pairwise(arrivals)]
        return {
            "text": "".join(parts),
            "first_token_s": arrivals[0],
            "tokens_per_s": (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]),
            "longest_wait_s": max(waits),
        }


@asynccontextmanager
async def table(folder: Path, scenario: str | None) -> AsyncIterator[Table]:
    """`tiny` in a ring on three of six workers, and a private door on others."""
    async with Lab(folder, scenario) as lab:
        pins = [word for pin in RING for word in ("--pin", pin)]
        head = await lab.head("tiny", *pins, "--dtype", "float32", "--max-context", "512", "--min-nodes", "6")
        ticket = (await head.wait_for("a ticket", lambda event: "ticket" in event, WAIT_S))["ticket"]
        workers = [await lab.worker(WorkerSpec(f"w{number}", "home", MEMORY), ticket) for number in range(WORKERS)]
        url = (await head.wait_for("its address", lambda event: event.get("event") == "listening", WAIT_S))["url"]
        await head.wait_for("a ring", lambda event: event.get("event") == "placed", WAIT_S)
        client = await started(lab, ticket)
        placed = await client.wait_for("a placement", lambda event: event.get("event") == "placed", WAIT_S)
        door = await client.wait_for("its door", lambda event: event.get("event") == "serving", WAIT_S)
        async with (
            AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", timeout=WAIT_S) as plain,
            AsyncOpenAI(base_url=f"{door['url']}/v1", api_key="unused", timeout=WAIT_S) as private,
        ):
            yield Table(lab, head, client, workers, placed["words"], placed["links_s"], plain, private, ticket)


async def started(lab: Lab, ticket: str) -> Child:
    """The private door, as a child of the lab: it keeps nothing in a folder."""
    words = ["private", "serve", "tiny", "--ticket", ticket, "--port", "0", "--max-context", "512", "--json"]
    log = lab.data_dir("client") / "log.txt"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *lab.command("client"), *words, stdout=asyncio.subprocess.PIPE, stderr=errors, start_new_session=True
        )
    child = Child("client", process, log)
    child.reader = asyncio.create_task(child.read())
    lab.children.append(child)
    return child


def search(asked: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(searched(Path(folder), asked.scenario))


async def searched(folder: Path, scenario: str | None) -> dict[str, Any]:
    async with table(folder, scenario) as made:
        # The private door first: what the plain ring's machines read is in their memory afterwards.
        used = [child for child in made.workers if f"{child.name}:" in "\n".join(made.words)]
        victim = used[0]
        private = await made.ask(made.private, ANSWER, kill_at=12, victim=victim)
        alive = [child for child in made.workers if child.alive and child is not victim]
        marks = await asyncio.to_thread(landmarks, PROMPT + private["text"])
        found = {child.name: await asyncio.to_thread(memory_of, child.process.pid, marks) for child in alive}
        control = await asyncio.to_thread(memory_of, made.client.process.pid, marks)
        plain = await made.ask(made.plain, ANSWER)
    return {
        "traffic": await asyncio.to_thread(traffic_of, PROMPT + private["text"], marks),
        "placement": made.words,
        "killed": victim.name,
        "longest_wait_s": private["longest_wait_s"],
        "same_answer": private["text"] == plain["text"],
        "tokens_searched": len(marks.rows),
        "workers": found,
        "client": control,
        "text_found": sum(each["text"] + each["ids"] for each in found.values()),
        "most_rows_percent": max(each["rows_percent"] for each in found.values()),
    }


@dataclass(frozen=True)
class Landmarks:
    """What to look for."""

    texts: tuple[bytes, ...]
    ids: tuple[bytes, ...]
    rows: dict[int, bytes]
    """The beginning of the embedding of some of the tokens."""


def landmarks(text: str) -> Landmarks:
    """Pairs of words, runs of six ids as 32 and 64 bit numbers, and rows of the embedding."""
    path = resolve("tiny")
    tokenizer = load_tokenizer(path)
    try:
        ids = tokenizer.encode(text)
    finally:
        tokenizer.close()
    words = re.findall(r"\w+ \w{4,}", PROMPT)
    runs = [ids[at : at + 6] for at in range(0, len(ids) - 6, 6)]
    packed = [struct.pack(f"<6{kind}", *run) for run in runs for kind in ("q", "i")]
    ends = private_ends(open_directory(path), "float32")
    all_ids = sorted(set(ids))
    different = torch.tensor(all_ids[:: max(1, len(all_ids) // ROWS)][:ROWS])
    states = ends.embed(different, torch.zeros_like(different))
    rows = {token: state[:PIECE].numpy().tobytes() for token, state in zip(different.tolist(), states, strict=True)}
    return Landmarks(tuple(word.encode() for word in words), tuple(packed), rows)


def traffic_of(text: str, marks: Landmarks) -> dict[str, Any]:
    """What machines of three owners are sent, and what of the landmarks is in it."""
    path = resolve("tiny")
    tokenizer = load_tokenizer(path)
    try:
        ids = tokenizer.encode(text)
    finally:
        tokenizer.close()
    placement = place([PrivateMember(f"machine {number}", f"owner {number}") for number in range(3)])
    holder = {role: name for name, roles in placement.roles.items() for role in roles}
    got = {name: bytearray() for name in placement.roles}

    def watch(message: PrivateMessage, payload: Payload) -> None:
        if message.receiver != CLIENT:
            got[holder[message.receiver]] += b"".join(encode(message, payload))

    session = LocalSession(open_directory(path), placement.rule, watch=watch)
    session.step([NewIds(0, 0, tuple(ids[:-8]))])
    for at in range(len(ids) - 8, len(ids)):
        session.step([NewIds(0, at, (ids[at],))])
    found = {}
    for name, data in got.items():
        roles = placement.roles[name]
        mine = {token for at, token in enumerate(ids) if any(placement.rule.sees(role, at) for role in roles)}
        rows = {token for token, row in marks.rows.items() if row in data}
        found[name] = {
            "bytes": len(data),
            "text": sum(each in data for each in marks.texts),
            "ids": sum(each in data for each in marks.ids),
            "rows": len(rows),
            "rows_of_others": len(rows - mine),
            "own_percent": round(100 * len(mine & set(marks.rows)) / len(marks.rows), 1),
        }
    return found


def memory_of(process: int, marks: Landmarks) -> dict[str, Any]:
    """Of the process's own memory: how much, and what of the landmarks is in it."""
    texts: set[bytes] = set()
    ids: set[bytes] = set()
    rows: set[int] = set()
    size = 0
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        for start, end in own_regions(process):
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:
                continue
            size += len(data)
            data = without_empty_pages(data)
            texts |= {each for each in marks.texts if each in data}
            ids |= {each for each in marks.ids if each in data}
            rows |= {token for token, row in marks.rows.items() if token not in rows and row in data}
    percent = round(100 * len(rows) / len(marks.rows), 1)
    return {"bytes": size, "text": len(texts), "ids": len(ids), "rows": len(rows), "rows_percent": percent}


def without_empty_pages(data: bytes) -> bytes:
    """Most of what a process has asked for holds nothing."""
    pages = numpy.frombuffer(data, dtype=numpy.uint64).reshape(-1, 512)
    return pages[pages.any(axis=1)].tobytes()


def own_regions(process: int) -> Sequence[tuple[int, int]]:
    """Readable memory that is no file's."""
    found = []
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        span, rights, _, _, inode, *_ = line.split()
        if rights.startswith("rw") and inode == "0":
            start, end = (int(word, 16) for word in span.split("-"))
            found.append((start, end))
    return found


def speed(asked: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(sped(Path(folder), asked.scenario, 16 if asked.quick else ANSWER))


async def sped(folder: Path, scenario: str | None, tokens: int) -> dict[str, Any]:
    async with table(folder, scenario) as made:
        found = {}
        for name, door in (("private", made.private), ("plain", made.plain)):
            await made.ask(door, 2)  # dials, and warms up
            found[name] = await made.ask(door, tokens)
    return {
        "scenario": scenario or "loopback",
        **found,
        "forecast": {"links_s": made.links_s, "words": made.words[-2:]},
        "same_answer": found["private"]["text"] == found["plain"]["text"],
        "times_slower": found["plain"]["tokens_per_s"] / found["private"]["tokens_per_s"],
        "links_of_a_token_s": 1 / found["private"]["tokens_per_s"] if made.links_s is not None else None,
    }
