"""Which machine does what. Search over plans; no torch, no clock, no randomness of its own.

`serve` and `train` (with `train/dtfm`, `graph`) are the planners for anything; `quick` answers in milliseconds.
`private` shares tokens out so that nobody sees enough. `replan` weighs what a running pool should do next.
"""
