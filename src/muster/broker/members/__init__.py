"""Who is in the pool, and what is believed of them.

Reading order: `join` (who may come in, which messages make sense), `names` (what each is called), `plausible` (what no
device can have), `trust` (what a machine has shown of what it claims), `membership` (leases, reputations), `proving`
(who has to show it now), `links` (every pair's link), `measured_pool` (all of it as a pool file).
"""
