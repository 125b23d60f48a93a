"""A `ModelShape` from the text of a bare config.json: no torch, no transformers, no weights.

For a family that is not known here, `muster.model.shape` counts the modules themselves.
"""

from muster.cost.config_fields import Fields, read_config
from muster.cost.dtypes import possible_dtypes
from muster.cost.families import Family, family_of, fields_of, hidden_size, layer_sizes, num_layers
from muster.cost.few_bits import WEIGHT_FORMATS, BlockFormat, check_weights
from muster.cost.limits import longest_context
from muster.cost.memory import dtype_bytes
from muster.cost.published import PublishedFormat, check_plain, published_of
from muster.errors import UnsupportedModel
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.model_shape import ModelShape

_MAX_LAYERS = 10_000
_NAMES = {
    "gpt2": "GPT2LMHeadModel",
    "opt": "OPTForCausalLM",
    "bert": "BertForMaskedLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}


def shape_from_config(
    config_json: str, name: str, dtype: str | None = None, few_bits: FewBits = AS_STORED
) -> ModelShape:
    """Raises `WeightsInvalid` on a bad entry, `UnsupportedModel` on an unknown family, dtype or packing.

    `dtype`: None takes the one of the checkpoint.
    """
    fields = fields_of(config_json)
    family = family_of(fields)
    served = possible_dtypes(fields, dtype)[0]
    count, itemsize = num_layers(fields), dtype_bytes(served)
    if count > _MAX_LAYERS:
        raise UnsupportedModel(f"A model of {count} layers is beyond the {_MAX_LAYERS} that are planned; check it.")
    layers = [layer_sizes(fields, index) for index in range(count)]
    published = published_of(read_config(config_json))
    form, expert_form = _forms(published, few_bits) if family.linear else (None, None)
    embedding, head, tied = _around(fields, family)
    experts = next((layer.experts for layer in layers if layer.experts), None)
    head_bytes = head * itemsize
    head_form = published.format_of("lm_head.weight", False) if published is not None and published.head else None
    if head_form is not None and not tied:
        rows, columns = fields.count("vocab_size"), hidden_size(fields)
        head_bytes += head_form.bytes_of(rows, columns, itemsize) - rows * columns * itemsize
    return ModelShape(
        name=name,
        architecture=_architecture(fields),
        dtype=served,
        num_layers=count,
        hidden_size=hidden_size(fields),
        vocab_size=fields.count("vocab_size"),
        max_context=longest_context(fields),
        layer_bytes=tuple(layer.bytes(itemsize, form, expert_form) for layer in layers),
        layer_flops_per_token=tuple(layer.flops_per_token() for layer in layers),
        kv_bytes_per_token=tuple(layer.heads.cache_bytes(itemsize, few_bits.cache) for layer in layers),
        embedding_bytes=embedding * itemsize,
        head_bytes=head_bytes,
        tied_bytes=tied * itemsize,
        head_flops_per_token=2 * fields.count("vocab_size") * hidden_size(fields),
        attention_flops_per_pair=tuple(layer.heads.flops_per_pair for layer in layers),
        windows=tuple(layer.heads.window for layer in layers),
        expert_bytes=tuple(layer.expert_bytes(itemsize, expert_form) for layer in layers) if family.moe else (),
        num_experts=experts.count if experts else 0,
        experts_per_token=experts.chosen if experts else 0,
        packing=published.method if published is not None else "",
        few_bits=few_bits,
        saved_bytes_per_token=tuple(layer.saved_bytes_per_token(itemsize) for layer in layers),
    )


def _forms(published: PublishedFormat | None, few_bits: FewBits) -> tuple[BlockFormat | None, BlockFormat | None]:
    """Of the matrices in a layer and of those of its experts. Raises `InvalidRequest` on both kinds at once."""
    if published is None:
        form = WEIGHT_FORMATS[check_weights(few_bits.weights)] if few_bits.weights else None
        return form, form
    check_plain(published.method, few_bits)
    return None if published.experts_only else published.form, published.form


def _architecture(fields: Fields) -> str:
    words = fields.words("architectures")
    guess = "".join(part.capitalize() for part in fields.model_type.removesuffix("_text").split("_"))
    return words[0] if words else _NAMES.get(fields.model_type, f"{guess}ForCausalLM")


def _around(fields: Fields, family: Family) -> tuple[int, int, int]:
    """Numbers in front of the layers, behind them, and of the one matrix that is both if it is tied."""
    hidden = hidden_size(fields)
    matrix = fields.count("vocab_size") * fields.count("word_embed_proj_dim", default=hidden)
    before, behind = _beside_the_matrix(fields, family, hidden)
    tied = fields.flag("tie_word_embeddings", family.tied)
    return matrix + before, matrix + behind, matrix * tied


def _beside_the_matrix(fields: Fields, family: Family, hidden: int) -> tuple[int, int]:
    """Numbers of positions and projections in front of the layers, of norms and biases behind them."""
    if fields.model_type == "opt":
        return _beside_in_opt(fields, hidden)
    if fields.model_type == "gpt2":
        return fields.count("n_positions") * hidden, 2 * hidden
    if fields.model_type == "bert":
        positions = fields.count("max_position_embeddings") + fields.count("type_vocab_size", default=2)
        # Behind the layers: a transform with its norm, then the matrix with a bias of its own.
        return (positions + 2) * hidden, fields.count("vocab_size") + hidden * hidden + 3 * hidden
    return 0, hidden * (2 if family.layer_norm else 1)


def _beside_in_opt(fields: Fields, hidden: int) -> tuple[int, int]:
    """OPT's positions start at 2; the small models project between a narrow embedding and the layers."""
    width = fields.count("word_embed_proj_dim", default=hidden)
    projection = width * hidden if width != hidden else 0
    normed = fields.flag("do_layer_norm_before", True) and not fields.flag("_remove_final_layer_norm")
    norm = 2 * hidden if normed and fields.flag("layer_norm_elementwise_affine", True) else 0
    positions = (fields.count("max_position_embeddings") + 2) * hidden
    return positions + projection, norm + projection
