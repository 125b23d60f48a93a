"""Plans for training: data x pipeline parallel. No torch, no clock.

Reading order: `memory` (what a stage holds), `dtfm_plan` (a plan by the objective of DT-FM, to the letter).
"""
