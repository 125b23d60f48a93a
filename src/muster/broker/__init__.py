"""Who is in the pool, who holds which layers, and what happens when somebody leaves.

Reading order: `events` (what the broker is told and what it wants done), `join` (who may come in, which claims are
believable), `membership` (leases, reputations, links), `placement` (one pipeline on its way from plan to service),
`placing` (from pool to placements), `state` (the pure state machine), `invariants` (what must hold after every event),
`store` (what survives a restart), `service` (the asyncio shell).
"""
