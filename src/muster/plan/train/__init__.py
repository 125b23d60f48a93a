"""Plans for training: data x pipeline parallel. No torch, no clock.

Reading order: `search` (the planner) over `fleet` (pool, model and workload as arrays), `starts` (structured layouts),
`cuts` (where to cut the layers), `price` (the step time of a layout), `walk` (from there downhill), `finish` (whole
microbatches, a codec per link), `bound` (how far it can be at most to the optimum), `memory` (what a stage holds).
`dtfm_plan` is a plan by the objective of DT-FM instead, to the letter.
"""
