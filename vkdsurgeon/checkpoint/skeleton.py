"""The model a checkpoint describes, built without weights: a 7B skeleton takes a second and no memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vkdsurgeon.checkpoint.inventory import read_json
from vkdsurgeon.errors import UserError


def read_config(root: Path) -> Any:
    """The checkpoint's `PretrainedConfig`, without its quantisation and without running code from the checkpoint.

    Raises:
        UserError: config.json is missing or broken, names an unknown architecture, or relies on remote code.
    """
    # A hub is never asked: the directory is all there is.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    path = root / "config.json"
    raw = read_json(path)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise UserError("no model_type", where=path, value=model_type, expected='such as "model_type": "llava"')
    if model_type not in CONFIG_MAPPING:
        if raw.get("auto_map"):
            raise UserError(
                "the model runs code of its own (auto_map), which is never executed",
                where=path,
                value=model_type,
                expected="an architecture that transformers contains",
                remedy="use the checkpoint's version for transformers, often named -hf",
            )
        raise UserError(
            "an architecture that the installed transformers does not know",
            where=path,
            value=model_type,
            remedy="upgrade transformers, or correct model_type",
        )
    try:
        config = AutoConfig.from_pretrained(root, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"transformers refuses the config: {error}", where=path, remedy="correct the config") from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def build_skeleton(config: Any, *, dtype: torch.dtype = torch.float32, where: object = None) -> nn.Module:
    """The whole multimodal model on the `meta` device, in `eval` mode.

    Args:
        config: From `read_config`.
        dtype: Of the parameters.
        where: The checkpoint, for messages.

    Raises:
        UserError: The config is not one of a multimodal LLM, or its values contradict each other.
    """
    from transformers import AutoModelForMultimodalLM

    if type(config) not in AutoModelForMultimodalLM._model_mapping:
        raise UserError(
            "not a multimodal LLM",
            where=where,
            value=config.model_type,
            expected="an architecture for image-text-to-text, such as llava, qwen2_5_vl, internvl, gemma3",
        )
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForMultimodalLM.from_config(config, dtype=dtype)
    except Exception as error:
        raise UserError(
            f"the model cannot be built from its config: {type(error).__name__}: {error}",
            where=where,
            remedy="correct config.json",
        ) from error
    return model.eval()
