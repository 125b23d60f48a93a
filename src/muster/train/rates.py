"""The learning rate of each step: a straight rise, then half a cosine down. Pure."""

from math import cos, pi

from muster.spec.training import OptimizerTable


def learning_rate(options: OptimizerTable, step: int, steps: int) -> float:
    """Of step `step`, counted from 0, of `steps` (Loshchilov and Hutter, 2017, eq. 5, without restarts)."""
    if step < options.warm_up_steps:
        return options.learning_rate * (step + 1) / options.warm_up_steps
    if options.schedule == "constant":
        return options.learning_rate
    falling = max(1, steps - options.warm_up_steps)
    progress = min(1.0, (step - options.warm_up_steps) / falling)
    least = options.least_share * options.learning_rate
    return least + (options.learning_rate - least) * (1 + cos(pi * progress)) / 2
