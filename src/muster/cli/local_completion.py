"""One completion in this process: the whole model as a single stage, no pool. For `muster run` when no head is near.

Speaks in the chunks of the OpenAI API, so that `run` need not know where they come from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muster.api.prompt import with_named_stops
from muster.cli.waiting import Say, waiting
from muster.cost.config_fields import Fields
from muster.cost.dtypes import fastest_dtype, possible_dtypes
from muster.errors import ContextTooLong, InvalidRequest
from muster.model.conformance import check_conformance
from muster.model.load import load_stage
from muster.model.shape import shape_of, torch_dtype
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.node.devices import pick_device
from muster.node.measure import matmul_speeds
from muster.serve.engine import Engine
from muster.serve.options import EngineOptions
from muster.spec.pool import Device, Node
from muster.spec.request import Finish, Request
from muster.spec.sampling import Sampling
from muster.text.stream import TextStream
from muster.text.tokenizer import Tokenizer, load_tokenizer

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class LocalModel:
    engine: Engine[Any]
    tokenizer: Tokenizer


def complete(model: str, body: dict[str, Any], as_json: bool = False) -> Iterator[dict[str, Any]]:
    """`body` is that of /v1/completions: prompt, max_tokens, temperature, top_p, seed, stop."""
    sampling = sampling_of(body)
    with waiting(f"finding {model}", as_json) as say:
        loaded, prompt = load(resolve(model), body["prompt"], sampling.max_tokens, say)
    yield from generate(loaded, prompt, sampling, body["stop"] or ())


def sampling_of(body: dict[str, Any]) -> Sampling:
    names = ("max_tokens", "temperature", "top_p", "seed")
    sampling = Sampling(**{name: body[name] for name in names})
    sampling.validate()
    return sampling


def load(path: Path, prompt: str, max_tokens: int, say: Say) -> tuple[LocalModel, list[int]]:
    """The model with just enough pages for one request, and the request's prompt as tokens."""
    weights = open_directory(path)
    say("checking that this kind of model computes what it should")
    check_conformance(weights.config_json)
    say("measuring this machine")
    device = pick_device()
    shape = shape_of(weights.config_json, path.name, _dtype(weights.config_json, device))
    say("loading the tokenizer")
    tokenizer = load_tokenizer(path)
    tokens = tokenizer.encode(prompt)
    num_tokens = len(tokens) + max_tokens
    if num_tokens > shape.max_context:
        raise ContextTooLong(
            f"Prompt and answer are {num_tokens} tokens together but the model takes {shape.max_context}; "
            "shorten the prompt or ask for fewer tokens with --max-tokens.",
            "max_tokens",
        )
    say(f"loading the weights of {shape.name}")
    stage = load_stage(weights, 0, shape.num_layers, torch_dtype(shape.dtype), device)
    cache = stage.new_cache(num_pages=-(-num_tokens // PAGE_SIZE) + 1, page_size=PAGE_SIZE)
    options = EngineOptions(max_context=num_tokens, eos_token_ids=frozenset(tokenizer.end_of_text_ids))
    return LocalModel(Engine(stage, cache, options=options), tokenizer), tokens


def _dtype(config_json: str, device: torch.device) -> str:
    """As a pool of this machine alone would choose it."""
    here = Device(device.type, "here", memory_bytes=0, flops_per_s=matmul_speeds(device))
    return fastest_dtype(possible_dtypes(Fields.parse(config_json)), [Node("here", "here", "here", here)])


def generate(
    loaded: LocalModel, prompt: list[int], sampling: Sampling, stops: tuple[str, ...] | list[str]
) -> Iterator[dict[str, Any]]:
    if not prompt:
        start = loaded.tokenizer.start_id
        if start is None:
            raise InvalidRequest(
                "The prompt is empty and this model has no token to start from; write something.", "prompt"
            )
        prompt = [start]
    sampling = with_named_stops(loaded.tokenizer, sampling, stops)
    loaded.engine.submit(Request("run", tuple(prompt), sampling))
    text = TextStream(loaded.tokenizer.token_bytes, stops)
    finish: str | None = None
    received = 0
    while finish is None:
        for step in loaded.engine.step().progress:
            received += len(step.tokens)
            # What made the engine stop is counted but is no part of the text, whatever it spells.
            said = step.tokens[:-1] if step.finish == Finish.STOP else step.tokens
            piece = "".join(text.push(sampled.token).text for sampled in said)
            finish = "stop" if text.stopped else step.finish
            yield _chunk(piece)
    usage = {"prompt_tokens": len(prompt), "completion_tokens": received}
    yield _chunk(text.finish().text, finish) | {"usage": usage | {"total_tokens": sum(usage.values())}}


def _chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}
