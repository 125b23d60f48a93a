"""How each family of models reads its config.json: the sizes of a layer and of what stands around the layers.

Names of entries and what is left out by default are those of Hugging Face `transformers`. What a family adds to the
plain decoder (attention, gated perceptron, two norms) is a trait here; tests hold the counts against the modules.
"""

from dataclasses import dataclass, replace

from muster.cost.config_fields import Fields
from muster.cost.layer_sizes import Experts, Heads, LayerSizes, Matrix
from muster.errors import UnsupportedModel

_SLIDING = "sliding_attention"


@dataclass(frozen=True, slots=True)
class Family:
    """Traits of a family. A bias is True, False, or the name of the entry that says."""

    query_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    gated: bool = True
    norms: int = 2
    layer_norm: bool = False
    """Norms that subtract the mean and have a bias, rather than root mean square."""
    head_norm: str = ""
    """`head`: queries and keys are normed within each head. `whole`: across all heads. `use_qk_norm`: within each head
    where the configuration has that flag."""
    activation_copies: int = 1
    """Values of the inner width that an ungated activation keeps: its input, and what it is composed of."""
    sinks: bool = False
    """One learnt number per head that takes part in the softmax."""
    latent: bool = False
    """Keys and values grow from a small common vector (DeepSeek's latent attention)."""
    every_layer_slides: bool = False
    window_pattern: int = 0
    """Every so-many-th layer sees everything where the configuration does not list the kinds of layers."""
    moe: str = ""
    """How experts are named: `mixtral`, `qwen`, `oss` or `deepseek`."""
    encoder: bool = False
    linear: bool = True
    """Multiplies by linear layers, which can be held in few bits."""
    tied: bool = False
    """Embedding and output projection are one matrix unless the configuration says otherwise."""


FAMILIES = {
    "llama": Family(query_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": Family(every_layer_slides=True),
    "mixtral": Family(every_layer_slides=True, moe="mixtral"),
    "qwen2": Family(query_bias=True),
    "qwen3": Family(query_bias="attention_bias", output_bias="attention_bias", head_norm="head"),
    "qwen3_moe": Family(query_bias="attention_bias", output_bias="attention_bias", head_norm="head", moe="qwen"),
    "gemma": Family(query_bias="attention_bias", output_bias="attention_bias", tied=True),
    "gemma2": Family(query_bias="attention_bias", output_bias="attention_bias", norms=4, window_pattern=2, tied=True),
    "gemma3_text": Family(
        query_bias="attention_bias", output_bias="attention_bias", norms=4, head_norm="head", window_pattern=6,
        tied=True
    ),
    "phi3": Family(every_layer_slides=True),
    "olmo2": Family(query_bias="attention_bias", output_bias="attention_bias", head_norm="whole"),
    "gpt_oss": Family(
        query_bias="attention_bias", output_bias="attention_bias", sinks=True, window_pattern=2, moe="oss"
    ),
    "deepseek_v2": Family(latent=True, moe="deepseek"),
    "deepseek_v3": Family(latent=True, moe="deepseek"),
    "glm4_moe": Family(query_bias="attention_bias", head_norm="use_qk_norm", moe="deepseek"),
    "opt": Family(
        query_bias="enable_bias", output_bias="enable_bias", mlp_bias="enable_bias", gated=False, layer_norm=True,
        activation_copies=0, tied=True
    ),
    "gpt2": Family(
        query_bias=True, output_bias=True, mlp_bias=True, gated=False, layer_norm=True, activation_copies=4,
        linear=False, tied=True
    ),
    "gpt_neox": Family(
        query_bias="attention_bias", output_bias="attention_bias", mlp_bias=True, gated=False, layer_norm=True
    ),
    "bert": Family(
        query_bias=True, output_bias=True, mlp_bias=True, gated=False, layer_norm=True, encoder=True, tied=True
    ),
}  # fmt: skip


_LEFT_OUT: dict[str, dict[str, int]] = {
    "bert": {"max_position_embeddings": 512},
    "deepseek_v3": {"max_position_embeddings": 4096},
    "gemma": {"head_dim": 256, "max_position_embeddings": 8192},
    "gemma2": {"head_dim": 256, "num_key_value_heads": 4, "sliding_window": 4096, "max_position_embeddings": 8192},
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
    },
    "gpt2": {"n_positions": 1024},
    "gpt_oss": {"max_position_embeddings": 131072},
    "glm4_moe": {"max_position_embeddings": 131072},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131072},
    "mixtral": {"num_key_value_heads": 8, "max_position_embeddings": 131072},
    "opt": {"max_position_embeddings": 2048},
    "phi3": {"max_position_embeddings": 4096},
    "qwen2": {"max_position_embeddings": 32768},
    "qwen3": {"head_dim": 128, "max_position_embeddings": 32768},
    "qwen3_moe": {"max_position_embeddings": 32768},
}
"""What published configurations leave to the defaults of `transformers`, where those differ from plain arithmetic."""


def fields_of(config_json: str) -> Fields:
    """Raises `WeightsInvalid` as `Fields.parse` does."""
    fields = Fields.parse(config_json)
    return fields.filled(_LEFT_OUT.get(fields.model_type, {}))


def family_of(fields: Fields) -> Family:
    """Raises `UnsupportedModel` naming the families that are known."""
    family = FAMILIES.get(fields.model_type)
    if family is None:
        raise UnsupportedModel(
            f"The sizes of a {fields.model_type[:40]!r} model cannot be read off its config.json alone; "
            f"known are {', '.join(sorted(FAMILIES))}."
        )
    return family


def num_layers(fields: Fields) -> int:
    return fields.count("num_hidden_layers", "n_layer")


def hidden_size(fields: Fields) -> int:
    return fields.count("hidden_size", "n_embd")


def layer_sizes(fields: Fields, index: int) -> LayerSizes:
    """Sizes of the `index`-th layer. Raises `UnsupportedModel` or `WeightsInvalid`."""
    family = family_of(fields)
    attention = _latent_attention(fields) if family.latent else _attention(fields, family)
    heads = replace(attention.heads, window=_window(fields, family, index), cached=not family.encoder)
    mlp = _mlp(fields, family, index)
    hidden = hidden_size(fields)
    norm_numbers = hidden * (2 if family.layer_norm else 1)
    if family.layer_norm and not fields.flag("layer_norm_elementwise_affine", True):
        norm_numbers = 0
    return LayerSizes(
        heads=heads,
        matrices=attention.matrices + mlp.matrices,
        vector=attention.vector + mlp.vector + family.norms * norm_numbers,
        kept=mlp.kept,
        wide=mlp.wide,
        experts=mlp.experts,
        saved_mlp=mlp.saved_mlp,
        # A norm keeps its input (root mean square: in float32, and what it scales) and its output.
        saved_norms=2 * family.norms * hidden,
        saved_wide=0 if family.layer_norm else family.norms * hidden,
    )


def _has(fields: Fields, trait: bool | str) -> bool:
    if isinstance(trait, bool):
        return trait
    # OPT and GPT-NeoX have biases unless told otherwise; the others the other way round.
    return fields.flag(trait, default=fields.model_type in ("opt", "gpt_neox", "gpt_oss"))


def _attention(fields: Fields, family: Family) -> LayerSizes:
    hidden = hidden_size(fields)
    queries = fields.count("num_attention_heads", "n_head")
    keys = fields.count("num_key_value_heads", default=queries)
    size = fields.count("head_dim", default=max(1, hidden // queries))
    query_width, key_width = queries * size, keys * size
    vector = (query_width + 2 * key_width) * _has(fields, family.query_bias) + hidden * _has(fields, family.output_bias)
    flagged = 2 * size * fields.flag("use_qk_norm", False)
    norms = {"head": 2 * size, "whole": query_width + key_width, "use_qk_norm": flagged}
    vector += norms.get(family.head_norm, 0)
    vector += queries * family.sinks
    matrices: tuple[Matrix, ...] = (
        (hidden, query_width),
        (hidden, key_width),
        (hidden, key_width),
        (query_width, hidden),
    )
    return LayerSizes(Heads(queries, keys, size, size), matrices, vector)


def _latent_attention(fields: Fields) -> LayerSizes:
    """DeepSeek-V2 (arXiv 2405.04434), section 2.1, as `transformers` runs it: keys and values are kept in full."""
    hidden, queries = hidden_size(fields), fields.count("num_attention_heads")
    rotary, plain = fields.count("qk_rope_head_dim"), fields.count("qk_nope_head_dim")
    value, latent = fields.count("v_head_dim"), fields.count("kv_lora_rank")
    size = rotary + plain
    rank = fields.number("q_lora_rank")
    matrices: tuple[Matrix, ...] = (
        *(((hidden, rank), (rank, queries * size)) if rank else ((hidden, queries * size),)),
        (hidden, latent + rotary),
        (latent, queries * (plain + value)),
        (queries * value, hidden),
    )
    biases = (rank + latent + rotary + hidden) * fields.flag("attention_bias")
    return LayerSizes(Heads(queries, queries, size, value), matrices, latent + rank + biases)


def _window(fields: Fields, family: Family, index: int) -> int:
    """Tokens that a layer sees, 0 for all."""
    window = fields.number("sliding_window")
    if not window or fields.value("use_sliding_window") is False:
        return 0
    kinds = fields.words("layer_types")
    if index < len(kinds):
        return window if kinds[index] == _SLIDING else 0
    if family.window_pattern:
        pattern = fields.count("sliding_window_pattern", "_sliding_window_pattern", default=family.window_pattern)
        return window if (index + 1) % pattern else 0
    if fields.flag("use_sliding_window"):
        return window if index >= fields.number("max_window_layers") else 0
    return window if family.every_layer_slides else 0


def _mlp(fields: Fields, family: Family, index: int) -> LayerSizes:
    if family.moe and not _is_dense(fields, family, index):
        return _mixture(fields, family)
    hidden = hidden_size(fields)
    inner = fields.count("intermediate_size", "ffn_dim", "n_inner", default=4 * hidden)
    return _perceptron(hidden, inner, family, biased=_has(fields, family.mlp_bias))


def _perceptron(hidden: int, inner: int, family: Family, biased: bool = False) -> LayerSizes:
    matrices: tuple[Matrix, ...] = ((hidden, inner),) * (2 if family.gated else 1) + ((inner, hidden),)
    vector = (inner * (2 if family.gated else 1) + hidden) * biased
    saved = 4 * inner if family.gated else (1 + family.activation_copies) * inner
    return LayerSizes(Heads(0, 0, 0, 0), matrices, vector, saved_mlp=saved)


def _is_dense(fields: Fields, family: Family, index: int) -> bool:
    """Whether a layer of a mixture of experts is an ordinary one."""
    if family.moe == "deepseek":
        return index < fields.number("first_k_dense_replace")
    if family.moe == "qwen":
        sparse = (index + 1) % fields.count("decoder_sparse_step", default=1) == 0
        return index in fields.numbers("mlp_only_layers") or not sparse
    return False


def _mixture(fields: Fields, family: Family) -> LayerSizes:
    hidden = hidden_size(fields)
    count = fields.count("num_local_experts", "n_routed_experts", "num_experts")
    chosen = min(count, fields.count("num_experts_per_tok", "experts_per_token", default=2))
    own_width = ("moe_intermediate_size",) if family.moe in ("qwen", "deepseek") else ("intermediate_size",)
    inner = fields.count(*own_width)
    bias = 2 * inner + hidden if family.moe == "oss" else 0
    one = _perceptron(hidden, inner, family)
    shared = fields.number("n_shared_experts") if family.moe == "deepseek" else 0
    always = _perceptron(hidden, shared * inner, family) if shared else None
    # A chosen expert also keeps the token that was handed to it, and its own answer before it is weighed.
    saved = chosen * (one.saved_mlp + 2 * hidden) + (always.saved_mlp if always else 0)
    return LayerSizes(
        heads=one.heads,
        matrices=always.matrices if always else (),
        kept=((hidden, count),),
        vector=count if family.moe == "oss" else 0,
        wide=count if fields.model_type in ("deepseek_v3", "glm4_moe") else 0,
        experts=Experts(count, chosen, one.matrices, bias),
        saved_mlp=saved,
    )
