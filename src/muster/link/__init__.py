"""Authenticated connections between machines, each with a few ordered channels of frames.

Reading order: `base` (what a link is), `stream` (frames over a byte stream), `memory` (the twin for tests), `identity`
(who a node is), `iroh` and `iroh_connection` (the real one), `iroh_fast_write` (why it is fast), `stripes` and
`iroh_stripes` (several connections to a far peer), `relay` (through the head, between nodes that cannot dial each
other), `shaped` and `shaped_wire` (a slow, far network on one machine).
What every shell needs: `outbox` (a queue before a channel), `tasks` (supervised), `serving` (channels that a peer
opens), `change` (wakes those who wait).
"""
