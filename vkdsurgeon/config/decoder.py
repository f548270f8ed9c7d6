"""Settings of the decoder pass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vkdsurgeon.config.section import Section


class DecoderRecipe(Section):
    """Settings of the decoder pass, the section `decoder` of a recipe; unknown keys are refused.

    The symbols are those of docs/studies/method.md, section Decoder pass.
    """

    steps: int = Field(300, ge=1, description="Optimizer steps.")
    step_size: float = Field(
        0.15, gt=0, description="Peak step of AdamW relative to each weight, as the visual pass's step_size."
    )
    warmup: float = Field(0.1, ge=0, le=1, description="First share of the steps, of linear warm-up.")
    decay: float = Field(0.4, ge=0, le=1, description="Last share of the steps, of linear decay to zero.")
    clip: float = Field(1.0, gt=0, description="Global norm that the selected gradient is clipped to.")
    density: float = Field(1.0, gt=0, le=1, description="Share of the eligible decoder weights that may move.")
    saliency: Literal["forget_gradient", "random"] = Field(
        "forget_gradient", description="What ranks the weights: forget_gradient, or random, the control."
    )
    blocks: Literal["all", "attention", "mlp"] = Field(
        "attention", description="Eligible matrices of the decoder layers: all, attention or mlp."
    )
    forget_batch: int = Field(16, ge=1, description="Questions about forget images per step.")
    retain_batch: int = Field(32, ge=1, description="Questions about retain or generic images per step.")
    text_batch: int = Field(32, ge=1, description="Prompts of the text retain set per step.")
    micro_batch: int = Field(32, ge=1, description="Most sequences that pass the model at once (bounds memory).")
    reach: float = Field(
        0.5,
        ge=0,
        description="Half of the forget questions are asked of features T + u (t - T), u within 1 +- reach, instead of "
        "the original features t.",
    )
    seek_steps: int = Field(
        6, ge=0, description="Steps from there towards features that W still reads as the original ones; 0 takes none."
    )
    seek_size: float = Field(0.1, gt=0, description="Size of such a step, relative to the RMS of the features.")
    nobody_weight: float = Field(
        0.5, ge=0, description="Weight a of what W says on the unlearned features of forget images."
    )
    retain_weight: float = Field(
        8.0, ge=0, description="Weight b of what W says on kept images, half of them seen by the unlearned tower."
    )
    text_weight: float = Field(16.0, ge=0, description="Weight c of what W says on text.")
    answer_tokens: int = Field(8, ge=1, description="Most tokens of the teacher's greedy answer that are judged.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="What W is held in: float32, bfloat16, or auto: bfloat16 on a GPU where no weight is wider."
    )
    moments: Literal["auto", "float32", "int8"] = Field(
        "auto",
        description="Moments of AdamW: float32; int8, 2 bytes per selected weight, not 8; or auto: int8 where W is "
        "held in 16 bits.",
    )
    checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="Recompute activations of decoder layers to save memory: on, off, or auto: on a GPU."
    )
    forget_ratio: float = Field(
        0.25, gt=0, description="Gate: KL on original features of held-out forget images over its start."
    )
    retain_kl: float = Field(0.1, gt=0, description="Gate: KL on held-out kept images, nats per position.")
    text_kl: float = Field(0.1, gt=0, description="Gate: KL on the held-out half of the text retain set, nats.")
    text_agreement: float = Field(
        0.95, ge=0, le=1, description="Gate: share of held-out prompts answered in the very same tokens."
    )
