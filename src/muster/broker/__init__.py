"""Who is in the pool, who holds which layers, and what happens when somebody leaves.

Reading order: `events` (what the broker is told and what it wants done), `members/` (who is here, and what is believed
of them), `pipelines/` (who holds which layers), `state` (the pure state machine), `invariants` (what must hold after
every event), `view` (the pool as people see it), `storage/` (what survives a restart), `connections` and `bulk`
(what is said on channels), `service` (the asyncio shell).
"""
