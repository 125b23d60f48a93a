"""Runs operators of a program again, from any state on, on this machine. Knows no rounding.

Only operators that have bounds (`bounds.KNOWN`) run, by their names in torch; nothing else that a stranger wrote does.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from muster.errors import ProtocolViolation
from muster.verify.disputes.bounds import KNOWN
from muster.verify.disputes.program import Argument, HeldTensor, Items, NamedSetting, TracedOperator, Value, View
from muster.verify.disputes.tensors import DTYPES, digest, dtype_name, size_bytes

Values = dict[int, Tensor]
Held = Mapping[str, Tensor]
CPU = torch.device("cpu")


def advance(operators: Iterable[TracedOperator], values: Values, held: Held, device: torch.device = CPU) -> Values:
    """The values after these operators, those of before among them."""
    values = dict(values)
    for operator in operators:
        outputs = run_operator(operator, values, held, device)
        for made, output in zip(operator.made, outputs, strict=True):
            values[made.number] = output
    return values


@torch.inference_mode()
def run_operator(
    operator: TracedOperator, values: Mapping[int, Tensor], held: Held, device: torch.device = CPU
) -> list[Tensor]:
    """Its outputs. Raises `ProtocolViolation` where it cannot run, or makes something else than it says."""
    try:
        outputs = call(operator, lambda leaf: resolve(leaf, values, held, device))
    except ProtocolViolation:
        raise
    except Exception as error:
        raise ProtocolViolation(
            f"Operator {operator.name} cannot run on these inputs ({type(error).__name__}); whoever stated them lies."
        ) from error
    found = [(dtype_name(output), tuple(output.shape)) for output in outputs]
    if found != [(made.dtype, made.shape) for made in operator.made]:
        raise ProtocolViolation(
            f"Operator {operator.name} makes other shapes than were stated; whoever stated them lies."
        )
    return outputs


def call(operator: TracedOperator, leaf: Callable[[Argument], Any]) -> list[Tensor]:
    """Call it with every leaf of its arguments replaced."""
    arguments, named = (
        [whole(argument, leaf) for argument in operator.arguments],
        {name: whole(argument, leaf) for name, argument in operator.named},
    )
    target = find(operator.target)
    if target._schema.is_mutable:
        base = arguments[0] = arguments[0].clone()
        for view in operator.through:
            arguments[0] = _step(view, arguments[0], leaf)
        target(*arguments, **named)
        return [base]
    result = target(*arguments, **named)
    return list(result) if isinstance(result, tuple | list) else [result]


def _step(view: View, tensor: Tensor, leaf: Callable[[Argument], Any]) -> Tensor:
    result = find(view.target)(
        tensor,
        *(whole(argument, leaf) for argument in view.arguments),
        **{name: whole(argument, leaf) for name, argument in view.named},
    )
    part: Tensor = result[view.pick] if isinstance(result, tuple | list) else result
    return part


def find(target: str) -> Any:
    """The overload of this name. Raises `ProtocolViolation` for any that has no bounds."""
    words = target.split(".")
    if len(words) != 3 or words[0] != "aten" or words[1].removesuffix("_") not in KNOWN:
        raise ProtocolViolation(f"There is no operator {target[:60]!r} in a dispute; update Muster on both machines.")
    packet = getattr(torch.ops.aten, words[1], None)
    overload = getattr(packet, words[2], None)
    if overload is None:
        raise ProtocolViolation(f"PyTorch has no operator {target[:60]!r} here; both machines need the same version.")
    return overload


def resolve(leaf: Argument, values: Mapping[int, Tensor], held: Held, device: torch.device) -> Any:
    match leaf:
        case Value(number):
            if number not in values:
                raise ProtocolViolation(f"Value {number} is used but not stated; the transcript is incomplete.")
            return values[number]
        case HeldTensor(name):
            if name not in held:
                raise ProtocolViolation(f"Tensor {name[:120]} is missing; name a folder that has the model's weights.")
            return held[name]
        case NamedSetting("dtype", name):
            if name not in DTYPES:
                raise ProtocolViolation(f"The dtype {name[:20]!r} is unknown; update Muster.")
            return DTYPES[name]
        case NamedSetting("device"):
            return device
        case NamedSetting("layout"):
            return torch.strided
        case NamedSetting("memory_format", name):
            return torch.preserve_format if name == "preserve_format" else torch.contiguous_format
    return leaf


def whole(argument: Argument, leaf: Callable[[Argument], Any]) -> Any:
    if isinstance(argument, Items):
        return [whole(item, leaf) for item in argument.items]
    return leaf(argument)


def check_sizes(operator: TracedOperator) -> None:
    """Raise `ProtocolViolation` where what it says it makes is absurd."""
    for made in operator.made:
        size_bytes(made.dtype, made.shape)


def check_held(operator: TracedOperator, held: Held) -> None:
    """Raise `ProtocolViolation` unless the tensors that it takes from the model are those that it names."""
    for one in operator.held():
        if one.name in held and digest(held[one.name]) != one.digest:
            raise ProtocolViolation(
                f"Tensor {one.name[:120]} has other numbers here than in the dispute; name the same model."
            )
