"""Tiny random checkpoints of the families that are supported, written the way their owners write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForMultimodalLM

SIDE = 28
TEXT = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": SIDE, "patch_size": 14,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2], "type": "default"}


def _config(model_type: str, **values: Any) -> Any:
    return CONFIG_MAPPING[model_type](**values)


def _sized(name: str, **values: Any) -> Any:
    """An image processor of the given class; the PIL variant, because torchvision is not a dependency."""
    found = getattr(transformers, name + "Pil", None) or getattr(transformers, name)
    try:
        return found(**values)
    except ImportError as error:
        # Some versions of transformers have no PIL variant of some processors.
        pytest.skip(str(error))


def _llava() -> tuple[Any, Any]:
    config = _config(
        "llava", vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=100, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    return config, _sized("CLIPImageProcessor", size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def _llava_next() -> tuple[Any, Any]:
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = _config(
        "llava_next", vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **TEXT}, image_token_index=100, vision_feature_layer=-2,
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    processor = _sized(
        "LlavaNextImageProcessor", size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    return config, processor


def _llava_onevision() -> tuple[Any, Any]:
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = _config(
        "llava_onevision", vision_config={"model_type": "siglip_vision_model", **VISION},
        text_config={"model_type": "qwen2", **TEXT}, image_token_index=100, video_token_index=101,
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    return config, _sized("LlavaOnevisionImageProcessor", size=size, image_grid_pinpoints=pinpoints)


def _qwen(model_type: str, vision: dict[str, Any], processor: dict[str, Any]) -> tuple[Any, Any]:
    text = {"model_type": f"{model_type}_text", **TEXT, "rope_parameters": MROPE, "rope_scaling": MROPE, "head_dim": 8}
    config = _config(
        model_type, vision_config={"model_type": model_type, **vision}, text_config=text, image_token_id=100,
        video_token_id=101, vision_start_token_id=102, vision_end_token_id=103,
    )  # fmt: skip
    bounds = {"shortest_edge": 1024, "longest_edge": 64 * 1024}
    return config, _sized("Qwen2VLImageProcessor", size=bounds, merge_size=2, temporal_patch_size=2, **processor)


def _qwen2_vl() -> tuple[Any, Any]:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    return _qwen("qwen2_vl", vision, {"patch_size": 14})


def _qwen2_5_vl() -> tuple[Any, Any]:
    vision = {
        "depth": 3, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 14,
        "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return _qwen("qwen2_5_vl", vision, {"patch_size": 14})


def _qwen3_vl() -> tuple[Any, Any]:
    vision = {
        "depth": 3, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 16,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    return _qwen("qwen3_vl", vision, {"patch_size": 16})


def _idefics(model_type: str, vision_type: str, processor: str) -> tuple[Any, Any]:
    vision = {**VISION, "model_type": vision_type, "image_size": 56}
    text = {"model_type": "llama", **TEXT, "pad_token_id": 0}
    config = _config(model_type, vision_config=vision, text_config=text, image_token_id=100, scale_factor=2)
    edge = {"longest_edge": 56}
    return config, _sized(processor, size={"longest_edge": 112}, max_image_size=edge, do_image_splitting=True)


def _idefics3() -> tuple[Any, Any]:
    return _idefics("idefics3", "idefics3_vision", "Idefics3ImageProcessor")


def _smolvlm() -> tuple[Any, Any]:
    return _idefics("smolvlm", "smolvlm_vision", "SmolVLMImageProcessor")


def _internvl() -> tuple[Any, Any]:
    vision = {**VISION, "model_type": "internvl_vision", "image_size": [SIDE, SIDE], "patch_size": [14, 14]}
    config = _config(
        "internvl", vision_config=vision, text_config={"model_type": "qwen2", **TEXT}, image_token_id=100,
        downsample_ratio=0.5,
    )  # fmt: skip
    return config, _sized("GotOcr2ImageProcessor", size={"height": SIDE, "width": SIDE}, min_patches=1, max_patches=4)


def _paligemma() -> tuple[Any, Any]:
    config = _config(
        "paligemma", vision_config={"model_type": "siglip_vision_model", **VISION, "projection_dim": 32},
        text_config={"model_type": "gemma", **TEXT, "head_dim": 8}, image_token_index=100, projection_dim=32,
    )  # fmt: skip
    return config, _sized("SiglipImageProcessor", size={"height": SIDE, "width": SIDE})


def _gemma3() -> tuple[Any, Any]:
    config = _config(
        "gemma3", vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={"model_type": "gemma3_text", **TEXT, "head_dim": 8}, mm_tokens_per_image=4, image_token_index=100,
    )  # fmt: skip
    return config, _sized("Gemma3ImageProcessor", size={"height": SIDE, "width": SIDE})


_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "internvl": _internvl,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
}
FAMILIES: tuple[str, ...] = tuple(_BUILDERS)


def build_checkpoint(
    family: str,
    root: Path,
    *,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    seed: int = 0,
    text: dict[str, int] | None = None,
) -> Path:
    """Write a tiny random checkpoint with its image processor.

    Args:
        family: One of `FAMILIES`.
        root: The directory to write; made where missing.
        dtype: Of every weight.
        shards: At least this many weight files.
        seed: Of the random weights.
        text: Settings of the language model that differ from the tiny ones.

    Returns:
        `root`.
    """
    config, processor = _BUILDERS[family]()
    config.get_text_config().update(text or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForMultimodalLM.from_config(config, dtype=dtype).eval()
        for parameter in model.parameters():
            # Initialisation leaves zeros and ones behind, which would hide mistakes.
            parameter.data = (torch.randn(parameter.shape) * 0.05).to(parameter.dtype) + (parameter.data == 1)
    total = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(root, max_shard_size=total if shards == 1 else total // shards)
    processor.save_pretrained(root)
    return root
