"""What a stage is given for one step: a ragged batch of tokens, prefill chunks and decodes mixed. No policy here.

Legend of shape suffixes: T tokens of the step, R rows (one per request), P pages of the longest row, S sampled rows,
C scored tokens, H hidden size, V vocabulary, N query heads, K key/value heads, D head size.

    row          0            1   2
    tokens    [ a b c d ]   [ e ] [ f g ]        T = 7, R = 3
    query_lengths   4          1      2          what is new
    context_lengths 4         37     18          new + already in the pages
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    positions_T: Tensor
    """int64: position of each token in its own sequence."""
    slots_T: Tensor
    """int64: page * page_size + offset, where each token's key and value are written."""
    page_tables_RP: Tensor
    """int32: pages of each row, padded with 0."""
    query_lengths: tuple[int, ...]
    context_lengths: tuple[int, ...]
    logits_rows_S: Tensor
    """int64: indices into T of the tokens whose logits are wanted (used by the last stage only)."""
    scored_rows_C: Tensor | None = None
    """int64: the same for tokens whose logits are only looked at, a few at a time: there may be very many."""
