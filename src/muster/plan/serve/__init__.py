"""Serving: replicas, stages, tensor parallelism and batches for a pool of any size. No torch, no clock.

Reading order: `options` (what may be asked for), `search` (the way from one to the other).

    fleet    machines sorted into classes        job       what is asked of a replica, and the tables
    layout   teams, and where to start           evolve    merge, split, move; `exact` for small fleets
    replica  the best pipeline of a team         worth     what teams are worth together
        orders -> cuts (exactly) | symmetric_cuts -> batching (N, batch, pages, swap)
    stage_tables  the simulator's seconds for every layer range and batch at once
    bound    what no plan beats                  realise   a layout with names and device numbers
    pins, refusals, explain                      what was fixed, why not, and why so
"""
