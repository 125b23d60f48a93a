"""Serving: replicas, stages, tensor parallelism and batches for a pool of any size. No torch, no clock.

Reading order: `options` (what may be asked for), `found` (what comes back), `search` (the way from one to the other).
"""
