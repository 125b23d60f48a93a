"""Layers [first, last) of a decoder on one machine, exact to the last bit that float arithmetic allows.

The forward pass is the one that `transformers` ships, unchanged. A stage runs it over the whole model, but

    layers before `first`   pass the received hidden state along; `first` gets it whatever was made of it on the way
    layers [first, last)    run
    layer `last`            ends the forward pass: its input is the stage's output

so that what a family does between the embedding and the head (masks, rotary angles, scaling) needs no rewriting. On a
later stage, modules with parameters that run before the first held layer have nothing to say and are put to sleep.

Knows nothing of requests, sampling or transport. Legend of shape suffixes in `batch`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from muster.cost.config_fields import read_config
from muster.cost.few_bits import BlockFormat
from muster.cost.memory import SCORED_AT_ONCE
from muster.cost.published import published_of
from muster.model.architecture import build_on_meta, fill_buffers, find_layers, layer_window, parse_config
from muster.model.attention import Backend, Binding, StepState, bind
from muster.model.batch import Batch
from muster.model.cache import HeadSizes, KVCache
from muster.model.checkpoint import Recipe, check_shape, parameter_dtype, recipe_of, recipes, untie
from muster.model.cut import StageCall, StageEnd, cut
from muster.model.flashinfer_backend import choose_backend
from muster.model.head import body_once, has_body
from muster.model.packed import pack_linears
from muster.model.parallel.cuts import Cut, cuts_of
from muster.model.parallel.group import Group, Seat
from muster.model.parallel.layers import work_in_parts
from muster.model.plain_backend import PlainBackend
from muster.model.probe import ModelParts, parts_of
from muster.model.quantized.chosen import NO_FORMATS, formats_of, quantize_parameter, take_parameter
from muster.model.quantized.layouts.view import plainly
from muster.model.settings import running
from muster.model.weights import Weights
from muster.spec.few_bits import AS_STORED, FewBits


class Stage:
    """See `build_stage`. Several threads may call `run`; it takes one step at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        first: int,
        last: int,
        device: torch.device,
        head_sizes: tuple[HeadSizes, ...],
        seat: Seat | None = None,
        cache_format: str = "",
        body: bool = False,
    ) -> None:
        """`head_sizes` as this stage sees them: of its own heads, where it has a `seat` in an island.

        A `body` has neither embedding nor head, whichever layers it holds. Others take part in the middle of its steps.
        """
        layers = find_layers(model)[1]
        text = model.config.get_text_config(decoder=True)
        self.first, self.last, self.num_layers = first, last, len(layers)
        self.is_first, self.is_last = first == 0 and not body, last == len(layers) and not body
        self.device, self.dtype = device, model.dtype
        self.hidden_size, self.vocab_size = int(text.hidden_size), int(text.vocab_size)
        self.head_sizes = head_sizes
        self.cache_format = cache_format
        """Of the KV pages; empty: as computed."""
        self.backend: Backend = choose_backend(device, self.dtype, head_sizes, cache_format)
        self._model = model
        self._state = StepState()
        self._call = StageCall()
        self._turn = Lock()
        self.degree = 1 if seat is None else seat.size
        self._seat = seat
        self._body = body
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        for index in range(first, last):
            bind(layers[index], Binding(self._state, index - first, layer_window(model.config, index)))
        cut(model, first, last, self._call, body)

    @property
    def model(self) -> PreTrainedModel:
        """The whole model, of whose layers stand-ins take the place outside [first, last)."""
        return self._model

    def new_cache(self, num_pages: int, page_size: int) -> KVCache:
        """Raise `MachineTrouble` when the pages do not fit in memory."""
        return KVCache(self.head_sizes, num_pages, page_size, self.dtype, self.device, self.cache_format)

    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by name, those outside the layers among them; without what was packed or left out."""
        named = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        return {name: tensor for name, tensor in named.items() if not tensor.is_meta}

    @contextmanager
    def watched(self, enter: Callable[[int], None]) -> Iterator[None]:
        """Inside, `enter` gets the index of each held layer before it runs."""
        layers = find_layers(self._model)[1]
        with ExitStack() as hooks:
            for index in range(self.first, self.last):
                hook = layers[index].register_forward_pre_hook(lambda *_, index=index: enter(index))
                hooks.callback(hook.remove)
            yield

    @torch.inference_mode()
    def run(
        self,
        batch: Batch,
        cache: KVCache,
        x: Tensor,
        look: Callable[[Tensor], None] = lambda logits_CV: None,
        group: Group | None = None,
    ) -> Tensor:
        """One step. Waits while another one runs.

        `x` is int64 token ids [T] on the first stage, the previous stage's hidden state [T, H] otherwise. Returns the
        hidden state [T, H], or on the last stage float32 logits [S, V] of the tokens in `logits_rows_S`. There, `look`
        first gets the logits of those in `scored_rows_C`, at most `SCORED_AT_ONCE` at a time, to do with as it likes.

        A stage in parts runs with the `group` of its members, all of which run the same step. Raises `LinkDown` where
        one of them is lost.
        """
        with running(beside=self._body or (group is not None and group.rank > 0)), self._turn:
            if self._seat is not None:
                self._seat.group = group
            return self._run(batch, cache, x, look)

    def _run(self, batch: Batch, cache: KVCache, x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        self._state.backend = self.backend
        self._state.prepared = self.backend.prepare(batch, cache, self.dtype)
        self._call.enter(None if self.is_first else x[None])
        try:
            return self._logits(batch, x, look)
        except StageEnd as end:
            return end.hidden_1TH[0]
        finally:
            self._state.backend = self._state.prepared = None
            self._call.leave()

    def _logits(self, batch: Batch, x: Tensor, look: Callable[[Tensor], None]) -> Tensor:
        if batch.scored_rows_C is None or not self.is_last:
            return self._forward(batch, x, batch.logits_rows_S)
        at_once = SCORED_AT_ONCE if has_body(self._model) else len(batch.scored_rows_C)
        with body_once(self._model):
            for rows_C in torch.split(batch.scored_rows_C, at_once):
                look(self._forward(batch, x, rows_C))
            return self._forward(batch, x, batch.logits_rows_S)

    def _forward(self, batch: Batch, x: Tensor, rows_S: Tensor) -> Tensor:
        inputs = {"input_ids": x[None]} if self.is_first else {"inputs_embeds": x[None]}
        if self._keeps_logits:
            inputs["logits_to_keep"] = rows_S
        output = self._model(
            **inputs, position_ids=batch.positions_T[None], past_key_values=None, use_cache=False, return_dict=True
        )
        logits_SV: Tensor = output.logits[0]
        return (logits_SV if self._keeps_logits else logits_SV[rows_S]).float()


def stage_tensors(model: PreTrainedModel, parts: ModelParts, first: int, last: int, body: bool = False) -> list[str]:
    """Parameters and persistent buffers that layers [first, last) need, embedding and head where they belong.

    Of a `body`, the layers alone.
    """
    prefix, layers = find_layers(model)
    names = []
    for name in model.state_dict():
        if name.startswith(f"{prefix}."):
            needed = first <= int(name.removeprefix(f"{prefix}.").split(".")[0]) < last
        elif body:
            needed = name.rpartition(".")[0] not in parts.before | parts.after
        else:
            owner = name.rpartition(".")[0]
            untold = owner not in parts.before | parts.after  # used without being called: keep it at both ends
            needed = (first == 0 and (untold or owner in parts.before)) or (
                last == len(layers) and (untold or owner in parts.after)
            )
        if needed:
            names.append(name)
    return names


def check_range(first: int, last: int, count: int) -> None:
    if not 0 <= first < last <= count:
        raise ValueError(f"layers [{first}, {last}) of {count}")


def build_stage(
    weights: Weights,
    first: int,
    last: int,
    dtype: torch.dtype,
    device: torch.device,
    seat: Seat | None = None,
    load: "LoadTensors | None" = None,
    few_bits: FewBits = AS_STORED,
    plain: bool = False,
    body: bool = False,
) -> Stage:
    """Build layers [first, last) and read only their tensors; `load.load_stage` also checks the architecture.

    With a `seat`, only the part of that member of an island. `load` is used instead of `load_tensors`; what it leaves
    on the meta device has to be brought when the stage runs. A `plain` one consists of public operators alone and runs
    whole prompts of one request (see `plain_backend`); a `body` takes and gives hidden states and holds neither
    embedding nor head. Raises `UnsupportedModel` (architecture, or it cannot be
    cut so), `WeightsInvalid` (missing tensor, wrong shape, unreadable file).
    """
    weights = plainly(weights)
    config = parse_config(weights.config_json)
    parts = parts_of(config)
    model = build_on_meta(config, dtype)
    head_sizes, cuts = parts.head_sizes, {}
    if seat is not None:
        mine = cuts_of(model, parts, seat.rank, seat.size)
        work_in_parts(model, mine, seat)
        head_sizes, cuts = mine.head_sizes, mine.parameters
    prefix, layers = find_layers(model)
    check_range(first, last, len(layers))
    absent = frozenset(f"{prefix}.{index}" for index in range(len(layers)) if not first <= index < last)
    fill_buffers(model, skip=absent)
    needed = stage_tensors(model, parts, first, last, body)
    if load is not None:
        load(model, needed, weights, dtype, device, cuts)
    else:
        load_tensors(model, needed, weights, dtype, device, cuts, formats_of(model, weights.config_json, few_bits))
    move_buffers(model, device)
    if not plain:
        pack_linears(model)
    stage = Stage(model, first, last, device, head_sizes[first:last], seat, few_bits.cache, body)
    if plain:
        stage.backend = PlainBackend()
    return stage


LoadTensors = Callable[
    [PreTrainedModel, list[str], Weights, torch.dtype, torch.device, dict[str, Cut]],
    None,
]
"""See `load_tensors`."""


def load_tensors(
    model: PreTrainedModel,
    needed: list[str],
    weights: Weights,
    dtype: torch.dtype,
    device: torch.device,
    cuts: dict[str, Cut],
    forms: Mapping[str, BlockFormat] = NO_FORMATS,
) -> None:
    """Read the parameters and persistent buffers `needed`; those that are tied to each other share their memory.

    Of those with a format in `forms`, codes take their place.
    """
    made = recipes(model, weights.names())
    untie(model, made, weights, needed)
    are_codes = published_of(read_config(weights.config_json)) is not None
    for recipe, names in recipes_for(model, made, needed):
        if are_codes and names[0] in forms:
            take_parameter(model, names[0], recipe, weights, forms[names[0]], cuts.get(names[0]))
            continue
        converted = recipe.convert(model, weights, parameter_dtype(model, names[0], dtype), cuts)
        tensors = {name: tensor.to(device) for name, tensor in converted.items()}
        for name in names:
            # A tied parameter takes the tensor of the one that it is tied to: the same memory, not a copy.
            tensor = tensors[name] if name in tensors else next(iter(tensors.values()))
            if name in forms:
                check_shape(name, tuple(tensor.shape), tuple(model.get_parameter(name).shape))
                quantize_parameter(model, name, tensor, forms[name])
            else:
                assign(model, name, tensor)


def recipes_for(
    model: PreTrainedModel, made: dict[str, Recipe], needed: list[str]
) -> Iterator[tuple[Recipe, list[str]]]:
    """Each recipe once, with the parameters of `needed` that come of it."""
    pending: dict[int, tuple[Recipe, list[str]]] = {}
    for name in needed:
        recipe = recipe_of(model, made, name)
        pending.setdefault(id(recipe), (recipe, []))[1].append(name)
    yield from pending.values()


def assign(model: PreTrainedModel, name: str, tensor: Tensor) -> None:
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    expected = getattr(module, key)
    check_shape(name, tuple(tensor.shape), tuple(expected.shape))
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[key] = tensor


def move_buffers(model: PreTrainedModel, device: torch.device) -> None:
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[key] = buffer.to(device)
