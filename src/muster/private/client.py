"""The role that knows the tokens: embedding, last norm and head, and nothing between them.

Token ids leave it only as rows of the embedding, each to the CompNode of its position; answers are chosen here. Takes
messages and gives messages; how they travel is for others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muster.compress.raw import decode, encode, expect
from muster.errors import ContextTooLong, ProtocolViolation
from muster.model.ends import ModelEnds, build_ends
from muster.model.shape import torch_dtype
from muster.model.weights import Weights
from muster.private.attn_node import Letter
from muster.private.orders import CompRows, NewTokens, attention_orders, comp_rows
from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.frame import Payload
from muster.wire.messages.private import ForgetSequence, HiddenRows


def private_ends(weights: Weights, dtype: str) -> ModelEnds:
    """On this machine's processor. Raises as `build_ends` does."""
    return build_ends(weights, torch_dtype(dtype), torch.device("cpu"))


@dataclass(frozen=True, slots=True)
class NewIds:
    """Token ids that follow those of a sequence which have gone ahead."""

    sequence: int
    start: int
    ids: tuple[int, ...]


class PendingStep:
    """A step under way: which rows are still to come, and the logits once all are here."""

    def __init__(self, number: int, ends: ModelEnds, expected: dict[int, CompRows], last_rows: Sequence[int]) -> None:
        self.number = number
        self._ends, self._expected, self._last_rows = ends, expected, list(last_rows)
        total = sum(len(rows.rows) for rows in expected.values())
        self._hidden_TH = torch.empty(total, ends.hidden_size, dtype=ends.dtype)
        self._missing = set(expected)

    @property
    def done(self) -> bool:
        return not self._missing

    def take(self, message: HiddenRows, payload: Payload) -> None:
        """Rows of one CompNode after the last layer. Raises `ProtocolViolation`."""
        if message.step != self.number or message.sender not in self._missing:
            raise ProtocolViolation("Hidden states came that are not due; run the same version of Muster everywhere.")
        rows = self._expected[message.sender].rows
        expect(message.tensor, self._ends.dtype, (len(rows), self._ends.hidden_size))
        part_TH = decode(message.tensor, payload, self._hidden_TH.nbytes)
        if not part_TH.isfinite().all():
            raise ProtocolViolation(
                f"CompNode {message.sender} gave entries that are not finite numbers; take its machine out of the pool."
            )
        self._hidden_TH[rows] = part_TH
        self._missing.discard(message.sender)

    def states(self, index: int) -> Tensor:
        """After the last layer, of the new tokens of a sequence of the step [T, H]."""
        assert self.done
        first = self._last_rows[index - 1] + 1 if index else 0
        return self._hidden_TH[first : self._last_rows[index] + 1]

    def logits(self, every: bool = False, but: int | None = None) -> Tensor:
        """Of the last new token of each sequence, `but` one if it is named, or of every token: float32 [S, V]."""
        assert self.done
        rows = [row for index, row in enumerate(self._last_rows) if index != but]
        return self._ends.logits(self._hidden_TH if every else self._hidden_TH[rows])


class PrivateClient:
    def __init__(
        self, ends: ModelEnds, rule: TokenShards, windows: Sequence[int], max_tokens: int, epoch: int = 0
    ) -> None:
        """`windows`: the different ones of the model's layers, as `AttnLayer.window` counts them."""
        self.ends, self.rule, self.windows, self.epoch = ends, rule, tuple(windows), epoch
        self.max_tokens = max_tokens
        self._steps = 0

    def begin(self, new: Sequence[NewIds]) -> tuple[PendingStep, list[Letter]]:
        """A step for any number of sequences: what to send, and what to give the answers to."""
        step, self._steps = self._steps, self._steps + 1
        for each in new:
            if each.start + len(each.ids) > self.max_tokens:
                raise ContextTooLong(
                    f"A sequence of {each.start + len(each.ids)} tokens is longer than the {self.max_tokens} that this "
                    "private session holds; send less."
                )
        tokens = [NewTokens(each.sequence, each.start, len(each.ids)) for each in new]
        expected = comp_rows(self.rule, tokens)
        orders = attention_orders(self.rule, self.windows, tokens, self.epoch, step)
        letters: list[Letter] = [(order, b"") for order in orders]
        letters += self._embedded(step, new, tokens, expected)
        ends = [0]
        for each in new:
            ends.append(ends[-1] + len(each.ids))
        return PendingStep(step, self.ends, expected, [end - 1 for end in ends[1:]]), letters

    def _embedded(
        self, step: int, new: Sequence[NewIds], tokens: Sequence[NewTokens], expected: dict[int, CompRows]
    ) -> list[Letter]:
        ids_T = torch.tensor([token for each in new for token in each.ids])
        positions_T = torch.tensor([position for each in tokens for position in each.positions])
        hidden_TH = self.ends.embed(ids_T, positions_T)
        letters: list[Letter] = []
        for role, rows in sorted(expected.items()):
            header, payload = encode(hidden_TH[rows.rows])
            message = HiddenRows(
                epoch=self.epoch,
                sender=CLIENT,
                receiver=role,
                step=step,
                tensor=header,
                positions=tuple(rows.positions),
                shards=tuple(rows.shards),
                ranks=tuple(rows.ranks),
            )
            letters.append((message, payload))
        return letters

    def forget(self, sequence: int) -> list[Letter]:
        """What tells every AttnNode to let go of a sequence."""
        roles = [role for role in self.rule.roles if not self.rule.is_comp(role)]
        return [
            (ForgetSequence(epoch=self.epoch, sender=CLIENT, receiver=role, sequence=sequence), b"") for role in roles
        ]
