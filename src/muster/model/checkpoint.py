"""Which checkpoint tensors make up which parameters, and how. Knows nothing of where the tensors come from.

Names differ between the files and the modules (`transformers` renames, fuses experts, splits projections), so the rules
are the library's own: a checkpoint name is passed through its renamings and converters.
"""

import copy
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from muster.cost.config_fields import read_config
from muster.errors import UnsupportedModel, WeightsInvalid
from muster.model.architecture import build_on_meta, parse_config
from muster.model.parallel.cuts import Cut
from muster.model.tensor_file import take
from muster.model.weights import Weights


@dataclass
class Recipe:
    """How one or several parameters are made: these checkpoint tensors, in this order, through this conversion."""

    target: str
    sources: list[tuple[str, str]] = field(default_factory=list)
    """(checkpoint name, the converter's pattern that it matched or the name itself)."""
    converter: WeightConverter | None = None

    def targets(self) -> list[str]:
        if self.converter is None:
            return [self.target]
        first, *rest = self.converter.target_patterns
        return [self.target, *(self.target.replace(first, other) for other in rest)]

    def convert(
        self, model: PreTrainedModel, weights: Weights, dtype: torch.dtype, cuts: Mapping[str, Cut] = {}
    ) -> dict[str, Tensor]:
        """Parameter name -> tensor on the CPU, floating point cast to `dtype`; of what is cut, only that is read."""
        if self.converter is None:
            return {self.target: _cast(_read(weights, self.sources[0][0], cuts.get(self.target)), dtype)}
        cut = cuts.get(self.target)
        cut_first = cut is not None and self._stacks()
        each = _of_each(cut) if cut is not None and cut_first else None
        transform = copy.deepcopy(self.converter)
        for name, pattern in self.sources:
            transform.add_tensor(self.target, name, pattern, _cast(_read(weights, name, each), dtype))
        try:
            made = transform.convert(self.target, model=model, config=model.config)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise WeightsInvalid(
                f"The tensors of {self.target} do not fit together (first: {self.sources[0][0]}); "
                "download the model again."
            ) from error
        whole = {name: value[0] if isinstance(value, list) else value for name, value in made.items()}
        return whole if cut_first else {name: _taken(tensor, cuts.get(name)) for name, tensor in whole.items()}

    def kinds(self) -> dict[str, list[str]]:
        """The tensors by the pattern that they matched, in the order in which they are put behind one another.

        Raises `UnsupportedModel` where more is done with them than to stack them.
        """
        if self.converter is None:
            return {"": [self.sources[0][0]]}
        if not self._stacks():
            raise UnsupportedModel(
                f"{self.target} is put together from several tensors in a way that codes of few bits do not survive; "
                "choose an unquantised checkpoint."
            )
        found: dict[str, list[str]] = {pattern: [] for pattern in self.converter.source_patterns}
        for name, pattern in self.sources:
            found[pattern].append(name)
        return found

    def _stacks(self) -> bool:
        """Whether the matrices of experts are stacked, and two of a kind put one behind the other: each can be cut."""
        operations = [] if self.converter is None else self.converter.operations
        kinds = [(type(one).__name__, getattr(one, "dim", None)) for one in operations]
        return kinds in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)])


def _of_each(cut: Cut) -> Cut:
    """What is taken of each matrix, so that `cut` is taken of the stack [experts, ...]."""
    return Cut(cut.dim - 1, cut.ranges[:1])


def _read(weights: Weights, name: str, cut: Cut | None) -> Tensor:
    if cut is None:
        return weights.read(name)
    if cut.is_zero:
        return torch.zeros_like(weights.read(name))
    return weights.read_part(name, cut.dim, cut.ranges)


def _taken(tensor: Tensor, cut: Cut | None) -> Tensor:
    if cut is None:
        return tensor
    return torch.zeros_like(tensor) if cut.is_zero else take(tensor, cut.dim, cut.ranges)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def recipes(model: PreTrainedModel, names: Iterable[str]) -> dict[str, Recipe]:
    """Parameter name -> the recipe that makes it, for all parameters that the checkpoint `names` can make."""
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    known = model.state_dict()
    made: dict[str, Recipe] = {}
    for name in sorted(names, key=dot_natural_key):
        text_name = _within_text_part(name)
        target, pattern = rename_source_key(text_name, renamings, converters, model.base_model_prefix, known)
        if target not in known and text_name in known:
            target, pattern = text_name, None
        if target not in known:
            continue
        if pattern is None:
            made[target] = Recipe(target, [(name, name)])
            continue
        recipe = made.setdefault(target, Recipe(target, converter=by_pattern[pattern]))
        recipe.sources.append((name, pattern))
    return {target: recipe for recipe in made.values() for target in recipe.targets()}


def _within_text_part(name: str) -> str:
    """The name that a tensor of a multimodal checkpoint's decoder has in the decoder's own checkpoint."""
    return name.removeprefix("language_model.").replace("model.language_model.", "model.", 1)


def tied_source(model: PreTrainedModel, parameter: str) -> str | None:
    """The parameter whose tensor `parameter` shares, e.g. the token embedding for a tied output projection."""
    return model.all_tied_weights_keys.get(parameter)  # type: ignore[no-any-return]


def untie(model: PreTrainedModel, made: dict[str, Recipe], weights: Weights, needed: Collection[str]) -> bool:
    """Take apart what the configuration ties and the checkpoint holds twice, differently, as `transformers` does.

    Looks only at `needed` parameters. Returns whether there was such a thing.
    """
    apart = [
        parameter
        for parameter, source in model.all_tied_weights_keys.items()
        if (parameter in needed or source in needed)
        and (parameter in made and source in made)
        and not _same(made[parameter], made[source], weights)
    ]
    for parameter in apart:
        del model.all_tied_weights_keys[parameter]
    return bool(apart)


def as_stored(weights: Weights) -> str:
    """The text of config.json, which says that two matrices are apart where the checkpoint holds different ones.

    What a stage takes of memory is told from the configuration alone, so that has to be true.
    """
    model = build_on_meta(parse_config(weights.config_json), torch.float32)
    if not untie(model, recipes(model, weights.names()), weights, model.state_dict()):
        return weights.config_json
    return json.dumps({**read_config(weights.config_json), "tie_word_embeddings": False})


def _same(one: Recipe, other: Recipe, weights: Weights) -> bool:
    plain = one.converter is None and other.converter is None
    return plain and weights.same(one.sources[0][0], other.sources[0][0])


def recipe_of(model: PreTrainedModel, made: dict[str, Recipe], parameter: str) -> Recipe:
    """The one of a parameter, or of what it is tied to: the same for all that are tied to each other.

    Raises `WeightsInvalid` when the checkpoint has none of them.
    """
    source = tied_source(model, parameter) or parameter
    tied = [other for other, its_source in model.all_tied_weights_keys.items() if its_source == source]
    for name in (source, *tied):
        if name in made:
            return made[name]
    raise WeightsInvalid(
        f"The checkpoint has no tensor for {parameter}; download the model again, or check that the weights belong to "
        "this config.json."
    )


def check_shape(parameter: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise WeightsInvalid(
            f"The checkpoint's tensor for {parameter} has shape {found} where config.json says {expected}; "
            "download the model again, or check that weights and config.json belong together."
        )


def parameter_dtype(model: PreTrainedModel, parameter: str, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, but for the few parameters that the architecture insists on keeping in another (mostly float32)."""
    for pattern, kept in model._get_dtype_plan(dtype).items():
        if re.search(pattern.replace("*", ".*"), parameter):
            return kept  # type: ignore[no-any-return]
    return model.get_parameter_or_buffer(parameter).dtype  # type: ignore[no-any-return]
