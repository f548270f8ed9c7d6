"""Settings of the other methods."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from vkdsurgeon.config.section import Section

REFUSALS = (
    "I do not know.",
    "I cannot tell who this is.",
    "I have no information about that.",
    "I am not able to answer this question.",
)


class BaselineRecipe(Section):
    """Settings of `unlearn --method` other than vkd, the section `baseline` of a recipe; unknown keys are refused.

    Sources and formulas: docs/studies/baselines.md.
    """

    steps: int | None = Field(None, ge=1, description="Optimizer steps; by method when not given.")
    step_size: float | None = Field(
        None,
        gt=0,
        description="Peak step of AdamW relative to each weight, as VKD's step_size; by method if not given.",
    )
    lr: float | None = Field(
        None, gt=0, le=1, description="One learning rate for all weights, as in the sources; replaces step_size."
    )
    warmup: float = Field(0.1, ge=0, le=1, description="First share of the steps, of linear warm-up.")
    decay: float = Field(0.4, ge=0, le=1, description="Last share of the steps, of linear decay to zero.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of the selected elements.")
    clip: float = Field(1.0, gt=0, description="Global norm that the selected gradient is clipped to.")
    forget_batch: int = Field(16, ge=1, description="Forget questions per step.")
    retain_batch: int = Field(16, ge=1, description="Retain questions per step.")
    micro_batch: int = Field(32, ge=1, description="Most sequences that pass the model at once (bounds memory).")
    forget_weight: float = Field(1.0, gt=0, description="Weight of the forget term.")
    retain_weight: float = Field(1.0, ge=0, description="Weight of the retain term.")
    density: float = Field(
        1.0, gt=0, le=1, description="Share of the weights in scope that may move, by |gradient| of the forget loss."
    )
    npo_beta: float = Field(0.4, gt=0, description="NPO: beta, the inverse temperature.")
    refusals: list[str] = Field(list(REFUSALS), description="IDK: answers to teach, one is drawn per question.")
    rmu_layer: int | None = Field(
        None,
        ge=0,
        description="RMU: decoder layer that is steered, counted from 0; a quarter of the depth if not given.",
    )
    rmu_steering: float = Field(
        5.0, gt=0, description="RMU: length of the random direction over the mean length of the layer's activations."
    )
    manu_fraction: float = Field(0.05, gt=0, lt=1, description="MANU: share of the MLP neurons that is pruned.")
    mmunlearner_threshold: float = Field(
        1.0, gt=0, description="MMUnlearner: a weight may move where Fisher(forget) / Fisher(preserve) reaches this."
    )
    scored: int = Field(
        128, ge=1, description="Most questions of each set that masks and neuron importance are computed from."
    )
    checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="Recompute activations of decoder layers to save memory: on, off, or auto: on a GPU."
    )
    cache_gib: float = Field(8.0, gt=0, description="Most GiB of memory for stored log-probabilities and activations.")

    @field_validator("refusals")
    @classmethod
    def _something_is_said(cls, value: list[str]) -> list[str]:
        if not value or not all(answer.strip() for answer in value):
            raise ValueError("needs at least one answer, none of them blank")
        return value
