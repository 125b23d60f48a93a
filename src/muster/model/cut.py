"""Takes a model apart so that only layers [first, last) are left, without touching its forward pass.

What a family does between the embedding and the layers (scaling, positions, rotary angles) still runs on a later stage,
on a stand-in for the tokens; the result is thrown away when the received hidden state arrives at the first held layer.
Modules with parameters that run before that moment have nothing to say, and are asleep until then.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from muster.model.architecture import find_layers, outside_layers


class StageEnd(Exception):
    """Leaves the forward pass at the first layer that this stage does not hold."""

    def __init__(self, hidden_1TH: Tensor) -> None:
        super().__init__()
        self.hidden_1TH = hidden_1TH


class StageCall:
    """The hidden state on its way to the first held layer, and whether it has got there."""

    def __init__(self) -> None:
        self.received_1TH: Tensor | None = None
        self.arrived = True

    def enter(self, received_1TH: Tensor | None) -> None:
        self.received_1TH = received_1TH
        self.arrived = received_1TH is None

    def leave(self) -> None:
        self.received_1TH, self.arrived = None, True

    def arrive(self) -> Tensor:
        assert self.received_1TH is not None
        self.arrived = True
        return self.received_1TH


class _Before(nn.Module):
    """Stands for a layer of an earlier stage. Keeps its plain attributes, which some families read from outside."""

    def __init__(self, layer: nn.Module, call: StageCall) -> None:
        super().__init__()
        _copy_plain_attributes(layer, self)
        self._call = call

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        assert self._call.received_1TH is not None
        return self._call.received_1TH


class _After(nn.Module):
    """Stands for the first layer of the next stage."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        _copy_plain_attributes(layer, self)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise StageEnd(args[0] if args else kwargs["hidden_states"])


def _copy_plain_attributes(source: nn.Module, target: nn.Module) -> None:
    for key, value in vars(source).items():
        if not key.startswith("_") and isinstance(value, str | int | float | bool):
            setattr(target, key, value)


class _Between(nn.Module):
    """Stands for all layers at once: ends the pass that comes from the embedding, or gives out what was received."""

    def __init__(self, layer: nn.Module, call: StageCall) -> None:
        super().__init__()
        _copy_plain_attributes(layer, self)
        self._call = call

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._call.received_1TH is None:
            raise StageEnd(args[0] if args else kwargs["hidden_states"])
        return self._call.arrive()


def cut(model: PreTrainedModel, first: int, last: int, call: StageCall, body: bool = False) -> None:
    """Replace the layers outside [first, last) and put to sleep what runs before `first`.

    A `body` has no ends, even if it holds the first and the last layer: hidden states go in and come out.
    """
    layers = find_layers(model)[1]
    for index in range(len(layers)):
        if index < first:
            layers[index] = _Before(layers[index], call)
        elif index >= last:
            layers[index] = _After(layers[index])
    if first > 0 or body:
        layers[first].register_forward_pre_hook(_arrival(call), with_kwargs=True)
        _put_to_sleep(model, call)
    if body and last == len(layers):
        layers[-1].register_forward_hook(_end)


def cut_to_ends(model: PreTrainedModel, call: StageCall) -> None:
    """Leave no layer, only what runs before and after them.

    While `call` has received nothing, a forward pass of token ids raises `StageEnd` with their hidden state; otherwise
    it makes logits of what was received.
    """
    layers = find_layers(model)[1]
    for index in range(len(layers)):
        layers[index] = _Between(layers[index], call)
    _put_to_sleep(model, call)


def _put_to_sleep(model: PreTrainedModel, call: StageCall) -> None:
    for name in outside_layers(model):
        module = model.get_submodule(name)
        module.forward = _asleep(module, call)


def _end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    raise StageEnd(output[0] if isinstance(output, tuple) else output)


def _arrival(call: StageCall) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden_1TH = call.arrive()
        if args:
            return (hidden_1TH, *args[1:]), kwargs
        return (), {**kwargs, "hidden_states": hidden_1TH}

    return hook


def _asleep(module: nn.Module, call: StageCall) -> Callable[..., Any]:
    """The module's forward, but without effect until the hidden state has arrived at the first held layer."""
    awake = module.forward
    is_embedding = isinstance(module, nn.Embedding)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if call.arrived:
            return awake(*args, **kwargs)
        assert call.received_1TH is not None
        return call.received_1TH.new_zeros(()) if is_embedding else args[0]

    return forward
