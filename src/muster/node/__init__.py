"""One machine in the pool: joins by ticket, measures itself, holds a stage, passes steps along.

Reading order: `state` (pure: lease, assignments), `measure` (what this machine can do), `fetch` (weights by digest),
`runtime` (one stage at work), `ring` (channels to the neighbours), `worker` (the asyncio shell).
"""
