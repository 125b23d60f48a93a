"""Deltas in the shape of OpenAI's Responses: a response of items, or its events. Knows no routes."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing

from muster.api.answer import Json
from muster.api.blocks import Block, Blocks, BlockStep
from muster.api.generate import Choice, run_choices
from muster.api.responses.fields import ResponsesRequest
from muster.api.serving import Serving, Visit
from muster.spec.request import Finish
from muster.text.calls import Message, ToolCall

_PREFIXES = {"text": "msg", "thought": "rs", "call": "fc"}


class ResponseForm:
    def __init__(
        self, serving: Serving, visit: Visit, body: ResponsesRequest, keep: Callable[[Json, Message], None] | None
    ) -> None:
        """`keep` is told of a whole response, and of its answer as a message; None keeps nothing."""
        self._serving, self._visit, self._body, self._keep = serving, visit, body, keep
        self._blocks = Blocks()
        self._created = int(time.time())
        self._sequence = 0

    async def whole(self, choices: Sequence[Choice]) -> Json:
        finish: str | None = None
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                for event in delta.events:
                    for _ in self._blocks.take(event):
                        pass
                finish = delta.finish
        return self._ended(finish)

    async def events(self, choices: Sequence[Choice]) -> AsyncGenerator[Json, None]:
        finish: str | None = None
        begun = False
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                if not begun:
                    begun = True
                    yield self._event("response.created", response=self._response("in_progress"))
                    yield self._event("response.in_progress", response=self._response("in_progress"))
                steps = [step for event in delta.events for step in self._blocks.take(event)]
                for step in [*steps, *(self._blocks.finish() if delta.finish else ())]:
                    for event in self._events_of(step):
                        yield event
                finish = delta.finish
        response = self._ended(finish)
        yield self._event(f"response.{response['status']}", response=response)

    def _ended(self, finish: str | None) -> Json:
        cut = finish == Finish.LENGTH
        response = self._response("incomplete" if cut else "completed") | {
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(block, self._status(block, cut)) for block in self._blocks.all],
            "usage": self._usage(),
        }
        if self._keep is not None:
            self._keep(response, self._message())
        return response

    def _status(self, block: Block, cut: bool) -> str:
        return "incomplete" if cut and block is self._blocks.all[-1] else "completed"

    def _message(self) -> Message:
        blocks = self._blocks.all
        calls = [ToolCall(block.id, block.name, block.text) for block in blocks if block.kind == "call"]
        text = "".join(block.text for block in blocks if block.kind == "text")
        thought = "".join(block.text for block in blocks if block.kind == "thought")
        return Message("assistant", text, tool_calls=tuple(calls), reasoning=thought or None)

    def _response(self, status: str) -> Json:
        body = self._body
        return {
            "id": f"resp_{self._visit.id}",
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "metadata": body.metadata or {},
            "model": self._serving.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "service_tier": "default",
            "store": self._keep is not None,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": (body.text.format if body.text else None) or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": None,
        }

    def _usage(self) -> Json:
        read, written = self._visit.prompt_tokens, self._visit.completion_tokens
        return {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        }

    def _id(self, block: Block) -> str:
        return f"{_PREFIXES[block.kind]}_{self._visit.id}_{block.index}"

    def _item(self, block: Block, status: str, begins: bool = False) -> Json:
        head = {"id": self._id(block), "status": status}
        content = [] if begins else [_part(block)]
        if block.kind == "text":
            return head | {"type": "message", "role": "assistant", "content": content}
        if block.kind == "thought":
            return head | {"type": "reasoning", "summary": [], "content": content}
        return head | {"type": "function_call", "call_id": block.id, "name": block.name, "arguments": block.text}

    def _events_of(self, step: BlockStep) -> Iterator[Json]:
        block = step.block
        place: Json = {"item_id": self._id(block), "output_index": block.index}
        names = {"text": "output_text", "thought": "reasoning_text", "call": "function_call_arguments"}
        name = names[block.kind]
        inside = place if block.kind == "call" else place | {"content_index": 0}
        scores: Json = {"logprobs": []} if block.kind == "text" else {}
        if step.what == "begins":
            item = self._item(block, "in_progress", begins=True)
            yield self._event("response.output_item.added", output_index=block.index, item=item)
            if block.kind != "call":
                yield self._event("response.content_part.added", **inside, part=_part(block))
        elif step.what == "goes on":
            yield self._event(f"response.{name}.delta", **inside, delta=step.piece, **scores)
        elif block.kind == "call":
            yield self._event(f"response.{name}.done", **inside, arguments=block.text, name=block.name)
        else:
            yield self._event(f"response.{name}.done", **inside, text=block.text, **scores)
            yield self._event("response.content_part.done", **inside, part=_part(block))
        if step.what == "ends":
            item = self._item(block, "completed")
            yield self._event("response.output_item.done", output_index=block.index, item=item)

    def _event(self, kind: str, **said: object) -> Json:
        event = {"type": kind, "sequence_number": self._sequence, **said}
        self._sequence += 1
        return event


def _part(block: Block) -> Json:
    if block.kind == "thought":
        return {"type": "reasoning_text", "text": block.text}
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}
