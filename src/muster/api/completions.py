"""`POST /v1/completions`: text or token ids in, their continuation out. Knows the text-completion formats."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field
from starlette.responses import Response

from muster.api.answer import EventStream, Json, JsonAnswer
from muster.api.description import GENERATION
from muster.api.fields import GenerationFields, check_ids, check_logprobs, check_token_count, check_unicode
from muster.api.generate import Choice, ScoredToken, choices_of_prompt, run_choices
from muster.api.prompt import begin, encode_text, tokens_to_generate, with_named_stops
from muster.api.scores import completion_scores
from muster.api.serving import SYSTEM_FINGERPRINT, Serving, Visit
from muster.errors import InvalidRequest, Unsupported

MAX_PROMPTS = 64
MAX_CHOICES_IN_ALL = 128
MAX_IDS = 2**17
"""Token ids of all prompts together."""
_DEFAULT_MAX_TOKENS = 16


def _count_ids(prompt: Any) -> Any:
    """Refuse very many token ids before each of them is looked at."""
    count = len(prompt) + sum(len(ids) for ids in prompt if isinstance(ids, list)) if isinstance(prompt, list) else 0
    if count > MAX_IDS:
        raise InvalidRequest(f"prompt holds more than {MAX_IDS} token ids; send fewer.", "prompt")
    return prompt


Ids = Annotated[list[int], Field(fail_fast=True)]
Prompt = str | Annotated[list[str], Field(fail_fast=True)] | Ids | Annotated[list[Ids], Field(fail_fast=True)]


class CompletionRequest(GenerationFields):
    prompt: Annotated[Prompt, BeforeValidator(_count_ids)] = Field(
        description=f"A text, token ids, or up to {MAX_PROMPTS} of either."
    )
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {"suffix": ("",)}

    def check_best_of(self) -> None:
        if self.best_of is not None and self.best_of != self.choices:
            raise Unsupported("This server does not do 'best_of' beyond n; leave the field out.", "best_of")

    @property
    def scores(self) -> int | None:
        """How many alternatives to score besides the chosen token; None for no log probabilities."""
        if self.logprobs is None:
            return None
        if self.echo:
            raise Unsupported(
                "This server does not score the tokens of a prompt; send echo or logprobs, not both.", "echo"
            )
        return check_logprobs(self.logprobs, "logprobs")


def completion_routes(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", summary="Continue a text", responses=GENERATION, response_model=None)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        visit: Visit = request.state.muster
        choices = await _prepare(serving, visit, body)
        form = CompletionForm(serving, visit)
        if body.stream:
            chunks = form.chunks(choices, body.wants_usage_chunk)
            return EventStream(visit, chunks, serving.options.silence_s)
        return JsonAnswer(visit, lambda: form.whole(choices))

    return router


async def _prepare(serving: Serving, visit: Visit, body: CompletionRequest) -> list[Choice]:
    """Everything that may be wrong with a request is found here."""
    body.check_model(serving.backend.model)
    body.refuse_unsupported()
    body.check_best_of()
    _ = body.wants_usage_chunk
    wanted = check_token_count(body.max_tokens, "max_tokens")
    # Checked before the prompts are encoded, so that a wrong number is named as itself.
    sampling = body.sampling(wanted or _DEFAULT_MAX_TOKENS, body.scores, serving.backend.vocab_size)
    n, stops = body.choices, body.stops
    sampling = with_named_stops(serving.tokenizer, sampling, stops)
    choices: list[Choice] = []
    for prompt, text in await _read_prompts(serving, body, n):
        max_tokens = tokens_to_generate(serving, len(prompt), wanted, _DEFAULT_MAX_TOKENS, "prompt")
        choices += choices_of_prompt(
            visit,
            prompt,
            replace(sampling, max_tokens=max_tokens),
            n=n,
            stops=stops,
            priority=body.scheduling,
            first_index=len(choices),
            echo=text if body.echo else "",
        )
    return choices


async def _read_prompts(serving: Serving, body: CompletionRequest, n: int) -> list[tuple[tuple[int, ...], str]]:
    """Each prompt's ids and text."""
    prompts = _separate(body.prompt)
    if not prompts:
        raise InvalidRequest("There is no prompt; send at least one.", "prompt")
    if len(prompts) > MAX_PROMPTS:
        raise InvalidRequest(f"There are {len(prompts)} prompts; send at most {MAX_PROMPTS} at once.", "prompt")
    if len(prompts) * n > MAX_CHOICES_IN_ALL:
        raise InvalidRequest(
            f"{len(prompts)} prompts with n = {n} are {len(prompts) * n} choices; "
            f"ask for at most {MAX_CHOICES_IN_ALL} at once.",
            "n",
        )
    tokenizer = serving.tokenizer
    read = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids, text = await encode_text(serving, check_unicode(prompt, "prompt"), "prompt"), prompt
        else:
            check_ids(prompt, serving.backend.vocab_size, "prompt")
            ids, text = prompt, tokenizer.decode(prompt) if body.echo else ""
        read.append((begin(tokenizer, ids, "prompt"), text))
    return read


def _separate(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [[id for id in prompt if isinstance(id, int)]]
    return [each for each in prompt if not isinstance(each, int)]


class CompletionForm:
    """Deltas in the shape of text completions."""

    def __init__(self, serving: Serving, visit: Visit) -> None:
        self._serving = serving
        self._visit = visit
        self._head = {
            "id": f"cmpl-{visit.id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": serving.backend.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    async def whole(self, choices: Sequence[Choice]) -> Json:
        texts: list[list[str]] = [[] for _ in choices]
        tokens: list[list[ScoredToken]] = [[] for _ in choices]
        finishes: list[str | None] = [None for _ in choices]
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                texts[delta.choice].append(delta.text)
                tokens[delta.choice].extend(delta.tokens)
                finishes[delta.choice] = delta.finish
        answers = [
            self._choice(choice, "".join(text), scored, finish)
            for choice, text, scored, finish in zip(choices, texts, tokens, finishes, strict=True)
        ]
        return {**self._head, "choices": answers, "usage": self._visit.usage()}

    async def chunks(self, choices: Sequence[Choice], with_usage: bool) -> AsyncGenerator[Json, None]:
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                choice = self._choice(choices[delta.choice], delta.text, delta.tokens, delta.finish)
                chunk = {**self._head, "choices": [choice]}
                yield {**chunk, "usage": None} if with_usage else chunk
        if with_usage:
            yield {**self._head, "choices": [], "usage": self._visit.usage()}

    def _choice(self, choice: Choice, text: str, tokens: Sequence[ScoredToken], finish: str | None) -> Json:
        scored = choice.request.sampling.logprobs is not None
        scores = completion_scores(self._serving.tokenizer, tokens) if scored else None
        return {"index": choice.index, "text": text, "logprobs": scores, "finish_reason": finish}
