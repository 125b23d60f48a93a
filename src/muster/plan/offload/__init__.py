"""How a stage that is larger than its device uses host memory and disk: the policy, computed. No torch, no clock.

Reading order: `block` (what is chosen, for one size of microbatch and block: a linear program), `tensors` (the same in
whole tensors), `search` (over sizes, orders and where attention runs), `chain` (several machines planned as one),
`words`. `published` does what FlexGen's own planner does, with its equations.
"""
