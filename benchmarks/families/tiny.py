"""Tiny random checkpoints of any image family, written the way transformers writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.families.shrink import PATCHES, shrink
from benchmarks.families.types import CONFIGS, PROCESSORS, SAVED_AS, SETTINGS


def tiny_config(model_type: str) -> Any:
    """The family's default config, shrunk."""
    from transformers import CONFIG_MAPPING

    values = shrink(CONFIG_MAPPING[model_type]().to_dict())
    config = CONFIG_MAPPING[model_type].from_dict(_merged(values, CONFIGS.get(model_type, {})))
    if getattr(config, "image_grid_pinpoints", None):
        config.image_grid_pinpoints = _pinpoints(_vision(config)["side"])
    return config


def _pinpoints(side: int) -> list[list[int]]:
    return [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]


def build_checkpoint(model_type: str, root: Path, *, seed: int = 0) -> Path:
    """Write a tiny random checkpoint in bfloat16 with its image processor.

    Args:
        model_type: A type of transformers' multimodal mapping.
        root: The directory to write; made where missing.
        seed: Of the random weights.

    Returns:
        `root`.
    """
    import transformers

    config = tiny_config(model_type)
    saved_as = getattr(transformers, SAVED_AS.get(model_type, ""), None)
    make = transformers.AutoModelForMultimodalLM.from_config if saved_as is None else saved_as._from_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(config, dtype=torch.bfloat16).eval()
        for parameter in model.parameters():
            if parameter.is_floating_point():
                # Initialisation leaves zeros and ones behind, which would hide mistakes.
                noise = torch.randn(parameter.shape) * 0.08
                parameter.data = noise.to(parameter.dtype) + (parameter.data == 1)
    model.save_pretrained(root)
    if getattr(model, "has_talker", False) and model_type == "qwen2_5_omni":
        # Its class asks for the voices beside the weights.
        torch.save({}, root / "spk_dict.pt")
    image_processor(model_type, config).save_pretrained(root)
    return root


def image_processor(model_type: str, config: Any) -> Any:
    """The family's image processor, set to the config's sizes; the PIL variant where there is one."""
    import transformers

    found = getattr(transformers, _processor_name(model_type))
    return found(**_fitted(found().to_dict(), _vision(config)) | SETTINGS.get(model_type, {}))


def needs_torchvision(model_type: str) -> bool:
    """Whether there is no image processor of the family that does without it."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    name = _processor_name(model_type)
    return name not in {each.get("pil") for each in IMAGE_PROCESSOR_MAPPING_NAMES.values() if each}


def _processor_name(model_type: str) -> str:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    known = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    return PROCESSORS.get(model_type) or known.get("pil") or known["torchvision"]


def _vision(config: Any) -> dict[str, Any]:
    """The settings of what sees, with `side` and `patch` in pixels."""
    inner = getattr(config, "thinker_config", None) or getattr(config, "vlm_config", None) or config
    found = getattr(inner, "vision_config", None) or getattr(config, "encoder", None) or config
    values: dict[str, Any] = found.to_dict()
    patch = values.get("patch_size") or 16
    patch = patch if isinstance(patch, int) else patch[0]
    side = values.get("image_size") or PATCHES * patch
    return {**values, "patch": patch, "side": side if isinstance(side, int) else side[0]}


def _fitted(settings: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    side, patch = vision["side"], vision["patch"]
    merge = settings.get("merge_size") or 1
    made: dict[str, Any] = {}
    size = settings.get("size")
    if isinstance(size, Mapping):
        pixels = {"shortest_edge": (2 * merge * patch) ** 2, "longest_edge": (4 * merge * patch) ** 2}
        bounds = "longest_edge" in size and "merge_size" in settings
        made["size"] = {key: pixels.get(key, side) if bounds else side for key in size}
    for name in ("crop_size", "pad_size"):
        if isinstance(settings.get(name), Mapping):
            made[name] = {"height": side, "width": side}
    if "patch_size" in settings:
        # A merged patch of 1 x 1 in the vision config of some is what the processor calls merging.
        made["patch_size"] = patch if isinstance(settings["patch_size"], int) else {"height": patch, "width": patch}
    for ours, theirs in (("merge_size", "spatial_merge_size"), ("temporal_patch_size", "temporal_patch_size")):
        if ours in settings and isinstance(vision.get(theirs), int):
            made[ours] = vision[theirs]
    if "image_grid_pinpoints" in settings:
        made["image_grid_pinpoints"] = _pinpoints(side)
    if isinstance(settings.get("max_image_size"), Mapping):
        made["max_image_size"] = {"longest_edge": side}
        made["size"] = {"longest_edge": 2 * side}
    return made


def _merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result
