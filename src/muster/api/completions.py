"""`POST /v1/completions`: text or token ids in, their continuation out. Knows the text-completion formats."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field
from starlette.responses import Response

from muster.api.answer import EventStream, Json, JsonAnswer, with_counts
from muster.api.description import GENERATION
from muster.api.fields import (
    GenerationFields,
    check_ids,
    check_logprobs,
    check_token_count,
    check_unicode,
)
from muster.api.generate import Choice, ScoredToken, choices_of_prompt, run_choices
from muster.api.prompt import around_gap, begin, check_score_count, encode_text, tokens_to_generate, with_named_stops
from muster.api.scores import completion_scores, prompt_scores
from muster.api.serving import SYSTEM_FINGERPRINT, Serving, Visit
from muster.api.structured import StructuredFields, checked_grammar
from muster.errors import InvalidRequest, Unsupported
from muster.text.fill_in import FillIn, fill_in_of

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


class CompletionRequest(GenerationFields, StructuredFields):
    prompt: Annotated[Prompt, BeforeValidator(_count_ids)] = Field(
        description=f"A text, token ids, or up to {MAX_PROMPTS} of either."
    )
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = Field(
        default=None, description="Text behind the gap to fill in, for models that have tokens for that."
    )

    def check_best_of(self) -> None:
        if self.best_of is not None and self.best_of != self.choices:
            raise Unsupported("This server does not do 'best_of' beyond n; leave the field out.", "best_of")

    @property
    def scores(self) -> int | None:
        """How many alternatives to score besides the chosen token; None for no log probabilities."""
        return None if self.logprobs is None else check_logprobs(self.logprobs, "logprobs")

    @property
    def prompt_scores(self) -> int | None:
        """Where the prompt is echoed, the log probabilities are those of its tokens, too."""
        asked = super().prompt_scores
        echoed = self.logprobs if self.echo else None
        alone = 0 if self.max_tokens == 0 else None  # an echo and nothing else
        return max((kept for kept in (asked, echoed) if kept is not None), default=alone)


def completion_routes(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", summary="Continue a text", responses=GENERATION, response_model=None)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        visit: Visit = request.state.muster
        choices = await _prepare(serving, visit, body)
        form = CompletionForm(serving, visit, body.prompt_logprobs)
        if body.stream:
            chunks = form.chunks(choices, body.wants_usage_chunk)
            if body.wants_usage_always:
                chunks = with_counts(visit, chunks)
            return EventStream(visit, chunks, serving.options.silence_s)
        return JsonAnswer(visit, lambda: form.whole(choices))

    return router


async def _prepare(serving: Serving, visit: Visit, body: CompletionRequest) -> list[Choice]:
    """Everything that may be wrong with a request is found here."""
    serving.check_model(body.model)
    body.refuse_unsupported()
    body.check_best_of()
    _ = body.wants_usage_chunk
    if body.suffix and body.echo:
        raise InvalidRequest("A text with a gap cannot be echoed; leave out echo or suffix.", "echo")
    only_reads = body.echo or body.prompt_logprobs is not None
    wanted = check_token_count(body.max_tokens, "max_tokens", least=0 if only_reads else 1)
    default = _DEFAULT_MAX_TOKENS if body.max_tokens is None else None
    # Checked before the prompts are encoded, so that a wrong number is named as itself.
    limit = (default or serving.backend.max_context) if wanted is None else wanted
    sampling = body.sampling(limit, body.scores, serving.backend.vocab_size)
    n, stops = body.choices, body.stops
    sampling = replace(sampling, grammar=await checked_grammar(serving, visit, body.structure))
    sampling = with_named_stops(serving.tokenizer, sampling, stops)
    if (gap := _gap(serving, body)) is not None:
        sampling = replace(sampling, stop_token_ids=tuple(dict.fromkeys((*sampling.stop_token_ids, *gap.end_ids))))
    choices: list[Choice] = []
    for prompt, text in await _read_prompts(serving, body, n):
        max_tokens = tokens_to_generate(serving, len(prompt), wanted, default, "prompt")
        choices += choices_of_prompt(
            visit,
            prompt,
            replace(sampling, max_tokens=max_tokens),
            n=n,
            stops=stops,
            priority=body.scheduling,
            first_index=len(choices),
            echo=text if body.echo else "",
            scores_every_token=bool(body.echo),
        )
    if sampling.prompt_logprobs is not None:
        check_score_count((1 + sampling.prompt_logprobs) * sum(len(choice.request.prompt) for choice in choices))
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
    tokenizer, gap = serving.tokenizer, _gap(serving, body)
    read = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids, text = await encode_text(serving, check_unicode(prompt, "prompt"), "prompt"), prompt
        else:
            check_ids(prompt, serving.backend.vocab_size, "prompt")
            ids, text = prompt, tokenizer.decode(prompt) if body.echo else ""
        if gap is not None:
            ids = await around_gap(serving, gap, prompt, check_unicode(body.suffix or "", "suffix"))
        read.append((begin(tokenizer, ids, "prompt"), text))
    return read


def _gap(serving: Serving, body: CompletionRequest) -> FillIn | None:
    if not body.suffix:
        return None
    found = fill_in_of(serving.tokenizer)
    if found is None:
        raise Unsupported(
            f"The model '{serving.backend.model}' has no tokens that mark a gap to fill in; leave suffix out.", "suffix"
        )
    return found


def _separate(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [[id for id in prompt if isinstance(id, int)]]
    return [each for each in prompt if not isinstance(each, int)]


class CompletionForm:
    """Deltas in the shape of text completions."""

    def __init__(self, serving: Serving, visit: Visit, prompt_scores: int | None = None) -> None:
        """`prompt_scores` alternatives of each token of the prompt are shown in a list of their own."""
        self._prompt_scores = prompt_scores
        self._serving = serving
        self._visit = visit
        self._head = {
            "id": f"cmpl-{visit.id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": serving.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    async def whole(self, choices: Sequence[Choice]) -> Json:
        texts: list[list[str]] = [[] for _ in choices]
        tokens: list[list[ScoredToken]] = [[] for _ in choices]
        prompts: list[tuple[ScoredToken, ...]] = [() for _ in choices]
        finishes: list[str | None] = [None for _ in choices]
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                texts[delta.choice].append(delta.text)
                tokens[delta.choice].extend(delta.tokens)
                prompts[delta.choice] += delta.prompt
                finishes[delta.choice] = delta.finish
        answers = [
            self._choice(choice, "".join(text), scored, prompt, finish)
            for choice, text, scored, prompt, finish in zip(choices, texts, tokens, prompts, finishes, strict=True)
        ]
        return {**self._head, "choices": answers, "usage": self._visit.usage()}

    async def chunks(self, choices: Sequence[Choice], with_usage: bool) -> AsyncGenerator[Json, None]:
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                choice = self._choice(choices[delta.choice], delta.text, delta.tokens, delta.prompt, delta.finish)
                chunk = {**self._head, "choices": [choice]}
                yield {**chunk, "usage": None} if with_usage else chunk
        if with_usage:
            yield {**self._head, "choices": [], "usage": self._visit.usage()}

    def _choice(
        self,
        choice: Choice,
        text: str,
        tokens: Sequence[ScoredToken],
        prompt: Sequence[ScoredToken],
        finish: str | None,
    ) -> Json:
        kept, tokenizer = choice.request.sampling.logprobs, self._serving.tokenizer
        echoed = prompt if choice.scores_every_token else ()
        scores = None if kept is None else completion_scores(tokenizer, [*echoed, *tokens], kept)
        answer = {"index": choice.index, "text": text, "logprobs": scores, "finish_reason": finish}
        if self._prompt_scores is not None:
            answer["prompt_logprobs"] = prompt_scores(tokenizer, prompt, self._prompt_scores)
        return answer
