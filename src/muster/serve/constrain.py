"""Outputs that keep to a grammar: which tokens may come next, for all rows of a step together. Lives on the last stage.

    prepare   a grammar is compiled, once, beside the steps  (takes up to seconds, in a thread of its own)
    begin     a sequence is admitted; what it has said is read again   (so a repair changes nothing)
    mask      tokens that may not come get no probability    (computed while the step before is on its way round)
    accept    a token was chosen

What is allowed depends on the grammar and on the tokens so far, nothing else. A matcher can also take several tokens
and give them back (`rollback`), as speculation will want. Knows nothing of requests, JSON or schemas.

Legend of shape suffixes: S sampled rows, R rows with a grammar, W words of 32 tokens, V vocabulary.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import msgspec
import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask_par
from torch import Tensor

from muster.errors import InvalidRequest, MusterError, ProtocolViolation
from muster.spec.sampling import MAX_GRAMMARS, MAX_GRAMMARS_BYTES
from muster.text.calls import Spellings
from muster.text.grammar import compiled, first_fault, token_table

MAX_THREADS = 4
"""That compute masks; a machine has other work."""


class Constraint:
    """One sequence's place in its grammar."""

    def __init__(self, matcher: LLMatcher, emitted: Sequence[int]) -> None:
        self.matcher = matcher
        self.is_complete = False
        """Nothing may follow."""
        self.fault: str | None = None
        """Why no token can be chosen, in words."""
        self.filling: Future[None] | None = None
        """While it runs, nobody else may touch the matcher."""
        self.mask_W = np.empty(0, dtype=np.int32)
        """Of the next token, once it is filled."""
        if not emitted:
            return
        if not matcher.consume_tokens(list(emitted)):
            self.fault = "what the answer says so far does not fit it"
        elif matcher.is_stopped():
            self.fault = "the answer was complete before"

    def accept(self, token: int) -> None:
        """`token` was chosen under the mask."""
        if self.fault is None and not self.matcher.consume_token(token):
            self.fault = first_fault(self.matcher) or "the token that was chosen does not fit it"
        self.is_complete = self.fault is None and self.matcher.is_stopped()


class Constraints:
    """The grammars that this stage has compiled, by the numbers that the first stage gave them."""

    def __init__(self, spellings: Callable[[], bytes], end_ids: Collection[int], vocab_size: int) -> None:
        """`spellings` gives the packed `Spellings` of the tokenizer; it is asked when the first grammar comes.

        `vocab_size` is the number of logits.
        """
        self._spellings, self._end_ids, self._vocab_size = spellings, tuple(end_ids), vocab_size
        self._compiled: dict[int, LLMatcher] = {}
        self._nbytes: dict[int, int] = {}
        """Of the text of every grammar that is compiled or will be."""

    @property
    def numbers(self) -> frozenset[int]:
        """Of the grammars that are ready."""
        return frozenset(self._compiled)

    def reserve(self, number: int, grammar: str) -> None:
        """It is to be prepared. Raises `ProtocolViolation` where the first stage lets too many be held at once.

        What it no longer counts may still be here: it says so with a step, which may come later, and counts that, too.
        """
        if number in self._nbytes or number < 1:
            raise ProtocolViolation(f"Grammar {number} came twice; the peer runs changed code.")
        nbytes = len(grammar.encode())
        if len(self._nbytes) >= 2 * MAX_GRAMMARS or sum(self._nbytes.values()) + nbytes > 2 * MAX_GRAMMARS_BYTES:
            raise ProtocolViolation("More grammars came than a stage holds; the peer runs changed code.")
        self._nbytes[number] = nbytes

    def prepare(self, number: int, grammar: str) -> str:
        """Compile; what is wrong, if something is. May be called in another thread, one call at a time."""
        try:
            self._compiled[number] = compiled(self._table, grammar)
        except InvalidRequest as error:
            self._nbytes.pop(number, None)
            return f"The grammar of the output cannot be used: {error}; change that part."
        except (MusterError, msgspec.MsgspecError, ValueError, OSError) as error:
            return f"The machine that chooses the tokens cannot read the model's vocabulary ({error}); restart it."
        return ""

    def begin(self, number: int, emitted: Sequence[int]) -> Constraint:
        return Constraint(self._compiled[number].deep_copy(), emitted)

    def forget(self, number: int) -> None:
        """Sequences that have begun go on. Raises `ProtocolViolation` for what is not ready."""
        if self._compiled.pop(number, None) is None:
            raise ProtocolViolation(f"Grammar {number} is forgotten, which is not here; the peer runs changed code.")
        self._nbytes.pop(number, None)

    def fill(self, constraints: Sequence[Constraint]) -> None:
        """Compute the next masks of these in another thread."""
        open_ones = [one for one in constraints if one.fault is None and not one.is_complete]
        if open_ones:
            filling = self._thread.submit(self._fill, open_ones)
            for constraint in open_ones:
                constraint.filling = filling

    def mask(self, logits_SV: Tensor, constraints: Mapping[int, Constraint]) -> None:
        """Rule out in row i, in place, what constraint i does not allow. What is broken stays as it is."""
        self.fill([constraint for constraint in constraints.values() if constraint.filling is None])
        for constraint in constraints.values():
            if constraint.filling is not None:
                constraint.filling.result()
                constraint.filling = None
                constraint.fault = first_fault(constraint.matcher)
        rows = [row for row, constraint in constraints.items() if constraint.fault is None]
        if rows:
            masks_RW = np.stack([constraints[row].mask_W for row in rows])
            allowed_RV = np.unpackbits(masks_RW.view(np.uint8), axis=1, count=logits_SV.shape[1], bitorder="little")
            ruled_out_RV = torch.from_numpy(allowed_RV == 0).to(logits_SV.device)
            logits_SV[rows] = logits_SV[rows].masked_fill_(ruled_out_RV, -torch.inf)

    def close(self) -> None:
        """Nothing is asked any more."""
        self._thread.shutdown(wait=False)

    def _fill(self, constraints: list[Constraint]) -> None:
        masks_RW = np.zeros((len(constraints), -(-self._table.vocab_size // 32)), dtype=np.int32)
        rows = [(constraint.matcher, row) for row, constraint in enumerate(constraints)]
        fill_next_token_bitmask_par(self._executor, rows, masks_RW)
        for constraint, mask_W in zip(constraints, masks_RW, strict=True):
            constraint.mask_W = mask_W

    @cached_property
    def _table(self) -> LLTokenizer:
        spellings = msgspec.msgpack.decode(self._spellings(), type=Spellings)
        return token_table(spellings, self._end_ids, self._vocab_size)

    @cached_property
    def _executor(self) -> LLExecutor:
        return LLExecutor(min(MAX_THREADS, os.cpu_count() or 1))

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="masks")
