"""AdamW over the weights that one place holds (Loshchilov and Hutter, 2019), torch's own. Knows no other place.

Its state goes in and out by the names of weights in the whole model, so that another cut can go on with it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from muster.errors import WeightsInvalid
from muster.spec.training import OptimizerTable

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    def __init__(self, parameters: Mapping[str, nn.Parameter], options: OptimizerTable) -> None:
        self._parameters = dict(parameters)
        # As everywhere, norms and biases are not pulled towards zero.
        decayed = [parameter for parameter in parameters.values() if parameter.dim() >= 2]
        others = [parameter for parameter in parameters.values() if parameter.dim() < 2]
        groups = [
            {"params": group, "weight_decay": decay}
            for group, decay in ((decayed, options.weight_decay), (others, 0.0))
            if group
        ]
        self._adamw = torch.optim.AdamW(groups, options.learning_rate, (options.beta1, options.beta2), options.epsilon)

    def update(self, learning_rate: float, scale: float) -> None:
        """Change the weights by their gradients times `scale`, and forget the gradients."""
        for parameter in self._parameters.values():
            if parameter.grad is not None and scale != 1.0:
                parameter.grad.mul_(scale)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.forget()

    def forget(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """`exp_avg.NAME` and `exp_avg_sq.NAME` of every weight that was changed so far, and `step.NAME`."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            held = self._adamw.state.get(parameter, {})
            found |= {f"{moment}.{name}": held[moment] for moment in (*MOMENTS, "step") if moment in held}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` said, of these weights and maybe others. Raises `WeightsInvalid` on other shapes."""
        for name, parameter in self._parameters.items():
            if f"step.{name}" not in state:
                continue
            for moment in MOMENTS:
                if state[f"{moment}.{name}"].shape != parameter.shape:
                    raise WeightsInvalid(
                        f"The optimizer's state of {name} has another shape than the weight; remove this checkpoint."
                    )
            held = {moment: state[f"{moment}.{name}"].to(parameter.device, copy=True) for moment in MOMENTS}
            self._adamw.state[parameter] = {"step": state[f"step.{name}"].clone(), **held}
