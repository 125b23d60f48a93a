"""How a stage that is larger than its device uses host memory and disk: the policy, computed. No torch, no clock.

Reading order: `block` (the shares for one size of microbatch and block: a linear program), `chain` (sizes, orders, and
several machines planned as one), `serve` (a plan with its forecast), `words`. `published` does what FlexGen's own
planner does, with its equations.
"""
