"""Deltas in the shape of Ollama's API: one object, or one a line. Knows no routes."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from muster.api.answer import Json
from muster.api.blocks import Blocks
from muster.api.generate import Choice, run_choices
from muster.api.serving import Serving, Visit
from muster.spec.request import Finish


class OllamaForm:
    def __init__(self, serving: Serving, visit: Visit, chat: bool) -> None:
        """A chat answers with a message, `generate` with a text."""
        self._serving, self._visit, self._chat = serving, visit, chat
        self._blocks = Blocks()

    async def whole(self, choices: Sequence[Choice]) -> Json:
        text, thought, calls, last = "", "", [], {}
        async with aclosing(self.lines(choices)) as lines:
            async for line in lines:
                part = line["message"] if self._chat else line
                text += part["content" if self._chat else "response"]
                thought += part.get("thinking", "")
                calls += part.get("tool_calls", [])
                last = line
        return last | self._said(text, thought, calls)

    async def lines(self, choices: Sequence[Choice]) -> AsyncGenerator[Json, None]:
        async with aclosing(run_choices(self._serving, self._visit, choices)) as deltas:
            async for delta in deltas:
                for step in (step for event in delta.events for step in self._blocks.take(event)):
                    if step.what == "goes on" and step.block.kind != "call":
                        thinks = step.block.kind == "thought"
                        yield self._line("" if thinks else step.piece, step.piece if thinks else "", [])
                    elif step.what == "ends" and step.block.complete:
                        function = {"name": step.block.name, "arguments": json.loads(step.block.text or "{}")}
                        yield self._line("", "", [{"function": function}])
                if delta.finish:
                    yield self._line("", "", []) | self._end(delta.finish)

    def _line(self, text: str, thought: str, calls: list[Json]) -> Json:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return {"model": self._serving.model, "created_at": now, "done": False, **self._said(text, thought, calls)}

    def _said(self, text: str, thought: str, calls: list[Json]) -> Json:
        more: Json = {"thinking": thought} if thought else {}
        if calls:
            more["tool_calls"] = calls
        return {"message": {"role": "assistant", "content": text, **more}} if self._chat else {"response": text, **more}

    def _end(self, finish: str) -> Json:
        visit, now_s = self._visit, time.perf_counter()
        submitted_s = visit.submitted_s or now_s
        first_s = visit.first_token_s or now_s
        return {
            "done": True,
            "done_reason": "length" if finish == Finish.LENGTH else "stop",
            "total_duration": _ns(now_s - visit.arrived_s),
            "load_duration": 0,
            "prompt_eval_count": visit.prompt_tokens,
            "prompt_eval_duration": _ns(first_s - submitted_s),
            "eval_count": visit.completion_tokens,
            "eval_duration": _ns(now_s - first_s),
        }


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
