"""What the decoder pass is going to do and to cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.model.decoder_layers import DecoderWeights

_MIB = 1 << 20
# Sequences of this many tokens are assumed where activations and logits are estimated.
_TOKENS = 1024


@dataclass(frozen=True)
class DecoderPlan:
    """The plan; memory in MiB, on top of the visual pass's tower and projector.

    Attributes:
        dtype: What W is held in.
        layers: Number of decoder layers.
        eligible_elements: Elements of the matrices that the mask selects from.
        selected_elements: How many of them may move.
        forget_questions: Questions about forget images.
        retain_questions: Questions about kept images.
        text_prompts: Prompts trained on and held out.
        built_in_text: Whether these are the package's own.
        steps: Optimizer steps.
        checkpointing: Whether activations of decoder layers are recomputed.
        memory_mib: Estimate by what takes it; `peak` is the most alive at once.
        warnings: What the user should know.
    """

    dtype: str
    layers: int
    eligible_elements: int
    selected_elements: int
    forget_questions: int
    retain_questions: int
    text_prompts: tuple[int, int]
    built_in_text: bool
    steps: int
    checkpointing: bool
    memory_mib: dict[str, float]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values, for `--json`."""
        return asdict(self)


def held_in(recipe: DecoderRecipe, weights: DecoderWeights, device: torch.device) -> torch.dtype:
    """The dtype of W in memory: bfloat16 on a GPU where no eligible weight is wider, unless the recipe names one."""
    if recipe.dtype != "auto":
        return torch.float32 if recipe.dtype == "float32" else torch.bfloat16
    return torch.bfloat16 if device.type == "cuda" and weights.dtype.itemsize <= 2 else torch.float32


def moments_kind(recipe: DecoderRecipe, dtype: torch.dtype) -> Literal["float32", "int8"]:
    """How AdamW's moments are held beside a W of some dtype."""
    if recipe.moments == "auto":
        return "int8" if dtype.itemsize < 4 else "float32"
    return recipe.moments


def estimate_memory(
    inventory: Inventory, weights: DecoderWeights, recipe: DecoderRecipe, config: Any, dtype: torch.dtype, saves: bool
) -> dict[str, float]:
    """Estimate the memory of the decoder pass in MiB, from sizes alone.

    Dense gradients of all eligible weights live together only while the mask is made; training packs each into
    float32 as it arrives. Activations are those of one layer's inputs per layer where they are recomputed, else of
    about 34 widths per token and layer (Korthikanti et al., arXiv 2205.05198, without attention maps).
    """
    width = dtype.itemsize
    elements = sum(entry.elements for entry in inventory.tensors.values())
    largest = max(inventory.tensors[name].elements for name in weights.on_disk.values())
    selected = round(recipe.density * weights.elements)
    text = config.get_text_config()
    hidden, depth = int(text.hidden_size), int(text.num_hidden_layers)
    at_once = recipe.micro_batch * _TOKENS
    activations = at_once * hidden * width * (depth + 34 if saves else 34 * depth)
    logits = 3 * 4 * recipe.micro_batch * (recipe.answer_tokens + 32) * int(text.vocab_size)
    facts = {
        "weights": elements * width,
        "dense_gradients_for_the_mask": weights.elements * width,
        "saliency_scores": weights.elements * 4,
        "mask": weights.elements / 8,
        "optimizer": selected * (4 + (2 if moments_kind(recipe, dtype) == "int8" else 8) + (4 if width < 4 else 0)),
        "largest_gradient": largest * width,
        "activations": activations,
        "logits": logits,
    }
    scoring = facts["dense_gradients_for_the_mask"] + facts["saliency_scores"]
    training = facts["optimizer"] + facts["mask"] + facts["largest_gradient"]
    facts["peak"] = facts["weights"] + activations + logits + max(scoring, training)
    return {key: round(value / _MIB, 1) for key, value in facts.items()}
