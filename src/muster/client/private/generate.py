"""Requests through private sessions: all that are active share a step, and a lost machine costs nobody a token.

What a request needs to go on is here: its tokens. When a machine is lost, another session is opened without it, and
the next step sends all tokens of every active request. Draws are keyed by seed and position, so answers stay the same.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import structlog

from muster.client.private.session import MachineLost, PrivateSession
from muster.errors import ContextTooLong, LimitReached, MusterError, PoolUnavailable, Unsupported
from muster.link.base import short_id
from muster.private.client import NewIds
from muster.private.sentinels import Sentinel, Sentinels
from muster.serve.sampling import Sampler
from muster.spec.pool import NodeId
from muster.spec.request import Finish, Progress, Request, Sampled
from muster.wire.messages.generate import Admit

log = structlog.get_logger()
Open = Callable[[frozenset[NodeId]], Awaitable[PrivateSession]]
"""A session without the machines that were lost. Raises `MusterError` where too few are left."""
MAX_ACTIVE = 64
MAX_WAITING = 1024


@dataclass(eq=False)
class _Active:
    request: Request
    sequence: int
    tokens: list[int]
    """Prompt, and what was emitted."""
    sent: int = 0
    """Of them, to the session at hand."""
    progress: "asyncio.Queue[Progress | MusterError]" = field(default_factory=asyncio.Queue)
    gone: bool = False
    """Nobody listens any more."""

    @property
    def most_tokens(self) -> int:
        return len(self.request.prompt) + self.request.sampling.max_tokens

    @property
    def emitted(self) -> int:
        return len(self.tokens) - len(self.request.prompt)


class PrivateRequests:
    """Implements the API's backend: `generate` yields tokens whatever happens to the machines."""

    def __init__(
        self,
        open_session: Open,
        model: str,
        max_context: int,
        vocab_size: int,
        end_ids: frozenset[int],
        cache_tokens: int = 0,
        sentinels: Sequence[Sentinel] = (),
    ) -> None:
        """One of the `sentinels` is in every step, and machines that compute it wrongly are left out.

        `cache_tokens` is what machines have room for, of all requests at once; 0 counts requests alone."""
        self.model, self.max_context, self.vocab_size = model, max_context, vocab_size
        self._open, self._end_ids = open_session, end_ids
        self._cache_tokens = cache_tokens
        self._session: PrivateSession | None = None
        self._lost: frozenset[NodeId] = frozenset()
        self._sampler = Sampler()
        self._waiting: list[_Active] = []
        self._active: list[_Active] = []
        self._numbers = count()
        self._sentinels = Sentinels(sentinels, self._numbers) if sentinels else None
        self._work = asyncio.Event()
        self.steps = 0

    def status(self) -> Mapping[str, Any]:
        return {"ready": True, "active_requests": len(self._active), "steps": self.steps, "lost": len(self._lost)}

    async def generate(self, request: Request) -> AsyncIterator[Progress]:
        """Raises `MusterError`."""
        self._check(request)
        context = [*request.prompt, *request.emitted]
        # As the next token of the session sees it, its position counts from the whole context.
        mine = _Active(request, next(self._numbers), context)
        self._waiting.append(mine)
        self._work.set()
        try:
            while True:
                item = await mine.progress.get()
                if isinstance(item, MusterError):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            mine.gone = True
            self._work.set()

    async def run(self) -> None:
        """Step while anybody waits, until cancelled."""
        try:
            while True:
                await self._work.wait()
                self._admit()
                if not self._active:
                    self._work.clear()
                    continue
                await self._advance()
        finally:
            if self._session is not None:
                await self._session.close()

    def _check(self, request: Request) -> None:
        sampling = request.sampling
        if sampling.grammar or sampling.prompt_logprobs is not None:
            raise Unsupported("A private session keeps answers to no form and scores no prompts; leave that out.")
        if not request.prompt:
            raise Unsupported("The prompt is empty; write something.")
        if len(request.prompt) + sampling.max_tokens > self.max_context:
            raise ContextTooLong(
                f"Prompt and answer are {len(request.prompt) + sampling.max_tokens} tokens together, and this private "
                f"session takes {self.max_context}; ask for less.",
                "max_tokens",
            )
        if len(self._waiting) >= MAX_WAITING:
            raise LimitReached(f"{MAX_WAITING} requests wait already; try again later.")

    def _admit(self) -> None:
        for left in [each for each in self._active if each.gone]:
            self._end(left)
        self._waiting = [each for each in self._waiting if not each.gone]
        while self._waiting and len(self._active) < MAX_ACTIVE and self._has_room(self._waiting[0]):
            mine = self._waiting.pop(0)
            sampling = replace(mine.request.sampling, grammar="")
            self._sampler.admit(Admit(mine.sequence, tuple(mine.tokens), len(mine.request.prompt), sampling))
            self._active.append(mine)

    def _has_room(self, one: _Active) -> bool:
        asked = sum(each.most_tokens for each in (*self._active, one))
        return not self._cache_tokens or asked <= self._cache_tokens

    async def _advance(self) -> None:
        """One step of all active requests; a lost machine is replaced, and nothing was emitted then."""
        try:
            if self._session is None:
                self._session = await self._open(self._lost)
            active = list(self._active)
            new = [NewIds(each.sequence, each.sent, tuple(each.tokens[each.sent :])) for each in active]
            logits = await self._stepped(self._session, new)
            sampled = await asyncio.to_thread(self._sampler.sample, logits, [each.sequence for each in active])
        except MachineLost as lost:
            await self._replace(lost)
        except MusterError as error:
            await self._give_up(error)
        else:
            self.steps += 1
            for each, token in zip(active, sampled, strict=True):
                each.sent = len(each.tokens)
                self._emit(each, token)

    async def _stepped(self, session: PrivateSession, new: list[NewIds]) -> Any:
        """Logits of the requests, once the sentinel among them is found right. Raises `MachineLost`."""
        sentinels = self._sentinels
        if sentinels is None:
            pending = await session.step(new)
            return await asyncio.to_thread(pending.logits)
        if sentinels.is_over:
            session.forget(sentinels.next())
        place = secrets.randbelow(len(new) + 1)
        pending = await session.step([*new[:place], sentinels.due(), *new[place:]])
        lie = sentinels.check(session.client.rule, pending.states(place))
        if lie is not None:
            raise session.accused(lie)
        return await asyncio.to_thread(pending.logits, but=place)

    async def _replace(self, lost: MachineLost) -> None:
        log.warning("private.machine_lost", node=short_id(lost.node), reason=str(lost))
        self._lost |= {lost.node}
        await self._drop_session()
        for each in self._active:
            each.sent = 0
        if self._sentinels is not None:
            self._sentinels.restart()

    async def _give_up(self, error: MusterError) -> None:
        """All active requests get an answer."""
        await self._drop_session()
        for each in list(self._active):
            each.progress.put_nowait(error if error.status < 500 else PoolUnavailable(str(error)))
            self._end(each)

    async def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.abandon()
            await session.close()

    def _emit(self, mine: _Active, sampled: Sampled) -> None:
        sampling, index = mine.request.sampling, mine.emitted
        mine.tokens.append(sampled.token)
        ends = sampled.token in sampling.stop_token_ids or (sampled.token in self._end_ids and not sampling.ignore_eos)
        finish = Finish.STOP if ends else Finish.LENGTH if mine.emitted >= sampling.max_tokens else None
        mine.progress.put_nowait(Progress(mine.request.id, index, (sampled,), finish))
        if finish is not None:
            self._end(mine)

    def _end(self, mine: _Active) -> None:
        self._active.remove(mine)
        self._sampler.release(mine.sequence)
        if self._session is not None:
            self._session.forget(mine.sequence)
