"""Weights and KV pages in few bits: codes, and steps of blocks of them.

Reading order: `codec` (numbers to codes and back), `matrix` (one matrix of codes), `kernel` (PyTorch's own products
with them), `linear` (the layers that hold one), `chosen` (which parameters of a model may be so); `pages` and
`attention` do the same for keys and values.
"""
