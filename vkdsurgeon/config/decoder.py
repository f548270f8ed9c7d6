"""Settings of the decoder pass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vkdsurgeon.config.common import Checkpointing, Clip, Decay, SequencesAtOnce, Warmup
from vkdsurgeon.config.section import Section


class DecoderRecipe(Section):
    """Settings of the decoder pass, the section `decoder` of a recipe; unknown keys are refused.

    The symbols are those of docs/studies/method.md, section Decoder pass.
    """

    steps: int = Field(300, ge=1, description="Optimizer steps.")
    step_size: float = Field(
        0.15, gt=0, description="Peak step of AdamW, relative to each weight, like `step_size` of the visual pass."
    )
    warmup: Warmup = 0.1
    decay: Decay = 0.4
    clip: Clip = 1.0
    density: float = Field(
        1.0, gt=0, le=1, description="Share of the eligible weights of the language model that may change."
    )
    saliency: Literal["forget_gradient", "random"] = Field(
        "forget_gradient",
        description="Score that ranks the weights. forget_gradient: |gradient| of the forget loss; random: a control.",
    )
    blocks: Literal["all", "attention", "mlp"] = Field(
        "attention", description="Matrices of the decoder layers that are eligible: all, attention or mlp."
    )
    forget_batch: int = Field(16, ge=1, description="Questions about forget images per step.")
    retain_batch: int = Field(
        32, ge=1, description="Questions about images of the retain set or the generic set per step."
    )
    text_batch: int = Field(32, ge=1, description="Prompts of the text retain set per step.")
    micro_batch: SequencesAtOnce = 32
    reach: float = Field(
        0.5,
        ge=0,
        description="Half of the forget questions use the original image features t. The other half use features T + u "
        "(t - T) around them, where T are the unlearned features and u is drawn from 1 - reach to 1 + "
        "reach.",
    )
    seek_steps: int = Field(
        6,
        ge=0,
        description="Gradient steps that move those features further towards ones that the language model W still "
        "recognises; 0 turns this search off.",
    )
    seek_size: float = Field(0.1, gt=0, description="Size of one such step, relative to the RMS of the features.")
    nobody_weight: float = Field(
        0.5, ge=0, description="Weight a of the loss on answers about forget images, with unlearned features."
    )
    retain_weight: float = Field(
        8.0,
        ge=0,
        description="Weight b of the loss on answers about retain images. Half of these images are encoded by the "
        "unlearned vision tower.",
    )
    text_weight: float = Field(16.0, ge=0, description="Weight c of the loss on answers to text prompts.")
    answer_tokens: int = Field(
        8, ge=1, description="Largest number of tokens of the teacher's greedy answer that enter the loss."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the language model W in memory: float32, bfloat16, or auto, which is bfloat16 on a "
        "GPU if no weight on disk is wider.",
    )
    moments: Literal["auto", "float32", "int8"] = Field(
        "auto",
        description="Precision of AdamW's moments: float32; int8, which takes 2 bytes per selected weight instead of "
        "8; or auto, which is int8 if W is held in 16 bits.",
    )
    checkpointing: Checkpointing = "auto"
    forget_ratio: float = Field(
        0.25,
        gt=0,
        description="Gate: largest KL divergence on held-out forget images with original features, relative to its "
        "value before the pass.",
    )
    retain_kl: float = Field(
        0.1, gt=0, description="Gate: largest KL divergence on held-out retain images, in nats per position."
    )
    text_kl: float = Field(
        0.1, gt=0, description="Gate: largest KL divergence on the held-out half of the text retain set, in nats."
    )
    text_agreement: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Gate: smallest share of held-out prompts whose answer keeps exactly the same tokens.",
    )
