"""Which machine does what. Search over plans; no torch, no clock, no randomness of its own.

Reading order: `first` (the first planner: one pipeline), `tables` (what every machine could hold and how fast),
`search` (order and layers for a few machines, exactly), `candidates` (a few machines out of many), `repair` (fill the
gap that a lost machine left), `words` (why this split; by how much a model does not fit).
"""
