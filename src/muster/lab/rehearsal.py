"""The rehearsal that `muster demo` shows: answer the prompts undisturbed, answer them again and kill a worker, compare.

Knows processes and streams; knows nothing of terminals: a `Spectator` is told what happens.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from muster.errors import InvalidRequest, PoolUnavailable
from muster.lab.processes import Child, Event, Lab, WorkerSpec
from muster.lab.streams import Prompt, Stream, Watch, client_of, run_all
from muster.link.shaped import load_scenario

BOOT_S, PLACED_S = 90.0, 180.0


class Spectator(Protocol):
    def say(self, sentence: str) -> None:
        """A step of the rehearsal."""

    def placement(self, title: str, stages: Sequence[Event]) -> None: ...

    def streams(self, streams: Sequence[Stream]) -> None:
        """Some answer has grown; called often."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    model: str
    workers: tuple[WorkerSpec, ...]
    prompts: tuple[Prompt, ...]
    scenario: str | None
    """Name of a shipped scenario, or path of a TOML file."""
    head_region: str
    max_tokens: int = 64
    kill: str | None = None
    """Name of the worker to kill; None picks one from the middle of the ring."""
    kill_after: float = 0.3
    """Share of all text that has arrived when it happens."""
    dtype: str = "float32"
    """Full precision, so that a repaired ring of another split computes the very same tokens."""


@dataclass(slots=True)
class Outcome:
    """What happened, for people and for programs."""

    calm: list[Stream] = field(default_factory=list)
    calm_s: float = 0.0
    disturbed: list[Stream] = field(default_factory=list)
    disturbed_s: float = 0.0
    before: list[Event] = field(default_factory=list)
    after: list[Event] = field(default_factory=list)
    killed: str = ""

    @property
    def identical(self) -> int:
        """Streams that ended, in spite of the kill, as they would have without it."""
        pairs = zip(self.calm, self.disturbed, strict=True)
        return sum(a.text == b.text and a.finish == b.finish and not b.failed for a, b in pairs)

    @property
    def failed(self) -> int:
        return sum(stream.failed for stream in [*self.calm, *self.disturbed])

    def record(self, workers: Sequence[WorkerSpec]) -> dict[str, Any]:
        tokens = sum(stream.num_tokens for stream in self.disturbed)
        calm_tokens = sum(stream.num_tokens for stream in self.calm)
        return {
            "tokens": tokens,
            "tokens_per_s": round(tokens / max(self.disturbed_s, 1e-9), 2),
            "nodes": [
                {"name": w.name, "region": w.region, "memory_bytes": w.memory_bytes, "speed": w.speed} for w in workers
            ],
            "placement": self.before,
            "placement_after": self.after,
            "killed": self.killed,
            "requests": len(self.disturbed),
            "requests_failed": self.failed,
            "requests_identical": self.identical,
            "undisturbed": {"tokens": calm_tokens, "tokens_per_s": round(calm_tokens / max(self.calm_s, 1e-9), 2)},
            "longest_silence_s": round(max((s.longest_silence_s for s in self.disturbed), default=0.0), 2),
            "errors": [stream.error for stream in [*self.calm, *self.disturbed] if stream.error],
            "text": "\n\n".join(f"# {s.prompt.name}\n{s.prompt.text}{s.text}" for s in self.disturbed),
            "streams": [
                {"name": s.prompt.name, "prompt": s.prompt.text, "text": s.text, "finish": s.finish}
                for s in self.disturbed
            ],
        }


async def rehearse(rehearsal: Rehearsal, lab: Lab, spectator: Spectator) -> Outcome:
    """Raises `MusterError` if the pool never comes up; a stream that fails later is counted, not raised."""
    outcome = Outcome()
    spectator.say(
        f"starting a head in {rehearsal.head_region} and {len(rehearsal.workers)} workers that join by ticket"
    )
    head, children = await gather(lab, rehearsal, lambda head: narrate(head, spectator, outcome), spectator.say)
    outcome.before = with_delays(await placed(head, num_workers=len(children)), rehearsal.scenario)
    spectator.placement("the ring", outcome.before)
    victim = choose_victim(rehearsal.kill, outcome.before, children)
    url = (await head.wait_for("its address", is_event("listening"), BOOT_S))["url"]
    async with client_of(url) as client:
        spectator.say(f"{len(rehearsal.prompts)} streams, undisturbed")
        outcome.calm, outcome.calm_s = await run_all(
            client, rehearsal.model, rehearsal.prompts, rehearsal.max_tokens, spectator.streams
        )
        outcome.killed = victim.name
        spectator.say(f"the same streams again; {victim.name} will be killed on the way")
        seen = len(head.events)
        watch = executioner(rehearsal, outcome, victim, spectator)
        outcome.disturbed, outcome.disturbed_s = await run_all(
            client, rehearsal.model, rehearsal.prompts, rehearsal.max_tokens, watch
        )
    repaired = await head.wait_for("a repaired ring", is_event("placed"), PLACED_S, since=seen)
    outcome.after = with_delays(repaired["stages"], rehearsal.scenario)
    spectator.placement("the repaired ring", outcome.after)
    return outcome


class Gathered(Protocol):
    """What a pool is made of."""

    @property
    def model(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def head_region(self) -> str: ...

    @property
    def workers(self) -> tuple[WorkerSpec, ...]: ...


async def gather(
    lab: Lab, wanted: Gathered, follow: Callable[[Child], Coroutine[Any, Any, None]], say: Callable[[str], None]
) -> tuple[Child, list[Child]]:
    """A head, which is followed from then on, and workers that join it by its ticket."""
    options = ["--dtype", wanted.dtype, "--min-nodes", str(len(wanted.workers))]
    head = await lab.head(wanted.model, *options, region=wanted.head_region)
    lab.background(follow(head))
    ticket = (await head.wait_for("its ticket", is_event("listening"), BOOT_S))["ticket"]
    children = [await lab.worker(spec, ticket) for spec in wanted.workers]
    say("the workers start; each loads PyTorch and measures itself, which takes most of the time")
    return head, children


async def narrate(head: Child, spectator: Spectator, outcome: Outcome) -> None:
    """What the head tells of its machines, in a sentence each; of the end, when all are stopped, nothing."""
    async for event in head.follow():
        if outcome.after:
            return
        match event.get("event"):
            case "reading":
                spectator.say(f"the head reads {event['model']}")
            case "listening":
                spectator.say(f"the head is at {event['url']} and has a ticket")
            case "joined":
                spectator.say(f"{event['name']} joined from {event['region']}")
            case "left":
                spectator.say(f"{event['name']} is gone")
            case "waiting":
                # What follows is advice to whoever runs a pool, and here nobody can follow it.
                spectator.say(event["reason"].partition("; ")[0].rstrip("."))


async def placed(head: Child, num_workers: int) -> list[Event]:
    """The stages of the first ring, once it serves."""
    event = await head.wait_for(f"a ring of {num_workers} workers", is_event("placed"), PLACED_S)
    stages: list[Event] = event["stages"]
    return stages


def with_delays(stages: Sequence[Event], scenario: str | None) -> list[Event]:
    """The stages, each with the scenario's one-way delay to the next one; the last one's next is the first."""
    if scenario is None:
        return list(stages)
    regions = [stage["region"] for stage in stages]
    links = map(load_scenario(scenario).between, regions, regions[1:] + regions[:1])
    return [stage | {"latency_s": link.latency_s} for stage, link in zip(stages, links, strict=True)]


def choose_victim(name: str | None, stages: Sequence[Event], children: Sequence[Child]) -> Child:
    wanted = name or stages[len(stages) // 2]["name"]
    found = next((child for child in children if child.name == wanted), None)
    if found is None:
        raise InvalidRequest(
            f"No worker is called {wanted}; choose from {', '.join(c.name for c in children)}.", "kill"
        )
    if wanted not in {stage["name"] for stage in stages}:
        raise PoolUnavailable(f"{wanted} is a standby and its loss would show nothing; kill another one.")
    return found


def executioner(rehearsal: Rehearsal, outcome: Outcome, victim: Child, spectator: Spectator) -> Watch:
    """A watcher of streams that kills the victim once enough text has arrived, measured by the undisturbed run."""
    enough = rehearsal.kill_after * sum(len(stream.text) for stream in outcome.calm)

    def watch(streams: list[Stream]) -> None:
        if not victim.killed and sum(len(stream.text) for stream in streams) >= enough:
            victim.kill()
            spectator.say(f"killed {victim.name} (kill -9, process {victim.process.pid})")
        spectator.streams(streams)

    return watch


def is_event(name: str) -> Callable[[Event], bool]:
    return lambda event: event.get("event") == name


def run(rehearsal: Rehearsal, folder: Path, spectator: Spectator) -> Outcome:
    """`rehearse` in its own event loop, with every child stopped at the end."""

    async def whole() -> Outcome:
        async with Lab(folder, rehearsal.scenario) as lab:
            return await rehearse(rehearsal, lab, spectator)

    return asyncio.run(whole())
