"""Deltas in the shape of Anthropic's Messages: a message of blocks, or its events. Knows no routes."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from muster.api.answer import Json
from muster.api.blocks import Block, Blocks, BlockStep
from muster.api.generate import Choice, run_choices
from muster.api.serving import Serving, Visit
from muster.spec.request import Finish

_REASONS = {Finish.STOP: "end_turn", Finish.LENGTH: "max_tokens", Finish.TOOL_CALLS: "tool_use"}


class MessageForm:
    def __init__(self, serving: Serving, visit: Visit, stops: Sequence[str]) -> None:
        self._serving, self._visit, self._stops = serving, visit, stops
        self._blocks = Blocks()

    async def whole(self, choices: Sequence[Choice]) -> Json:
        end: Json = {}
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                for event in delta.events:
                    for _ in self._blocks.take(event):
                        pass
                if delta.finish:
                    end = self._end(delta.finish, delta.stop)
        content = [block for block in map(_written, self._blocks.all) if block is not None]
        return self._message(content) | end | {"usage": self._usage()}

    async def events(self, choices: Sequence[Choice]) -> AsyncGenerator[Json, None]:
        begun = False
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                if not begun:
                    begun = True
                    usage = self._usage() | {"output_tokens": 0}
                    yield {"type": "message_start", "message": self._message([]) | {"usage": usage}}
                    yield {"type": "ping"}
                for event in delta.events:
                    for step in self._blocks.take(event):
                        yield _event(step)
                if delta.finish:
                    for step in self._blocks.finish():
                        yield _event(step)
                    end = self._end(delta.finish, delta.stop)
                    yield {"type": "message_delta", "delta": end, "usage": self._usage()}
        yield {"type": "message_stop"}

    def _message(self, content: list[Json]) -> Json:
        return {
            "id": f"msg_{self._visit.id}",
            "type": "message",
            "role": "assistant",
            "model": self._serving.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _end(self, finish: str, stop: str | None) -> Json:
        if stop is not None and stop in self._stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        return {"stop_reason": _REASONS.get(finish, "end_turn"), "stop_sequence": None}

    def _usage(self) -> Json:
        return {
            "input_tokens": self._visit.prompt_tokens,
            "output_tokens": self._visit.completion_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        }


def _written(block: Block) -> Json | None:
    """None for a call that was cut: half of its arguments would be no JSON, and the reason to stop says why."""
    if block.kind == "text":
        return {"type": "text", "text": block.text}
    if block.kind == "thought":
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    arguments = _object(block.text or "{}")
    return None if arguments is None else _call(block, arguments)


def _call(block: Block, arguments: Json) -> Json:
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": arguments}


def _object(text: str) -> Json | None:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _event(step: BlockStep) -> Json:
    index, kind = step.block.index, step.block.kind
    if step.what == "ends":
        return {"type": "content_block_stop", "index": index}
    if step.what == "begins":
        empty = {
            "text": {"type": "text", "text": ""},
            "thought": {"type": "thinking", "thinking": "", "signature": ""},
            "call": _call(step.block, {}),
        }
        return {"type": "content_block_start", "index": index, "content_block": empty[kind]}
    piece = {
        "text": {"type": "text_delta", "text": step.piece},
        "thought": {"type": "thinking_delta", "thinking": step.piece},
        "call": {"type": "input_json_delta", "partial_json": step.piece},
    }
    return {"type": "content_block_delta", "index": index, "delta": piece[kind]}
