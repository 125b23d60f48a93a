"""`POST /v1/chat/completions`: messages in, a message out. Knows the chat formats; generation is elsewhere."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from muster.api.answer import EventStream, Json, JsonAnswer
from muster.api.chat_fields import ChatRequest, read_messages
from muster.api.description import GENERATION
from muster.api.generate import Choice, ScoredToken, choices_of_prompt, run_choices
from muster.api.prompt import begin, encode_chat, tokens_to_generate, with_named_stops
from muster.api.scores import chat_scores
from muster.api.serving import SYSTEM_FINGERPRINT, Serving, Visit


def chat_routes(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", summary="Continue a conversation", responses=GENERATION, response_model=None)
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        visit: Visit = request.state.muster
        choices = await _prepare(serving, visit, body)
        form = ChatForm(serving, visit)
        if body.stream:
            chunks = form.chunks(choices, body.wants_usage_chunk)
            return EventStream(visit, chunks, serving.options.silence_s)
        return JsonAnswer(visit, lambda: form.whole(choices))

    return router


async def _prepare(serving: Serving, visit: Visit, body: ChatRequest) -> list[Choice]:
    """Everything that may be wrong with a request is found here."""
    body.check_model(serving.backend.model)
    body.refuse_unsupported()
    _ = body.wants_usage_chunk
    n, stops, scores, (wanted, parameter) = body.choices, body.stops, body.scores, body.wanted_tokens
    messages = read_messages(body.messages)
    # Checked before the prompt is encoded, so that a wrong number is named as itself.
    sampling = body.sampling(1 if wanted is None else wanted, scores, serving.backend.vocab_size)
    ids, chat = await encode_chat(serving, messages, body.template_variables)
    prompt = begin(serving.tokenizer, ids, "messages")
    parameter = parameter if wanted is not None and len(prompt) < serving.backend.max_context else "messages"
    max_tokens = tokens_to_generate(serving, len(prompt), wanted, None, parameter)
    sampling = replace(with_named_stops(serving.tokenizer, sampling, stops), max_tokens=max_tokens)
    return choices_of_prompt(visit, prompt, sampling, n=n, stops=stops + chat.stop, priority=body.scheduling)


class ChatForm:
    """Deltas in the shape of chat completions."""

    def __init__(self, serving: Serving, visit: Visit) -> None:
        self._serving = serving
        self._visit = visit
        self._head = {
            "id": f"chatcmpl-{visit.id}",
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
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": "".join(texts[choice.index]), "refusal": None},
                "logprobs": self._scores(choice, tokens[choice.index]),
                "finish_reason": finishes[choice.index],
            }
            for choice in choices
        ]
        return {**self._head, "object": "chat.completion", "choices": answers, "usage": self._visit.usage()}

    async def chunks(self, choices: Sequence[Choice], with_usage: bool) -> AsyncGenerator[Json, None]:
        begun: set[int] = set()
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                if delta.choice not in begun:
                    begun.add(delta.choice)
                    yield self._chunk(delta.choice, {"role": "assistant", "content": ""}, None, None, with_usage)
                if delta.text or delta.tokens:
                    scores = self._scores(choices[delta.choice], delta.tokens)
                    yield self._chunk(delta.choice, {"content": delta.text}, scores, None, with_usage)
                if delta.finish:
                    yield self._chunk(delta.choice, {}, None, delta.finish, with_usage)
        if with_usage:
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._visit.usage()}

    def _chunk(self, index: int, delta: Json, scores: Json | None, finish: str | None, with_usage: bool) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if with_usage else chunk

    def _scores(self, choice: Choice, tokens: Sequence[ScoredToken]) -> Json | None:
        if choice.request.sampling.logprobs is None:
            return None
        return chat_scores(self._serving.tokenizer, tokens)
