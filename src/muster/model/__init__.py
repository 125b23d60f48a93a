"""Layers of any Hugging Face decoder, split into stages that run on different machines.

Reading order: `batch` (what a stage is given), `cache` (its KV pages), `attention` (the one function that all models
call, and the reference backend) over `layout` (its index tensors), `architecture` (a config.json becomes a model
without weights), `probe` (what one token tells about it), `cut` (what is left of it in a stage), `checkpoint` (which
tensors make which parameters), `stage` (layers [first, last)), `ends` (what runs before and after them, alone),
`bodies` (all layers, several times on one copy of the weights), `shape` (what they cost).

Weights: `folder` (opens nothing but a folder's own files), `tensor_file` and `weights` (tensors by name from a
directory), `blobs` (by digest from another machine), `source` and `from_hub` (a name becomes a
directory), `disk` (where caches live).

Trust: `conformance` (does this architecture come out right? a tiny model of it, made by `shrink`, goes through a
`rehearsal`), `load` (both together), `checked` (known without torch the next time), `apart` (what only torch can say,
from a process of its own), `settings` (who may build or run a model when). Speed: `flashinfer_backend` (NVIDIA GPUs).
Few bits: `quantized` (weights and KV pages as codes).
"""
