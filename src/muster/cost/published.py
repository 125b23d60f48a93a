"""Checkpoints that are published in few bits: what a config.json says of them. Knows no tensor and no file.

    method               entries that count                                      kept here as
    gptq                 bits 4, 8; group_size; desc_act; lm_head                int4, int8 in groups
    awq                  bits 4; group_size; version gemm                        int4 in groups
    compressed-tensors   config_groups: num_bits, type, strategy, group_size     int4, int8, fp8
    fp8                  weight_block_size; modules_to_not_convert               fp8 in blocks (DeepSeek)
    mxfp4                modules_to_not_convert                                  4-bit floats in groups of 32 (GPT-OSS)

Codes stay as they are published, whatever the format does with activations: those are computed in the model's dtype. A
method, or a variant of one, that is not listed is refused by its name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeGuard

from muster.cost.few_bits import BlockFormat
from muster.cost.limits import packing_entries
from muster.errors import InvalidRequest, UnsupportedModel, WeightsInvalid
from muster.spec.few_bits import FewBits

METHODS = ("gptq", "awq", "compressed-tensors", "fp8", "mxfp4")
GROUPS = range(8, 1 << 16)


@dataclass(frozen=True, slots=True)
class PublishedFormat:
    """How a checkpoint holds its large matrices."""

    method: str
    form: BlockFormat
    """Of all of them."""
    ignored: tuple[str, ...] = ()
    """Modules that are plain: names, ends or parts of names, or `re:` and a regular expression."""
    head: bool = False
    """Whether the output projection is in few bits, too, if it is not tied."""
    experts_only: bool = False
    variant: str = ""
    """What else a reader must know: `v2` of GPTQ, `int-quantized` of compressed-tensors."""
    even: bool = False
    """Codes lie evenly around zero: there are no zero points in the checkpoint."""

    def format_of(self, parameter: str, is_stack: bool) -> BlockFormat | None:
        """None: it is plain."""
        if self.experts_only and not is_stack:
            return None
        module = parameter.removesuffix(".weight")
        return None if any(_names(pattern, module) for pattern in self.ignored) else self.form


def published_of(entries: Mapping[str, Any]) -> PublishedFormat | None:
    """What a config.json says; None of a plain checkpoint.

    Raises `UnsupportedModel` on a method or variant that is not read, by its name, `WeightsInvalid` on one that
    contradicts itself.
    """
    says = packing_entries(entries)
    if says is None:
        return None
    method = str(says.get("quant_method", ""))
    reader = {
        "gptq": _gptq,
        "awq": _awq,
        "compressed-tensors": _compressed_tensors,
        "fp8": _fp8,
        "mxfp4": _mxfp4,
    }.get(method)
    if reader is None:
        named = method or f"{says.get('bits', 'some')} bits, no quant_method"
        raise UnsupportedModel(
            f"This checkpoint is quantised by a method that Muster does not read ({named[:40]}); choose the "
            f"unquantised one, or one of {', '.join(METHODS)}."
        )
    return reader(says)


def check_plain(method: str, few_bits: FewBits) -> None:
    """Raise `InvalidRequest` where codes are asked for of what is codes already."""
    if few_bits.weights:
        raise InvalidRequest(
            f"This checkpoint is quantised already ({method}); leave --weights out, or name the unquantised one.",
            "weights",
        )


def _unread(method: str, what: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"This checkpoint is quantised in a variant of {method} that Muster does not read ({what[:60]}); choose "
        "another one, or the unquantised model and --weights int4."
    )


def _number(says: Mapping[str, Any], key: str, default: int) -> int:
    value = says.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < 1 << 31:
        raise WeightsInvalid(
            f"config.json has {key} = {str(value)[:20]} in its quantisation, not a number; correct it."
        )
    return value


def _group(says: Mapping[str, Any], key: str = "group_size") -> int:
    """0 is a whole row."""
    group = _number(says, key, 128)
    if group in (-1, 0):
        return 0
    if group not in GROUPS or group % 8:
        raise WeightsInvalid(f"config.json says groups of {group} numbers, which no kernel has; download it again.")
    return group


def _patterns(says: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    for key in keys:
        listed = says.get(key)
        if isinstance(listed, list):
            return tuple(str(one)[:300] for one in listed[:4096])
    return ()


def _gptq(says: Mapping[str, Any]) -> PublishedFormat:
    bits = _number(says, "bits", 4)
    if bits not in (4, 8):
        raise _unread("gptq", f"{bits} bits")
    form = str(says.get("checkpoint_format", "gptq"))
    if form not in ("gptq", "gptq_v2", ""):
        raise _unread("gptq", form)
    order = 4 if says.get("desc_act") else 0
    ignored: tuple[str, ...] = ()
    negative = says.get("dynamic")
    if isinstance(negative, dict):
        if any(not str(key).startswith("-:") for key in negative):
            raise _unread("gptq", "bits that differ from layer to layer")
        ignored = tuple(f"re:{str(key)[2:]}" for key in negative)
    form_of = BlockFormat(f"gptq-{bits}", bits, columns=_group(says), order_bytes=order)
    variant = "v2" if form == "gptq_v2" else ""
    return PublishedFormat("gptq", form_of, ignored, bool(says.get("lm_head")), variant=variant)


def _awq(says: Mapping[str, Any]) -> PublishedFormat:
    bits, version = _number(says, "bits", 4), str(says.get("version", "gemm")).lower()
    if bits != 4:
        raise _unread("awq", f"{bits} bits")
    if version != "gemm":
        raise _unread("awq", f"version {version}")
    form = BlockFormat("awq-4", 4, columns=_group(says))
    return PublishedFormat("awq", form, _patterns(says, "modules_to_not_convert"))


def _fp8(says: Mapping[str, Any]) -> PublishedFormat:
    block = says.get("weight_block_size")
    rows, columns = 0, 0
    if block is not None:
        if not _is_block(block):
            raise WeightsInvalid(f"config.json says blocks of {str(block)[:30]} numbers; download it again.")
        rows, columns = block
    form = BlockFormat("fp8", 8, columns=columns, rows=rows, middle=False, step_bytes=4)
    return PublishedFormat("fp8", form, _patterns(says, "modules_to_not_convert", "ignored_layers"))


def _mxfp4(says: Mapping[str, Any]) -> PublishedFormat:
    form = BlockFormat("mxfp4", 4, columns=32, middle=False, step_bytes=1)
    return PublishedFormat("mxfp4", form, experts_only=True)


def _compressed_tensors(says: Mapping[str, Any]) -> PublishedFormat:
    form, groups = str(says.get("format", "")), says.get("config_groups")
    if form not in ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized"):
        raise _unread("compressed-tensors", form or "no format")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise _unread("compressed-tensors", "several groups of layers")
    (group,) = groups.values()
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict) or group.get("targets") != ["Linear"]:
        raise _unread("compressed-tensors", f"targets {group.get('targets') if isinstance(group, dict) else group}")
    if says.get("sparsity_config") or says.get("transform_config"):
        raise _unread("compressed-tensors", "sparsity or transforms")
    bits, kind, strategy = _number(weights, "num_bits", 8), str(weights.get("type")), str(weights.get("strategy"))
    even = bool(weights.get("symmetric", True))
    columns, rows = _block(weights, strategy)
    packed = form == "pack-quantized"
    if (kind, bits) == ("float", 8) and not packed and even:
        made = BlockFormat("fp8", 8, columns=columns, rows=rows, middle=False, step_bytes=4)
    elif kind == "int" and (bits == 8 or (bits == 4 and packed)) and rows == 1:
        order = 4 if weights.get("actorder") == "group" and packed else 0
        made = BlockFormat(f"int{bits}", bits, columns=columns, middle=bits == 4 or not even, order_bytes=order)
    else:
        raise _unread("compressed-tensors", f"{form}, {bits} bits {kind}, {strategy}")
    ignored = _patterns(says, "ignore")
    return PublishedFormat("compressed-tensors", made, ignored, head=True, variant=form, even=even)


def _block(weights: Mapping[str, Any], strategy: str) -> tuple[int, int]:
    """Columns and rows of a block; 0 is all."""
    match strategy:
        case "group":
            return _group(weights), 1
        case "channel":
            return 0, 1
        case "tensor":
            return 0, 0
        case "block":
            block = weights.get("block_structure")
            if isinstance(block, str):
                block = [int(one) for one in re.findall(r"\d{1,5}", block)]
            if _is_block(block):
                return block[1], block[0]
    raise _unread("compressed-tensors", f"strategy {strategy}")


def _is_block(block: object) -> TypeGuard[list[int]]:
    return (
        isinstance(block, list) and len(block) == 2 and all(isinstance(one, int) and 0 < one < 1 << 16 for one in block)
    )


def _names(pattern: str, module: str) -> bool:
    if pattern.startswith("re:"):
        return fnmatchcase(module, _wildcards(pattern[3:]))
    return pattern == module or module.endswith(f".{pattern}") or f".{pattern}." in f".{module}."


def _wildcards(expression: str) -> str:
    """A regular expression of the plain kind that configurations have, as shell wildcards.

    Others are not run: a stranger's expression can take for ever.
    """
    plain = expression.removeprefix("^")
    ended = plain.endswith("$")
    for said, meant in (("[.]", "."), ("\\.", "."), ("\\d+", "*"), (".*", "*")):
        plain = plain.replace(said, meant)
    plain = plain.removesuffix("$")
    if set(plain) & set("()[]{}|+?\\^$"):
        raise _unread("its method", f"the pattern {expression}")
    return plain if ended else f"{plain}*"
