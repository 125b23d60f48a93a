"""Layers of any Hugging Face decoder, split into stages that run on different machines.

Reading order: `batch` (what a stage is given), `cache` (its KV pages), `attention` (the one function that all models
call), `stage` (layers [first, last)), `weights` (tensors by name from a directory or by digest), `conformance` (does
this architecture come out right?), `source` (a name becomes a directory),
`settings` (who may build or run a model when).
"""
