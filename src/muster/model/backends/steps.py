"""Optimizers in NumPy, as torch computes them: for planes whose framework has none."""

import numpy as np

from muster.model.backends.base import Array, StepOptions


class NumpyOptimizer:
    def __init__(self) -> None:
        self._count = 0
        self._state: dict[str, tuple[Array, ...]] = {}

    def step(self, weights: dict[str, Array], gradients: dict[str, Array], options: StepOptions) -> None:
        """Change `weights` in place."""
        self._count += 1
        for name, gradient in gradients.items():
            change = self._momentum if options.optimizer == "sgd" else self._adam
            change(name, weights[name], gradient, options)

    def _momentum(self, name: str, weight: Array, gradient: Array, options: StepOptions) -> None:
        """As `torch.optim.SGD`: the first step takes the gradient as it is."""
        moved = gradient + options.weight_decay * weight if options.weight_decay else gradient
        if options.momentum:
            before = self._state.get(name)
            velocity = moved.copy() if before is None else options.momentum * before[0] + moved
            self._state[name] = (velocity,)
            moved = velocity
        weight -= options.learning_rate * moved

    def _adam(self, name: str, weight: Array, gradient: Array, options: StepOptions) -> None:
        """AdamW, Loshchilov and Hutter, arXiv 1711.05101, algorithm 2."""
        one, two = options.betas
        first, second = self._state.get(name) or (np.zeros_like(weight), np.zeros_like(weight))
        first = one * first + (1 - one) * gradient
        second = two * second + (1 - two) * gradient * gradient
        self._state[name] = (first.astype(weight.dtype), second.astype(weight.dtype))
        weight -= options.learning_rate * options.weight_decay * weight
        size = np.sqrt(second / (1 - two**self._count)) + options.epsilon
        weight -= options.learning_rate / (1 - one**self._count) * first / size
