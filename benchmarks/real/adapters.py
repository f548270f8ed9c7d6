"""What training found, small: LoRA matrices of the language model and the projector, in one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

RANK = 8
_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PROJECTOR, _LORA = "projector.", "lora."


def attach(model: Any) -> Any:
    """Add zero LoRA matrices to the language model, in place.

    Returns:
        peft's wrapper, for `collect` and `merge`; every parameter but LoRA's and the projector's is frozen.
    """
    from peft import LoraConfig, get_peft_model

    model.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(_LAYERS))
    wrapped = get_peft_model(model.model.language_model, config)
    model.model.multi_modal_projector.requires_grad_(True)
    return wrapped


def lora_of(wrapped: Any) -> dict[str, torch.nn.Parameter]:
    """The LoRA matrices by name."""
    return {name: value for name, value in wrapped.named_parameters() if "lora_" in name}


def save(model: Any, wrapped: Any, out: Path) -> None:
    """Write the projector and the LoRA matrices in bfloat16."""
    projector = model.model.multi_modal_projector.state_dict()
    values = {f"{_PROJECTOR}{name}": value for name, value in projector.items()}
    values |= {f"{_LORA}{name}": value for name, value in lora_of(wrapped).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().to(torch.bfloat16).contiguous() for name, value in values.items()}, out)


def merge(model: Any, file: Path) -> None:
    """Put what `save` wrote into a freshly composed model, in place; its language model keeps its shape.

    Args:
        model: In float32, from `compose`.
        file: The adapter.
    """
    wrapped = attach(model)
    values = {name: value.float() for name, value in load_file(file).items()}
    projector = {name.removeprefix(_PROJECTOR): value for name, value in values.items() if name.startswith(_PROJECTOR)}
    model.model.multi_modal_projector.load_state_dict(projector)
    found = lora_of(wrapped)
    given = {name.removeprefix(_LORA): value for name, value in values.items() if name.startswith(_LORA)}
    if found.keys() != given.keys():
        raise ValueError(f"{file} is of another model: {sorted(found.keys() ^ given.keys())[:3]}")
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(given[name])
    model.model.language_model = wrapped.merge_and_unload()
