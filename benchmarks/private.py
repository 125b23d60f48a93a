"""Private sessions: exact, counted on real sockets, and beside secure multi-party computation on the same machine.

python benchmarks/private.py [exact] [wire] [against] [search] [speed] [--quick] [--crypten FOLDER] [--json FILE]

exact     every architecture of the tests, several rules: logits of a prompt, and 64 greedy tokens, in one process
wire      six processes with one role each, `tiny` in float32: payload bytes against the formula
against   three processes as `muster private node` (gap 9 for each), 128 tokens through layers of the size of BERT-base
          with a causal mask and ReLU, beside CrypTen with two parties (see `private_crypten`), all on loopback
search    see `private_pool`
speed     likewise
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.private_pool import search, speed
from benchmarks.records import record_parts
from muster.client.private.session import PrivateSession, Seated, open_private
from muster.head.private import PrivateMachines, PrivateOptions
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.model.conformance import MemoryWeights, random_model
from muster.model.source import resolve
from muster.model.weights import Weights, open_directory
from muster.node.runners.private.model import config_digest
from muster.private.client import NewIds, PrivateClient, private_ends
from muster.private.local import LocalSession, generate_greedily
from muster.private.network import private_network
from muster.private.traffic import rounds, step_bytes
from muster.spec.token_shards import TokenShards
from muster.wire.frame import Payload
from muster.wire.messages.private import PartialRows, PrivateMessage
from muster.wire.ticket import Ticket, parse
from tests.model.families import FAMILIES

RULES = (TokenShards(8, 2, 3), TokenShards(2, 3, 3), TokenShards(3, 2, 4), TokenShards(1, 2, 5), TokenShards(4, 3, 1))
PROMPT, ANSWER, TIE = 24, 64, 1e-4
TOKENS = 128


def exact(asked: argparse.Namespace) -> dict[str, Any]:
    families = list(FAMILIES)[:3] if asked.quick else list(FAMILIES)
    found = {}
    for number, family in enumerate(families):
        config = FAMILIES[family]()
        config.max_position_embeddings = 2 * (PROMPT + ANSWER)
        model = random_model(config)
        weights = MemoryWeights(model.config.to_json_string(use_diff=False), model.state_dict())
        rules = RULES[number % 2 :: 2]
        found[family] = {f"{r.comp_nodes},{r.cluster},{r.shards}": one(model, weights, r) for r in rules}
        print(family, found[family], flush=True)
    return found


def one(model: Any, weights: Weights, rule: TokenShards) -> dict[str, Any]:
    ids = torch.randint(3, 61, (PROMPT,), generator=torch.Generator().manual_seed(1)).tolist()
    asked_of: dict[tuple[int, int, int, int], int] = {}

    def watch(message: PrivateMessage, payload: Payload) -> None:
        if isinstance(message, PartialRows):
            key = (message.step, message.layer, message.sender, message.receiver)
            asked_of[key] = asked_of.get(key, 0) + 1

    session = LocalSession(weights, rule, watch=watch)
    made = generate_greedily(session, ids, ANSWER)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[*ids, *made]]), use_cache=False).logits[0].float()
    logits = session.step([NewIds(1, 0, (*ids, *made))], every=True)
    best = expected[PROMPT - 1 : -1]
    behind = best.amax(1) - best.gather(1, torch.tensor(made)[:, None])[:, 0]
    return {
        "largest_difference": float((logits - expected).abs().max()),
        "greedy_differ": int((behind > TIE).sum()),
        "round_trips": max(asked_of.values()),
    }


@contextmanager
def nodes(model: str, count: int, folder: Path) -> Iterator[list[Ticket]]:
    """Processes of `muster private node` on loopback."""
    started = []
    try:
        for number in range(count):
            words = [sys.executable, "-m", "muster.cli.main", "private", "node", model, "--host", "127.0.0.1", "--json"]
            place = ["--data-dir", str(folder / f"machine{number}")]
            started.append(subprocess.Popen([*words, *place], stdout=subprocess.PIPE, text=True))
        yield [ready(process) for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)


def ready(process: "subprocess.Popen[str]") -> Ticket:
    assert process.stdout is not None
    for line in process.stdout:
        record = json.loads(line)
        if record.get("event") == "ready":
            return parse(record["ticket"], time.time())
    raise SystemExit("a machine did not start")


def wire(asked: argparse.Namespace) -> dict[str, Any]:
    rule, answer = TokenShards(8, 2, 2), 4 if asked.quick else 32
    weights = open_directory(resolve("tiny"))
    network = private_network(weights.config_json)

    async def measured(tickets: Sequence[Ticket]) -> dict[str, Any]:
        endpoint = await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1")
        client = PrivateClient(private_ends(weights, "float32"), rule, network.windows, 256, epoch=1)
        seats = [
            Seated(ticket.address, (role,), ticket.secret) for role, ticket in zip(rule.roles, tickets, strict=True)
        ]
        session = await open_private(endpoint, client, seats, config_digest(weights.config_json), "float32")
        await walk(session, TOKENS, answer)
        await session.close()
        await endpoint.close()
        return sent(session)

    with tempfile.TemporaryDirectory() as folder, nodes("tiny", len(rule.roles), Path(folder)) as tickets:
        found = asyncio.run(measured(tickets))
    hidden = 256
    stated = sum(step_bytes(rule, network.layers, tokens, 4, hidden) for tokens in (TOKENS, *[1] * answer))
    return {**found, "stated_payload_bytes": stated, "apart": abs(found["payload_bytes"] - stated), "steps": 1 + answer}


async def walk(session: PrivateSession, prompt: int, answer: int) -> list[float]:
    """Seconds of the prompt's step and of each token's."""
    seconds, start = [], 0
    for new in (tuple(range(3, 3 + prompt)), *[(7,)] * answer):
        before = time.perf_counter()
        pending = await session.step([NewIds(0, start, new)])
        await asyncio.to_thread(pending.logits)
        seconds.append(time.perf_counter() - before)
        start += len(new)
    session.forget(0)
    return seconds


def sent(session: PrivateSession) -> dict[str, int]:
    """By all processes together."""
    everybody = [session.sent, *session.closed]
    return {name: sum(getattr(each, name) for each in everybody) for name in ("frames", "payload_bytes", "frame_bytes")}


def against(asked: argparse.Namespace) -> dict[str, Any]:
    layers = 1 if asked.quick else 12
    with tempfile.TemporaryDirectory() as folder:
        ours = shared_out(layers, Path(folder), 3 if asked.quick else 7)
        print(ours, flush=True)
        theirs = crypten(layers, Path(folder), asked.crypten)
    print(theirs, flush=True)
    return {
        "layers": layers,
        "ours": ours,
        "crypten": theirs,
        "times": theirs["seconds"] / ours["median_s"],
        "bytes": theirs["bytes"] / ours["frame_bytes_a_prompt"],
    }


def shared_out(layers: int, folder: Path, repeats: int) -> dict[str, Any]:
    config = GPT2Config(
        vocab_size=1000, n_embd=768, n_layer=layers, n_head=12, n_positions=2 * TOKENS, activation_function="relu",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    random_model(config).save_pretrained(folder / "model")
    weights = open_directory(folder / "model")

    async def measured(tickets: list[Ticket]) -> dict[str, Any]:
        endpoint = await IrohEndpoint.bind(Identity.generate(), host="127.0.0.1")
        options = PrivateOptions("model", (("", ""),) * len(tickets), 9, 1, "float32", None, "", 0)
        machines = PrivateMachines(endpoint, weights, options, tickets)
        session = await machines.open(frozenset())
        await walk(session, TOKENS, 0)  # all dial, and warm up
        seconds = [(await walk(session, TOKENS, 0))[0] for _ in range(repeats)]
        await session.close()
        await endpoint.close()
        total = sent(session)
        rule = session.client.rule
        return {
            "rule": f"{rule.comp_nodes},{rule.cluster},{rule.shards}", "machines": len(tickets),
            "median_s": statistics.median(seconds), "seconds": seconds,
            "payload_bytes_a_prompt": total["payload_bytes"] / (repeats + 1),
            "frame_bytes_a_prompt": total["frame_bytes"] / (repeats + 1),
            "one_role_each_bytes": step_bytes(rule, machines.parts.network.layers, TOKENS, 4, 768),
            "round_trips": rounds(machines.parts.network.layers),
        }  # fmt: skip

    with nodes(str(folder / "model"), 3, folder) as tickets:
        return asyncio.run(measured(tickets))


def crypten(layers: int, folder: Path, packages: str) -> dict[str, Any]:
    file = folder / "crypten.json"
    program = str(Path(__file__).with_name("private_crypten.py"))
    words = [str(file), str(layers), str(TOKENS), packages]
    parties = [
        subprocess.Popen([sys.executable, program, str(rank), *words], env={**os.environ, "OMP_NUM_THREADS": "1"})
        for rank in range(2)
    ]
    codes = [party.wait(280) for party in parties]
    if any(codes) or not file.exists():
        raise SystemExit("CrypTen did not run; see benchmarks/private_crypten.py for what it needs, and --crypten")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


PARTS = {"exact": exact, "wire": wire, "against": against, "search": search, "speed": speed}
CLAIMED = {
    "exact": lambda found: {
        "private.1.exact": max(rule["largest_difference"] for rules in found.values() for rule in rules.values()),
        "private.1.greedy": sum(rule["greedy_differ"] for rules in found.values() for rule in rules.values()),
        "private.1.rounds": max(rule["round_trips"] for rules in found.values() for rule in rules.values()),
    },
    "wire": lambda found: {"private.1.bytes": found["apart"]},
    "search": lambda found: {
        "private.6.same": float(found["same_answer"]),
        "private.6.text": found["text_found"] + sum(one["text"] + one["ids"] for one in found["traffic"].values()),
        "private.6.others": sum(one["rows_of_others"] for one in found["traffic"].values()),
        "private.6.rows": found["most_rows_percent"],
    },
    "speed": lambda found: {"private.5.slower": found["times_slower"]},
    "against": lambda found: {"private.3.time": found["times"], "private.3.bytes": found["bytes"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="all if none is named")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--crypten", default=".crypten", metavar="FOLDER", help="where CrypTen's packages are")
    parser.add_argument("--scenario", help="with search and speed: shape the links of the machines so")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)

    def run(part: str) -> dict[str, Any]:
        found = PARTS[part](asked)
        print(part, found, flush=True)
        return found

    record_parts(
        asked.json, {"benchmark": "private"}, asked.parts or list(PARTS), run, {"quick": str(asked.quick)}, CLAIMED
    )


if __name__ == "__main__":
    main()
