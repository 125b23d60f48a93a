"""The quick planner: one pipeline of single devices in milliseconds, for a pool that must serve at once.

`planner` (what it wants), `tables` (what every machine could hold and how fast), `search` (order and layers for a few
machines, exactly), `split` (layers for a given order), `candidates` (a few machines out of many), `repair` (fill the
gap that lost machines left), `link_codecs` (what is packed), `explain` (why this split; by how much a
model does not fit).
"""
