"""Settings of the other methods."""

from __future__ import annotations

from pydantic import Field, field_validator

from vkdsurgeon.config.common import Checkpointing, Clip, Decay, SequencesAtOnce, Warmup, WeightDecay
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

    steps: int | None = Field(None, ge=1, description="Optimizer steps. The default depends on the method.")
    step_size: float | None = Field(
        None,
        gt=0,
        description="Peak step of AdamW, relative to each weight, like `step_size` of the visual pass. The default "
        "depends on the method.",
    )
    lr: float | None = Field(
        None,
        gt=0,
        le=1,
        description="One learning rate for all weights, as in the publications. It replaces `baseline.step_size`.",
    )
    warmup: Warmup = 0.1
    decay: Decay = 0.4
    weight_decay: WeightDecay = 0.0
    clip: Clip = 1.0
    forget_batch: int = Field(16, ge=1, description="Questions of the forget set per step.")
    retain_batch: int = Field(16, ge=1, description="Questions of the retain set per step.")
    micro_batch: SequencesAtOnce = 32
    forget_weight: float = Field(1.0, gt=0, description="Weight of the forget loss.")
    retain_weight: float = Field(1.0, ge=0, description="Weight of the retain loss.")
    density: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the weights in scope that may change, ranked by |gradient| of the forget loss.",
    )
    npo_beta: float = Field(0.4, gt=0, description="NPO: inverse temperature beta.")
    refusals: list[str] = Field(
        list(REFUSALS), description="IDK: refusal answers to train on; one is drawn for each question."
    )
    rmu_layer: int | None = Field(
        None,
        ge=0,
        description="RMU: decoder layer to steer, counted from 0. By default the layer at a quarter of the depth.",
    )
    rmu_steering: float = Field(
        5.0,
        gt=0,
        description="RMU: length of the random direction, relative to the mean length of the layer's activations.",
    )
    manu_fraction: float = Field(0.05, gt=0, lt=1, description="MANU: share of the MLP neurons to prune.")
    mmunlearner_threshold: float = Field(
        1.0, gt=0, description="MMUnlearner: a weight may change if Fisher(forget) / Fisher(preserve) is at least this."
    )
    scored: int = Field(
        128, ge=1, description="Largest number of questions per set for computing masks and neuron importance."
    )
    checkpointing: Checkpointing = "auto"
    cache_gib: float = Field(8.0, gt=0, description="Memory limit in GiB for stored log-probabilities and activations.")

    @field_validator("refusals")
    @classmethod
    def _something_is_said(cls, value: list[str]) -> list[str]:
        if not value or not all(answer.strip() for answer in value):
            raise ValueError("needs at least one answer, none of them blank")
        return value
