"""`POST /v1/chat/completions`: messages in, a message out. Knows the chat formats; generation is elsewhere."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from muster.api.answer import EventStream, Json, JsonAnswer, with_counts
from muster.api.chat_fields import ChatRequest
from muster.api.conversation import GenerationOptions, prepare
from muster.api.description import GENERATION
from muster.api.generate import Choice, Delta, ScoredToken, run_choices
from muster.api.scores import chat_scores, prompt_scores
from muster.api.serving import SYSTEM_FINGERPRINT, Serving, Visit
from muster.api.structured import checked_grammar
from muster.spec.request import Finish
from muster.text.tools.events import CallArguments, CallBegun, Event, Said, Thought


def chat_routes(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", summary="Continue a conversation", responses=GENERATION, response_model=None)
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        visit: Visit = request.state.muster
        choices = await _prepare(serving, visit, body)
        form = ChatForm(serving, visit, body.answers_in_older_form, body.prompt_logprobs)
        if body.stream:
            chunks = form.chunks(choices, body.wants_usage_chunk)
            if body.wants_usage_always:
                chunks = with_counts(visit, chunks)
            return EventStream(visit, chunks, serving.options.silence_s)
        return JsonAnswer(visit, lambda: form.whole(choices))

    return router


async def _prepare(serving: Serving, visit: Visit, body: ChatRequest) -> list[Choice]:
    """Everything that may be wrong with a request is found here."""
    serving.check_model(body.model)
    body.refuse_unsupported()
    _ = body.wants_usage_chunk
    wanted, parameter = body.wanted_tokens
    limit = serving.backend.max_context if wanted is None else wanted
    options = GenerationOptions(
        # Checked before the prompt is made, so that a wrong number is named as itself.
        sampling=body.sampling(limit, body.scores, serving.backend.vocab_size),
        n=body.choices,
        stops=body.stops,
        max_tokens=wanted,
        max_tokens_parameter=parameter,
        priority=body.scheduling,
    )
    grammar = await checked_grammar(serving, visit, body.structure)
    return await prepare(serving, visit, replace(body.conversation, grammar=grammar or None), options)


@dataclass(slots=True)
class _Message:
    """One choice, as it comes together."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[CallBegun] = field(default_factory=list)
    arguments: list[list[str]] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    finish: str | None = None

    def add(self, delta: Delta) -> None:
        self.tokens.extend(delta.tokens)
        self.finish = delta.finish
        for event in delta.events:
            match event:
                case Said(text):
                    self.text.append(text)
                case Thought(text):
                    self.reasoning.append(text)
                case CallBegun():
                    self.calls.append(event)
                    self.arguments.append([])
                case CallArguments(index, text):
                    self.arguments[index].append(text)

    def written(self, older_form: bool) -> Json:
        content = "".join(self.text)
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["content"] = content or None
            calls = [_call(call, "".join(text)) for call, text in zip(self.calls, self.arguments, strict=True)]
            message |= {"function_call": calls[0]["function"]} if older_form else {"tool_calls": calls}
        return message


def _call(call: CallBegun, arguments: str) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


class ChatForm:
    """Deltas in the shape of chat completions."""

    def __init__(
        self, serving: Serving, visit: Visit, older_form: bool = False, prompt_scores: int | None = None
    ) -> None:
        """`older_form`: a call is a `function_call`, as before there were `tool_calls`. `prompt_scores` alternatives of
        each token of the prompt are shown."""
        self._prompt_scores = prompt_scores
        self._serving = serving
        self._visit = visit
        self._older_form = older_form
        self._head = {
            "id": f"chatcmpl-{visit.id}",
            "created": int(time.time()),
            "model": serving.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    async def whole(self, choices: Sequence[Choice]) -> Json:
        messages = [_Message() for _ in choices]
        prompt: tuple[ScoredToken, ...] = ()
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                messages[delta.choice].add(delta)
                prompt = prompt or delta.prompt
        answers = [
            {
                "index": choice.index,
                "message": message.written(self._older_form),
                "logprobs": self._scores(choice, message.tokens),
                "finish_reason": self._finish(message.finish),
            }
            for choice, message in zip(choices, messages, strict=True)
        ]
        answer = {**self._head, "object": "chat.completion", "choices": answers, "usage": self._visit.usage()}
        if self._prompt_scores is not None:
            answer["prompt_logprobs"] = prompt_scores(self._serving.tokenizer, prompt, self._prompt_scores)
        return answer

    async def chunks(self, choices: Sequence[Choice], with_usage: bool) -> AsyncGenerator[Json, None]:
        begun: set[int] = set()
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                if delta.choice not in begun:
                    begun.add(delta.choice)
                    yield self._chunk(delta.choice, {"role": "assistant", "content": ""}, None, None, with_usage)
                # The scores go with the first piece of what their tokens say, or alone where they say nothing yet.
                scores = self._scores(choices[delta.choice], delta.tokens)
                pieces = [piece for piece in map(self._piece, delta.events) if piece]
                for piece in pieces or ([{"content": ""}] if delta.tokens else []):
                    yield self._chunk(delta.choice, piece, scores, None, with_usage)
                    scores = None
                if delta.finish:
                    yield self._chunk(delta.choice, {}, None, self._finish(delta.finish), with_usage)
        if with_usage:
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._visit.usage()}

    def _piece(self, event: Event) -> Json | None:
        match event:
            case Said(text):
                return {"content": text}
            case Thought(text):
                return {"reasoning_content": text}
            case CallBegun(index):
                call = _call(event, "")
                return (
                    {"function_call": call["function"]}
                    if self._older_form
                    else {"tool_calls": [{"index": index, **call}]}
                )
            case CallArguments(index, text):
                function = {"arguments": text}
                return (
                    {"function_call": function}
                    if self._older_form
                    else {"tool_calls": [{"index": index, "function": function}]}
                )
        return None

    def _finish(self, finish: str | None) -> str | None:
        return "function_call" if self._older_form and finish == Finish.TOOL_CALLS else finish

    def _chunk(self, index: int, delta: Json, scores: Json | None, finish: str | None, with_usage: bool) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if with_usage else chunk

    def _scores(self, choice: Choice, tokens: Sequence[ScoredToken]) -> Json | None:
        if choice.request.sampling.logprobs is None:
            return None
        return chat_scores(self._serving.tokenizer, tokens)
