"""Which machine does what. Search over plans; no torch, no clock, no randomness of its own.

`serve`, `train` (and `dtfm`, `graph`) are the planners for anything; see there. Here is the quick one, which answers in
milliseconds with one pipeline of single devices, for a pool that must serve at once: `first` (what it wants), `tables`
(what every machine could hold and how fast), `search` (order and layers for a few machines, exactly), `candidates` (a
few machines out of many), `repair` (fill the gap that a lost machine left), `words` (why this split; by how much a
model does not fit).
"""
