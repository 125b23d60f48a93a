"""Data x pipeline parallel placement by the objective of DT-FM, to the letter. No torch, no clock.

Reading order: `problem` (links and a job cut into equal tasks), `jobs` (the two sizes of a job,
the published one among them), `objective` (equations 1 to 4), `search` (the planner),
which uses `costs` (the equations over kinds of machines, remembered; `matching` does the work), `seeds` (structured
layouts), `fill` (random ones), `anneal` (downhill from either, by `trades`) and `bound` (how far it can be at most to
the optimum). `exact` solves tiny fleets. The published search, a yardstick, is in `benchmarks/dtfm_genetic.py`.
"""
