"""A stage whose weights are larger than its memory: they come from disk, a layer ahead of what computes.

    disk ──direct reads, several at once──▶ buffers under --memory ──views, no copy──▶ one layer, all microbatches

Reading order: `direct` (reads past the page cache into aligned buffers), `throttle` (a disk that is exactly as slow as
a test wants), `parts` (which bytes a unit of work needs and what they become), `choice` (which tensors stay in memory),
`store` (tensors that the checkpoint does not hold as they are used), `stream` (units on their way into a ring of
buffers), `microbatches` (one layer, piece by piece of a step), `outside` (embedding and head); the cache: `pages` (in
memory and on disk), `fetches` (which of them a piece of a step needs), `staging` (the memory through which they come),
`paging` (attention over them); `promised` (how the bytes that were promised are used), `stage` (all of it around a
stage of `model`), `load`. Beside them `measure`: how fast the tiers of this machine are.

Knows nothing of requests, links or who decided the policy.
"""
