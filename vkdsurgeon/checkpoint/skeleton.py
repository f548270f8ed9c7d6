"""The model a checkpoint describes, built without weights: a 7B skeleton takes a second and no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vkdsurgeon_kernels.compile_cache import spare_the_import

from vkdsurgeon.checkpoint.json_file import read_json
from vkdsurgeon.checkpoint.lean_import import spare_scipy
from vkdsurgeon.checkpoint.offline import stay_offline
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import blaming, brief

# Implementations that transformers has itself; other names are repositories on a hub, with code to run.
_BUILT_IN = frozenset(
    {
        "eager",
        "sdpa",
        "flex_attention",
        "flash_attention_2",
        "flash_attention_3",
        "flash_attention_4",
        "grouped_mm",
        "batched_mm",
    }
)
_DEEPEST = 16


def read_config(root: Path) -> Any:
    """The checkpoint's `PretrainedConfig`, without its quantisation and without running code from the checkpoint.

    Raises:
        UserError: config.json is missing or broken, names an unknown architecture, or relies on remote code.
    """
    stay_offline()
    spare_the_import()
    spare_scipy()
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    path = root / "config.json"
    raw = read_json(path)
    model_type = raw.get("model_type")
    original = next((key for key in ("mm_vision_tower", "mm_projector_type") if key in raw), None)
    if original is not None:
        raise UserError(
            "the checkpoint has the layout of the original LLaVA code, which keeps the vision tower elsewhere",
            where=path,
            value=f"{original}: {raw[original]}",
            expected="the layout of transformers, with tower, projector and language model in one checkpoint",
            remedy="use the converted checkpoint, often named -hf, or transformers' convert_llava_weights_to_hf.py",
        )
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
    _refuse_foreign_kernels(raw, path)

    def refused(error: BaseException) -> UserError:
        return UserError(f"transformers refuses the config: {error}", where=path, remedy="correct the config")

    with blaming(root, refused):
        config = AutoConfig.from_pretrained(root, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _refuse_foreign_kernels(raw: Mapping[str, Any], path: Path, prefix: str = "", depth: int = 0) -> None:
    """Refuse an implementation that is code from a hub, in nested configs too."""
    for key, value in raw.items():
        if key.lstrip("_").endswith(("_implementation", "_implementation_internal")):
            values = list(value.values()) if isinstance(value, dict) else [value]
            foreign = [each for each in values if each is not None and each not in _BUILT_IN]
            if foreign:
                raise UserError(
                    f"{prefix}{key} names an implementation that is not part of transformers, and is never loaded",
                    where=path,
                    value=foreign[0],
                    expected="none of these lines, or one of " + ", ".join(sorted(_BUILT_IN)),
                    remedy="remove the line",
                )
        elif isinstance(value, dict) and depth < _DEEPEST:
            _refuse_foreign_kernels(value, path, f"{prefix}{key}.", depth + 1)


def build_skeleton(config: Any, *, dtype: torch.dtype = torch.float32, where: object = None) -> nn.Module:
    """The whole multimodal model on the `meta` device, in `eval` mode.

    Args:
        config: From `read_config`.
        dtype: Dtype of the parameters.
        where: The checkpoint, for messages.

    Raises:
        UserError: The config is not one of a multimodal LLM, or its values contradict each other.
    """
    auto = auto_class(config)
    if auto is None:
        raise UserError(
            "not a multimodal LLM",
            where=where,
            value=config.model_type,
            expected="an architecture for image-text-to-text, such as llava, qwen2_5_vl, internvl, gemma3",
        )

    def refused(error: BaseException) -> UserError:
        absent = _sizes_of_null(config.to_dict())
        return UserError(
            f"the model cannot be built from its config: {brief(error)}",
            where=where,
            value=", ".join(f"{name}: null" for name in absent) or None,
            expected="a number" if absent else None,
            remedy="correct config.json",
        )

    with blaming(where if isinstance(where, Path) else None, refused), torch.device("meta"):
        model: nn.Module = auto.from_config(config, dtype=dtype)
    return model.eval()


def auto_class(config: Any) -> Any:
    """The auto class of transformers that makes a whole multimodal LLM of a config; None if the config is of none."""
    from transformers import AutoModelForMultimodalLM, AutoModelForSeq2SeqLM

    if type(config) in AutoModelForMultimodalLM._model_mapping:
        return AutoModelForMultimodalLM
    # Audio Flamingo is filed among models from sequence to sequence.
    hears = hasattr(config, "audio_config") and type(config) in AutoModelForSeq2SeqLM._model_mapping
    return AutoModelForSeq2SeqLM if hears else None


def loader_of(config: Any) -> Callable[..., Any]:
    """`from_pretrained` of the class that makes a whole multimodal LLM of a config; code in a checkpoint is never run.

    Qwen2.5-Omni's own reads the voices of its speakers too, and fails where a report of what was loaded is asked for;
    the loader that it builds on does not.
    """
    from transformers import AutoModelForMultimodalLM, PreTrainedModel

    auto = auto_class(config)
    made = None if auto is None else auto._model_mapping[type(config)]
    own = getattr(getattr(made, "from_pretrained", None), "__func__", None)
    plain = PreTrainedModel.from_pretrained.__func__
    if own is None or own is plain:
        return partial((auto or AutoModelForMultimodalLM).from_pretrained, trust_remote_code=False)
    return partial(plain, made)


def _sizes_of_null(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> list[str]:
    found: list[str] = []
    for key, value in config.items():
        if value is None and (key.endswith("_size") or key.startswith("num_")):
            found.append(f"{prefix}{key}")
        elif isinstance(value, dict) and depth < _DEEPEST:
            found += _sizes_of_null(value, f"{prefix}{key}.", depth + 1)
    return found
