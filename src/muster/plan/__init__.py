"""Which machine does what. Search over plans; no torch, no clock, no randomness of its own.

`serve` and `train` (with `dtfm`, `graph`) are the planners for anything; `quick` answers in milliseconds. What a
running pool should do next is weighed in `adapt` (mend what is lost, improve the rest), by `change` (what going from
one plan to another costs), `moves` (plans that differ little) and `pinned` (layers that the operator has fixed).
"""
