"""Codecs: bytes for tensors that cross a link, and back. Knows nothing of links or models.

Reading order: `raw` (the tensor as it is; the reference that every other codec is measured against), `matrix` (what the
others have in common), `cast` (another type of float for each value), `blocks` (few bits for each, and a scale for a
block of them), `packing` and `noise` (numbers of few bits side by side; random ones by count), `uniform` and `tiles`
(1 to 8 bits), `sparse` and `chunks` (few values), `lowrank` (thin matrices), `registry` (which codec is meant by which
name), `feedback` (what a message lost goes with the next), `remembered` and `delta` (changes since the last visit),
`adaptive` (less on slow links).
"""
