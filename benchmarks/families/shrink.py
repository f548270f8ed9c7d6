"""A family's default config, shrunk by rule: widths, depths and vocabularies by what their keys are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WIDTH, INNER, HEADS, KV_HEADS, HEAD, DEPTH, VOCABULARY, PATCHES = 64, 96, 4, 2, 16, 2, 512, 4

_RULES: tuple[tuple[str, Any], ...] = (
    (
        r"(text_|out_|projector_|decoder_|encoder_|vision_|image_text_|thinker_|patch_embed_|moe_)?hidden_size|d_model"
        r"|hidden_dim|projector_(in|out)put_dim|projection_dim|output_dim|(in|out)_hidden_size|cross_attention_dim"
        r"|mm_hidden_size|vision_output_dim|vision_hidden|adapter_out_dim|decoder_dim|image_token_embed_dim"
        r"|pooler_output_size|embedding_size|embed_dim|projection_hidden_(dim|size)|encoder_hidden_size",
        WIDTH,
    ),
    (
        r"\w*intermediate_size(_mlp)?|\w*ffn_dim|mlp_dim|d_ff|projector_hidden_size|downsample_hidden_size"
        r"|share_expert_dim",
        INNER,
    ),
    (r"\w*attention_heads|num_heads|attention_heads|resampler_n_heads|n_heads", HEADS),
    (r"\w*num_key_value_heads|multi_query_group_num", KV_HEADS),
    (r"(global_|swa_|resampler_)?head_dim|query_pre_attn_scalar|d_kv", HEAD),
    (r"num_hidden_layers|num_layers|n_layers?|depth|layers|(encoder|decoder)_layers|num_(decoder|global)_layers"
     r"|resampler_depth|conf_num_hidden_layers|num_blocks", DEPTH),
    (r"vocab_size|unpadded_vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"n_routed_experts|num_local_experts|num_experts|moe_num_experts", 4),
    (r"num_experts_per_tok|moe_k|moe_topk", 2),
    (r"n_group|topk_group|n_shared_experts|moe_num_shared_experts", 1),
    (r"kv_lora_rank|q_lora_rank|index_head_dim|\w*lora_rank", 32),
    (r"qk_nope_head_dim|qk_rope_head_dim|v_head_dim", HEAD),
    (r"qk_head_dim", 2 * HEAD),
    (r"linear_(key|value)_head_dim|linear_head_dim|mamba_head_dim", HEAD),
    (r"linear_num_(key|value)_heads|linear_num_heads|mamba_num_heads", HEADS),
    (r"index_n_heads", 2),
    (r"index_topk", 8),
    (r"num_position_embeddings", PATCHES * PATCHES),
    (r"num_mel_bins|mel_dim|n_mel_bins", 16),
    (r"latent_query_num|num_query_tokens|resampler_n_latents", 4),
    (r"max_window_layers", 0),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern), value) for pattern, value in _RULES)
_TOKEN = re.compile(r"(\w+_)?(token|tok)_(id|index)|\w+_id|eos_token_id")
_DEPTHS = ("num_hidden_layers", "num_layers", "depth")


def shrink(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values (`to_dict()`), small.

    Widths become 64 everywhere, so that what a config derives from another's width still fits; token ids become
    small numbers that stay apart.
    """
    return _shrink(values, {})


def _shrink(values: Mapping[str, Any], tokens: dict[int, int]) -> dict[str, Any]:
    small = {key: _value(key, value, tokens) for key, value in values.items()}
    before = next((values[key] for key in _DEPTHS if type(values.get(key)) is int), 0)
    for key, value in small.items():
        # One entry per layer.
        if isinstance(value, list) and before > DEPTH and len(value) == before:
            small[key] = [_value(key, each, tokens) for each in value[:DEPTH]]
    if isinstance(small.get("per_layer_config"), Mapping):
        small["per_layer_config"] = {
            layer: facts for layer, facts in small["per_layer_config"].items() if int(layer) < DEPTH
        }
    patch = small.get("patch_size")
    if isinstance(small.get("image_size"), int) and isinstance(patch, int):
        small["image_size"] = PATCHES * patch
    elif isinstance(small.get("image_size"), (list, tuple)) and patch:
        side = patch if isinstance(patch, int) else patch[0]
        small["image_size"] = [PATCHES * side] * 2
    return small


def _value(key: object, value: Any, tokens: dict[int, int]) -> Any:
    name = str(key)
    if isinstance(value, Mapping):
        return _shrink(value, tokens)
    if type(value) is int:
        for pattern, tiny in _COMPILED:
            if pattern.fullmatch(name):
                return min(value, tiny) if value > 0 else value
        if _TOKEN.fullmatch(name) and value >= 100:
            return tokens.setdefault(value, 100 + len(tokens))
    if name == "eos_token_id" and isinstance(value, (list, tuple)):
        return [_value(key, each, tokens) for each in value]
    if name == "mrope_section" and isinstance(value, (list, tuple)):
        return [4, 2, 2]
    if name in ("deepstack_visual_indexes", "fullatt_block_indexes", "global_attn_indexes"):
        return [0, 1] if name == "deepstack_visual_indexes" else [1]
    return value
