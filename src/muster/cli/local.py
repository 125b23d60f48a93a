"""One completion in this process: the whole model as a single stage, no pool. For `muster run` when no head is near.

Speaks in the chunks of the OpenAI API, so that `run` need not know where they come from.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muster.cli.show import progress
from muster.errors import ContextTooLong, InvalidRequest
from muster.model.conformance import check_conformance
from muster.model.load import load_stage
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.node.measure import pick_device
from muster.serve.engine import Engine
from muster.serve.options import EngineOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.text.stream import TextStream
from muster.text.tokenizer import Tokenizer, load_tokenizer

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class LocalModel:
    engine: Engine[Any]
    tokenizer: Tokenizer


def complete(model: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`body` is that of /v1/completions: prompt, max_tokens, temperature, top_p, seed, stop."""
    sampling = sampling_of(body)
    with progress(as_json=False) as bars:
        bars.add_task(f"loading {model}", total=None)
        path = resolve(model)
        tokenizer = load_tokenizer(path)
        prompt = tokenizer.encode(body["prompt"])
        loaded = load(path, tokenizer, num_tokens=len(prompt) + sampling.max_tokens)
    yield from generate(loaded, prompt, sampling, body["stop"] or ())


def sampling_of(body: dict[str, Any]) -> Sampling:
    names = ("max_tokens", "temperature", "top_p", "seed")
    sampling = Sampling(**{name: body[name] for name in names})
    sampling.validate()
    return sampling


def load(path: Path, tokenizer: Tokenizer, num_tokens: int) -> LocalModel:
    """Just enough pages for one request of `num_tokens`."""
    weights = open_directory(path)
    check_conformance(weights.config_json)
    config = json.loads(weights.config_json)
    config = config.get("text_config", config)
    limit = int(config.get("max_position_embeddings") or config.get("n_positions") or 2**31)
    if num_tokens > limit:
        raise ContextTooLong(
            f"Prompt and answer are {num_tokens} tokens together but the model takes {limit}; "
            "shorten the prompt or ask for fewer tokens with --max-tokens.",
            "max_tokens",
        )
    device = pick_device()
    # A CPU computes float32 faster than half precision, and exactly.
    name = "float32" if device.type == "cpu" else config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    stage = load_stage(weights, 0, int(config["num_hidden_layers"]), getattr(torch, name), device)
    cache = stage.new_cache(num_pages=-(-num_tokens // PAGE_SIZE) + 1, page_size=PAGE_SIZE)
    options = EngineOptions(max_context=min(limit, num_tokens), eos_token_ids=frozenset(tokenizer.end_of_text_ids))
    return LocalModel(Engine(stage, cache, options=options), tokenizer)


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
    loaded.engine.submit(Request("run", tuple(prompt), sampling))
    text = TextStream(loaded.tokenizer.token_bytes, stops)
    finish: str | None = None
    while finish is None:
        for step in loaded.engine.step().progress:
            piece = "".join(text.push(sampled.token).text for sampled in step.tokens)
            finish = "stop" if text.stopped else step.finish
            yield _chunk(piece)
    usage = {"prompt_tokens": len(prompt), "completion_tokens": text.pushed}
    yield _chunk(text.finish().text, finish) | {"usage": usage | {"total_tokens": sum(usage.values())}}


def _chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}
