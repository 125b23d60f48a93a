"""Writes down what a stage computes for one prompt: each operator as PyTorch dispatches it. For any conforming decoder.

Programs have values, not memory. So an operator that writes in place makes a new value, and views of what it wrote into
are taken anew when they are next used. What only changes how a tensor is named in Python makes no operator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from muster.errors import UnsupportedModel
from muster.model.batch import Batch
from muster.model.stage import Stage
from muster.verify.disputes.bounds import KNOWN
from muster.verify.disputes.program import (
    INPUTS,
    Argument,
    HeldTensor,
    Items,
    Made,
    NamedSetting,
    TracedOperator,
    TracedProgram,
    Value,
    View,
)
from muster.verify.disputes.tensors import digest, dtype_name

FILLED = {"empty_like.default": "zeros_like.default", "new_empty.default": "new_zeros.default"}
"""Memory that nobody has written yet is not the same anywhere."""
REPEATABLE = ("allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


@dataclass(frozen=True, eq=False)
class Traced:
    program: TracedProgram
    inputs: dict[int, Tensor]
    """Values of the state at cut 0."""
    held: dict[str, Tensor]
    """Parameters, buffers and constants by name."""
    output: Tensor


def trace(stage: Stage, x: Tensor, rows: Tensor | None = None) -> Traced:
    """Run a `plain` stage on one whole prompt, and write down how.

    `x` as for `Stage.run`; `rows` are the tokens whose logits the last stage gives, all of them by default. Raises
    `UnsupportedModel` where an operator has no bounds yet, or where numbers decide which operators run.
    """
    tokens = len(x)
    positions = torch.arange(tokens, device=stage.device)
    rows = positions.clone() if rows is None else rows
    inputs = dict(enumerate((x, positions, rows)))
    nothing = torch.zeros(1, 1, dtype=torch.int32, device=stage.device)
    batch = Batch(positions, positions.clone(), nothing, (tokens,), (tokens,), rows)
    writer = _Writer(stage.tensors(), inputs)
    cache = stage.new_cache(1, 1)
    with accumulating_in_float32(), stage.watched(writer.enter), writer:
        output = stage.run(batch, cache, x)
    return Traced(writer.program(output), inputs, writer.held, output)


@contextmanager
def accumulating_in_float32() -> Iterator[None]:
    """Inside, products on a CUDA device add up in float32, as bounds assume. Elsewhere they always do."""
    settings = torch.backends.cuda.matmul
    before = {name: getattr(settings, name) for name in REPEATABLE}
    try:
        for name in REPEATABLE:
            setattr(settings, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


@dataclass
class _Memory:
    """One piece of memory that values are views of."""

    value: Value | HeldTensor
    version: int = 0


@dataclass
class _Known:
    """What a tensor in Python stands for."""

    value: Value | HeldTensor
    memory: _Memory
    path: tuple[tuple[View, tuple[Made, ...]], ...]
    """How to get there from the whole memory, and what each step made the first time."""
    version: int


class _Writer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, held: Any, inputs: dict[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operators: list[TracedOperator] = []
        self._starts: list[int] = []
        self._next = INPUTS
        self._all_made: dict[int, Made] = {}
        self._known: Any = WeakIdKeyDictionary()
        self._digests: dict[str, bytes] = {}
        self._names = {id(tensor): name for name, tensor in reversed(list(held.items()))}
        self._tensors = dict(held)
        self.held: dict[str, Tensor] = {}
        self._from_x = {0}
        for number, tensor in inputs.items():
            self._know(tensor, Value(number))

    def enter(self, layer: int) -> None:
        self._starts.append(len(self._operators))

    def program(self, output: Tensor) -> TracedProgram:
        found = self._look(output)
        assert isinstance(found, Value)
        starts = (0, *self._starts[1:])
        return TracedProgram(tuple(self._operators), starts, (found.number,))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        if func.namespace != "aten" or _target(func).split(".")[1].removesuffix("_") not in KNOWN:
            return self._unknown(func, name, args, kwargs)
        if name == "index_put_" and len(args) > 3 and args[3]:
            raise UnsupportedModel("The forward pass adds up in an order of its own; its stage cannot be disputed.")
        arguments = tuple(self._argument(argument) for argument in args)
        named = tuple((key, self._argument(value)) for key, value in sorted(kwargs.items()) if key != "pin_memory")
        result = func(*args, **kwargs)
        target = _target(func)
        if func._schema.is_mutable:
            self._write(target, args[0], arguments, named)
        else:
            self._make(target, args, arguments, named, result)
        return result

    def _unknown(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name in ("detach", "alias"):
            result = func(*args, **kwargs)
            self._look(args[0])
            self._known[result] = replace(self._known[args[0]])
            return result
        if name == "_local_scalar_dense" and not self._depends_on_x(args[0]):
            return func(*args, **kwargs)
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise UnsupportedModel(f"Operator {func} has no bounds for disputes yet; its stage cannot be disputed.")
        return result

    def _depends_on_x(self, tensor: Tensor) -> bool:
        found = self._look(tensor)
        return isinstance(found, Value) and found.number in self._from_x

    # --- what is made -------------------------------------------------------------------------------------------------

    def _make(self, target: str, args: Any, arguments: Any, named: Any, result: Any) -> None:
        outputs = list(result) if isinstance(result, tuple | list) else [result]
        if any(output is arg for output in outputs for arg in args):
            return  # nothing was to be done
        made = tuple(self._made(output) for output in outputs)
        self._add(TracedOperator(target, arguments, named, made))
        source = args[0] if args and isinstance(args[0], Tensor) else None
        for pick, (one, output) in enumerate(zip(made, outputs, strict=True)):
            if source is not None and _share(source, output):
                known = self._known[source]
                path = (*known.path, (View(target, arguments[1:], named, pick), made))
                self._known[output] = _Known(Value(one.number), known.memory, path, known.memory.version)
            else:
                self._know(output, Value(one.number))

    def _write(self, target: str, tensor: Tensor, arguments: Any, named: Any) -> None:
        known = self._known[tensor]
        memory = known.memory
        if isinstance(memory.value, HeldTensor):
            raise UnsupportedModel(f"The forward pass writes into {memory.value.name}; its stage cannot be disputed.")
        made = self._like(self._all_made[memory.value.number])
        through = tuple(view for view, _ in known.path)
        self._add(TracedOperator(target, (memory.value, *arguments[1:]), named, (made,), through))
        memory.value, memory.version = Value(made.number), memory.version + 1
        if not known.path:
            known.value, known.version = memory.value, memory.version

    def _made(self, output: Tensor) -> Made:
        made = Made(self._next, dtype_name(output), tuple(output.shape))
        self._next += 1
        return made

    def _like(self, made: Made) -> Made:
        """Another value of the same dtype and shape."""
        self._next += 1
        return Made(self._next - 1, made.dtype, made.shape)

    def _add(self, operator: TracedOperator) -> None:
        self._operators.append(operator)
        self._all_made.update((made.number, made) for made in operator.made)
        if self._from_x & set(operator.takes()):
            self._from_x.update(made.number for made in operator.made)

    def _know(self, tensor: Tensor, value: Value | HeldTensor) -> None:
        self._known[tensor] = _Known(value, _Memory(value), (), 0)

    # --- what is taken ------------------------------------------------------------------------------------------------

    def _argument(self, argument: Any) -> Argument:
        match argument:
            case Tensor():
                return self._look(argument)
            case list() | tuple():
                return Items(tuple(self._argument(item) for item in argument))
            case torch.dtype():
                return NamedSetting("dtype", str(argument).removeprefix("torch."))
            case torch.device():
                return NamedSetting("device")
            case torch.layout():
                return NamedSetting("layout")
            case torch.memory_format():
                return NamedSetting("memory_format", str(argument).removeprefix("torch."))
            case None | bool() | int() | float() | str():
                return argument
        raise UnsupportedModel(f"An operator takes a {type(argument).__name__}; its stage cannot be disputed.")

    def _look(self, tensor: Tensor) -> Value | HeldTensor:
        known: _Known | None = self._known.get(tensor)
        if known is None:
            known = self._hold(tensor)
        if known.version != known.memory.version:
            known.value, known.version = self._again(known), known.memory.version
        return known.value

    def _hold(self, tensor: Tensor) -> _Known:
        name = self._names.get(id(tensor)) or f"constant {len(self.held)}"
        self.held[name] = tensor
        self._know(tensor, HeldTensor(name, digest(tensor)))
        known: _Known = self._known[tensor]
        return known

    def _again(self, known: _Known) -> Value | HeldTensor:
        """The same view of what was written since."""
        value = known.memory.value
        for view, first in known.path:
            made = tuple(self._like(one) for one in first)
            self._add(TracedOperator(view.target, (value, *view.arguments), view.named, made))
            value = Value(made[view.pick].number)
        return value


def _target(func: Any) -> str:
    name = str(func).removeprefix("aten.")
    return f"aten.{FILLED.get(name, name)}"


def _share(one: Tensor, other: Tensor) -> bool:
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)
