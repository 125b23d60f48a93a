"""Who is in the pool, and what is believed of them.

Reading order: `join` (who may come in, which claims are believable), `names` (what each is called), `membership`
(leases, reputations), `links` (every pair's link), `measured_pool` (all of it as a pool file).
"""
