"""Codecs: bytes for tensors that cross a link, and back. Knows nothing of links or models.

Reading order: `raw` (the tensor as it is; the reference that every other codec is measured against), `matrix` (what the
others have in common), `cast` (another type of float for each value), `blocks` (few bits for each, and a scale for a
block of them), `registry` (which codec is meant by which name).
"""
