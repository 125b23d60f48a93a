"""Checkpoints that are published in few bits, one file for each layout. Know tensors by name, and no file of them.

Reading order: `base` (what a layout says), then any of `gptq`, `awq`, `compressed_tensors`, `fp8`, `mxfp4`;
`view` presents a checkpoint of any of them as if its matrices were plain, `bits` takes packed integers apart.
"""
