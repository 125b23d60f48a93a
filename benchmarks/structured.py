"""Schemas and answers: how many of a few hundred schemas are enforced, whether the answers are valid, what it costs.

schemas   each schema of `structured_schemas` is tried as the head does; those that can be enforced are generated
          from by the model `tiny`, which follows no instructions; an answer that came to its end is checked by
          `jsonschema`, and one that was cut by its limit is counted apart. A refusal must name what it refuses
cost      32 requests at once, constrained and not, in turns: tokens per second of one stage, by the wall clock
          (that the claim is about) and per second of the processor; medians over the pairs
others    time between the tokens of eight requests while a schema of a megabyte compiles beside them, in the
          thread in which the last stage does it, against the same without

python benchmarks/structured.py [--part schemas] [--small] [--output FILE]
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from jsonschema import Draft202012Validator

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import percent, record_parts
from benchmarks.structured_schemas import Schema, schemas
from muster.errors import InvalidRequest
from muster.model.load import load_stage
from muster.model.source import resolve
from muster.model.stage import Stage
from muster.model.weights import open_directory
from muster.node.runners.serve.preparing import Preparing
from muster.serve.constrain import Constraints
from muster.serve.local_ring import LocalRing
from muster.serve.options import EngineOptions
from muster.spec.request import Finish, Request
from muster.spec.sampling import Sampling
from muster.text.constraint import grammar_of_schema
from muster.text.tokenizer import Tokenizer, load_tokenizer
from muster.wire.messages.generate import Prepare, Prepared

PAGES, PAGE_SIZE, MAX_CONTEXT = 2048, 16, 1024
ANSWER_TOKENS = 400
REQUESTS = 32
PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
LONG_ANSWERS: tuple[Schema, ...] = (
    {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 100},
    {"type": "array", "items": {"type": "integer"}, "minItems": 200},
    {"type": "array", "items": {**PERSON, "required": ["name", "age"]}, "minItems": 100},
    {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 200},
)


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve("tiny"))


@cache
def stage() -> Stage:
    weights = open_directory(resolve("tiny"))
    layers = json.loads(weights.config_json)["num_hidden_layers"]
    return load_stage(weights, 0, layers, torch.float32, torch.device("cpu"))


def ring(constraints: Constraints | None = None) -> LocalRing[Any]:
    made = constraints or Constraints(
        lambda: msgspec.msgpack.encode(tokenizer().spellings), tokenizer().end_of_text_ids, stage().vocab_size
    )
    options = EngineOptions(
        MAX_CONTEXT, frozenset(tokenizer().end_of_text_ids), prefill_tokens=2048, max_batch=REQUESTS
    )
    return LocalRing([stage()], [stage().new_cache(PAGES, PAGE_SIZE)], options, made)


def answers(one: LocalRing[Any], requests: Sequence[Request]) -> tuple[dict[str, list[int]], dict[str, str]]:
    tokens: dict[str, list[int]] = {request.id: [] for request in requests}
    finishes: dict[str, str] = {}
    for request in requests:
        one.engine.submit(request)
    while one.busy:
        for progress in one.work():
            tokens[progress.request_id] += [sampled.token for sampled in progress.tokens]
            if progress.finish is not None:
                finishes[progress.request_id] = progress.finish
    return tokens, finishes


def refusal(schema: Schema) -> str | None:
    try:
        tokenizer().grammars.checking(grammar_of_schema(schema)).result()
    except InvalidRequest as error:
        return str(error)
    return None


def try_schemas(small: bool) -> dict[str, Any]:
    chosen = {name: schema for i, (name, schema) in enumerate(schemas().items()) if not small or i % 8 == 0}
    refusals = {name: refusal(schema) for name, schema in chosen.items()}
    prompt = tuple(tokenizer().encode("An answer in JSON:\n"))
    requests = [
        Request(name, prompt, Sampling(max_tokens=ANSWER_TOKENS, seed=i, grammar=grammar_of_schema(chosen[name])))
        for i, (name, reason) in enumerate(refusals.items())
        if reason is None
    ]
    found: dict[str, dict[str, Any]] = {name: {"refused": reason} for name, reason in refusals.items() if reason}
    for start in range(0, len(requests), REQUESTS):
        batch = requests[start : start + REQUESTS]
        one = ring()
        tokens, finishes = answers(one, batch)
        for request in batch:
            found[request.id] = _verdict(chosen[request.id], tokens[request.id], finishes.get(request.id))
            if request.id in one.failed:
                found[request.id]["failed"] = str(one.failed[request.id])
    return {"schemas": found, **_counted(found)}


def _verdict(schema: Schema, tokens: list[int], finish: str | None) -> dict[str, Any]:
    text = tokenizer().decode(tokens)
    verdict: dict[str, Any] = {"text": text, "finish": finish}
    if finish == Finish.STOP:
        checker = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        try:
            verdict["errors"] = [error.message[:200] for error in checker.iter_errors(json.loads(text))]
        except ValueError as error:
            verdict["errors"] = [f"no JSON: {error}"]
    return verdict


def _counted(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    refused = {name: one["refused"] for name, one in found.items() if "refused" in one}
    ended = [one for one in found.values() if one.get("finish") == Finish.STOP]
    return {
        "count": len(found),
        "refused": len(refused),
        "refused_without_a_name": [name for name, reason in refused.items() if not _names_something(reason)],
        "ended": len(ended),
        "cut": sum(one.get("finish") == Finish.LENGTH for one in found.values()),
        "failed": [name for name, one in found.items() if "failed" in one],
        "invalid": [name for name, one in found.items() if one.get("errors")],
    }


def _names_something(reason: str) -> bool:
    """A keyword in quotation marks, or one of the library's sentences about a named part."""
    known = ("not supported", "Unsatisfiable", "patternProperties", "look-around", "format", "Properties", "property")
    return any(word in reason for word in known)


def measure_cost(small: bool) -> dict[str, Any]:
    tokens, rounds = (32, 2) if small else (96, 7)
    prompt = tuple(tokenizer().encode("An answer in JSON:\n"))
    kinds = {"free": False, "constrained": True}
    pairs = [{kind: _speed(prompt, tokens, with_one) for kind, with_one in kinds.items()} for _ in range(rounds)]
    return {
        "pairs": pairs,
        **{
            unit: statistics.median(pair["constrained"][unit] / pair["free"][unit] for pair in pairs)
            for unit in ("tokens_per_s", "tokens_per_cpu_s")
        },
    }


def _speed(prompt: tuple[int, ...], tokens: int, constrained: bool) -> dict[str, float]:
    grammars = [grammar_of_schema(LONG_ANSWERS[i % len(LONG_ANSWERS)]) if constrained else "" for i in range(REQUESTS)]
    requests = [
        Request(f"r{i}", (*prompt, i), Sampling(max_tokens=tokens, seed=i, ignore_eos=True, grammar=grammar))
        for i, grammar in enumerate(grammars)
    ]
    one = ring()
    warm = [
        Request(f"w{i}", r.prompt, Sampling(max_tokens=2, grammar=r.sampling.grammar)) for i, r in enumerate(requests)
    ]
    answers(one, warm)  # compiling is not part of a token's cost
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    made = sum(map(len, answers(one, requests)[0].values()))
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {"tokens": made, "tokens_per_s": made / wall_s, "tokens_per_cpu_s": made / cpu_s}


def measure_others(small: bool) -> dict[str, Any]:
    large = {"enum": [f"{'value' * 8} {number}" for number in range(20_000)]}
    return asyncio.run(_beside(grammar_of_schema(large), rounds=2 if small else 8))


async def _beside(grammar: str, rounds: int) -> dict[str, Any]:
    spellings = msgspec.msgpack.encode(tokenizer().spellings)
    made = Constraints(lambda: spellings, tokenizer().end_of_text_ids, stage().vocab_size)
    preparing, one = Preparing(0, made), ring()
    gaps: dict[str, list[float]] = {"alone": [], "beside": []}
    compiled_s = []
    for number in range(1, rounds + 1):
        gaps["alone"] += await asyncio.to_thread(_gaps, one, None)
        done = asyncio.Event()
        began_s = time.perf_counter()
        preparing.begin(Prepare(epoch=0, number=number, grammar=grammar), partial(_ready, done))
        gaps["beside"] += await asyncio.to_thread(_gaps, one, done)
        await done.wait()
        compiled_s.append(time.perf_counter() - began_s)
        made.forget(number)
    preparing.close()
    medians = {name: statistics.median(found) for name, found in gaps.items()}
    return {
        "grammar_bytes": len(grammar),
        "compiled_s": compiled_s,
        "gaps_s": gaps,
        "medians_s": medians,
        "ratio": medians["beside"] / medians["alone"],
    }


def _ready(done: asyncio.Event, answer: Prepared) -> None:
    assert not answer.problem, answer.problem
    done.set()


def _gaps(one: LocalRing[Any], until: asyncio.Event | None) -> list[float]:
    """Seconds between steps that give each of eight requests a token, until the event is set if there is one."""
    gaps: list[float] = []
    requests = [Request(f"g{i}", (i + 1, 2, 3), Sampling(max_tokens=60, seed=i, ignore_eos=True)) for i in range(8)]
    for request in requests:
        one.engine.submit(request)
    last_s = None
    while one.busy:
        one.work()
        now_s = time.perf_counter()
        if last_s is not None and not (until is not None and until.is_set()):
            gaps.append(now_s - last_s)
        last_s = now_s
    return gaps


PARTS = {"schemas": try_schemas, "cost": measure_cost, "others": measure_others}
CLAIMED = {
    "schemas": lambda found: {
        "door.2.enforced": percent(1 - found["refused"] / found["count"]),
        "door.2.named": len(found["refused_without_a_name"]),
        "door.2.valid": percent(1 - len(found["invalid"]) / found["ended"]),
        "door.2.failed": len(found["failed"]),
    },
    "cost": lambda found: {"door.2.cost": percent(1 - found["tokens_per_s"])},
    "others": lambda found: {"door.2.others": percent(found["ratio"] - 1)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="by default all")
    parser.add_argument("--small", action="store_true", help="every eighth schema, few tokens")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    record = record_parts(
        arguments.output,
        {"benchmark": "structured", "method": __doc__ or ""},
        arguments.part or list(PARTS),
        lambda part: PARTS[part](arguments.small),
        {"model": "tiny, float32, one thread", "small": str(arguments.small)},
        CLAIMED,
    )
    for part in PARTS:
        result = record.get(part, {}).get("result", {})
        shown = {name: value for name, value in result.items() if name not in ("schemas", "pairs", "gaps_s")}
        print(part, json.dumps(shown))
    tokenizer().close()


if __name__ == "__main__":
    main()
