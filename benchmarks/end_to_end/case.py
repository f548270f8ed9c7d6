"""What is trained in every way: a random LLaVA, and drawn images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForMultimodalLM, CLIPVisionConfig, LlamaConfig, LlavaConfig

from tests.conftest import draw_subject
from tests.families import _sized as image_processor
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of

LAYER = "projector"
PEAK = 1e-3


@dataclass(frozen=True)
class Size:
    """A LLaVA's shape, and how many images a step takes."""

    width: int
    layers: int
    heads: int
    side: int
    text_width: int
    text_layers: int
    forget: int
    retain: int


SIZES = {
    "tiny": Size(32, 5, 4, 28, 32, 2, 4, 4),
    "small": Size(384, 12, 6, 224, 1024, 4, 2, 4),
    # Language to visual operations as in LLaVA-1.5-7B, about 20.
    "vit-b": Size(768, 12, 12, 224, 2048, 28, 2, 4),
    "vit-l": Size(1024, 24, 16, 336, 4096, 32, 16, 32),
}


def build(root: Path, size: Size) -> nn.Module:
    """Write a random LLaVA of the LLaVA-1.5 kind, in float32, and return it.

    Its language model has one layer: the project's own loop does not load it, and writing one of 7 B parameters takes
    minutes.
    """
    torch.manual_seed(0)
    model = AutoModelForMultimodalLM.from_config(_config(size, 1), dtype=torch.float32).eval()
    model.save_pretrained(root)
    sides = {"height": size.side, "width": size.side}
    image_processor("CLIPImageProcessor", size={"shortest_edge": size.side}, crop_size=sides).save_pretrained(root)
    return model


def with_language_model(model: nn.Module, size: Size, layers: int, device: torch.device) -> nn.Module:
    """The model with all layers of its language model, on a device.

    Args:
        model: As `build` returns it; tower and projector keep their values, in float32.
        size: Its shape.
        layers: Of the language model. It is in bfloat16 on a GPU and in float32 on a CPU.
        device: Where it is made.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        whole = AutoModelForMultimodalLM.from_config(_config(size, layers), dtype=dtype).eval()
    for part in (whole.model.vision_tower, whole.model.multi_modal_projector):
        part.float()
    visual = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(("model.vision_tower.", "model.multi_modal_projector."))
    }
    unknown = whole.load_state_dict(visual, strict=False).unexpected_keys
    if unknown or not visual:
        raise ValueError(f"tower and projector go by other names in the whole model: {unknown or 'no such name'}")
    return whole


def _config(size: Size, language_layers: int) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=size.width, intermediate_size=4 * size.width, num_hidden_layers=size.layers,
            num_attention_heads=size.heads, image_size=size.side, patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=32064, hidden_size=size.text_width, intermediate_size=round(size.text_width * 2.6875),
            num_attention_heads=max(size.text_width // 128, 1), num_hidden_layers=language_layers,
        ),
        image_token_index=32000, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip


def draw_images(folder: Path, name: str, subjects: range, side: int) -> list[Any]:
    """One drawn image per subject, read back as a set."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for subject in subjects:
        path = folder / f"{subject}.png"
        draw_subject(subject, 0, side).save(path)
        rows.append(json.dumps({"image": path.name, "subject": str(subject)}))
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(rows))
    return samples_of(read_records(file, role=name), role=name)
