"""Codecs: bytes for tensors that cross a link, and back. Knows nothing of links or models.

Reading order: `raw` (the tensor as it is; the reference that every other codec is measured against), `registry` (which
codec is meant by which name).
"""
