"""Whether grammars can be used, found out in a process of its own, each once. Knows nothing of requests or HTTP.

What a client's schema means may take hours or gigabytes to find out; here it may take seconds, and one sentence says
that it took more. Small grammars need not wait for large ones, known ones for nothing, and no client for all that
another has asked before.
"""

import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from functools import cached_property
from threading import Lock
from typing import BinaryIO

import msgspec
from blake3 import blake3

from muster.errors import InvalidRequest, MachineTrouble
from muster.text.calls import Call, CheckGrammar, Failed, Lexicon, Limit, Load, Spellings, Text
from muster.text.confined import Broken, Confined
from muster.text.turns import OwnerTurns, settle

LOADING = Limit(cpu_s=30, memory_bytes=2 * 2**30)
QUICK = Limit(cpu_s=1, memory_bytes=256 * 2**20)
LONG = Limit(cpu_s=5, memory_bytes=512 * 2**20)
LONG_FROM_CHARACTERS = 10_000
MAX_REMEMBERED = 64
"""Verdicts; a client asks for the same thing again and again."""


class GrammarCheck:
    """Safe to use from several threads."""

    def __init__(self, spellings: Spellings, end_ids: Iterable[int]) -> None:
        self._lexicon = Lexicon(spellings, tuple(end_ids))
        self._verdicts: OrderedDict[bytes, str | InvalidRequest] = OrderedDict()
        """The longest unused first. Empty: it can be used as it is."""
        self._lock = Lock()

    def checking(self, grammar: str, owner: str = "") -> "Future[str]":
        """The grammar as Lark text: it may be GBNF. Raises `InvalidRequest` where it cannot be used.

        Those who ask (`owner`) take turns.
        """
        key = blake3(grammar.encode("utf-8", errors="surrogatepass")).digest()
        verdict = self._remembered(key)
        if verdict is not None:
            known: Future[str] = Future()
            settle(known, lambda: _told(verdict, grammar))
            return known
        turns = self._quick_turns if len(grammar) < LONG_FROM_CHARACTERS else self._long_turns
        return turns.submit(owner, lambda: _told(self._verdict(key, grammar), grammar))

    def close(self) -> None:
        """End the processes, whatever they are in the middle of."""
        parts = vars(self)
        for name in ("_quick_turns", "_long_turns"):
            if name in parts:
                parts[name].cancel()
        for name in ("_quick", "_long"):
            if name in parts:
                parts[name].close()

    def _remembered(self, key: bytes) -> str | InvalidRequest | None:
        with self._lock:
            verdict = self._verdicts.get(key)
            if verdict is not None:
                self._verdicts.move_to_end(key)
        return verdict

    def _verdict(self, key: bytes, grammar: str) -> str | InvalidRequest:
        verdict = self._remembered(key)  # it may have been found while this one waited
        if verdict is None:
            verdict = self._ask(self._quick if len(grammar) < LONG_FROM_CHARACTERS else self._long, grammar)
            with self._lock:
                self._verdicts[key] = verdict
                if len(self._verdicts) > MAX_REMEMBERED:
                    self._verdicts.popitem(last=False)
        return verdict

    def _ask(self, sandbox: Confined, grammar: str) -> str | InvalidRequest:
        limit = LONG if sandbox is self._long else QUICK
        try:
            reply = sandbox.call(Call(limit, CheckGrammar(grammar)))
        except Broken as broken:
            return InvalidRequest(f"making sense of it {broken.words}")
        if isinstance(reply, Failed):
            return InvalidRequest(reply.reason)
        assert isinstance(reply, Text)
        return "" if reply.text == grammar else reply.text

    @cached_property
    def _file(self) -> BinaryIO:
        try:
            file = tempfile.TemporaryFile(prefix="muster-lexicon-")  # noqa: SIM115 - closed with this object
        except OSError as error:
            raise MachineTrouble(
                f"There is no place for temporary files ({error.strerror}); free some disk."
            ) from error
        file.write(msgspec.msgpack.encode(self._lexicon))
        file.flush()
        weakref.finalize(self, file.close)
        return file

    @cached_property
    def _quick(self) -> Confined:
        return self._new()

    @cached_property
    def _long(self) -> Confined:
        return self._new()

    @cached_property
    def _quick_turns(self) -> OwnerTurns:
        return OwnerTurns(self._quick.thread)

    @cached_property
    def _long_turns(self) -> OwnerTurns:
        return OwnerTurns(self._long.thread)

    def _new(self) -> Confined:
        return Confined("muster.text.sandbox.check", self._file, Call(LOADING, Load()))


def _told(verdict: str | InvalidRequest, grammar: str) -> str:
    if isinstance(verdict, InvalidRequest):
        raise InvalidRequest(str(verdict))
    return verdict or grammar
