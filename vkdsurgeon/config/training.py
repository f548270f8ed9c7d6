"""Settings of the loop: steps, their size, batches, memory."""

from __future__ import annotations

from pydantic import Field

from vkdsurgeon.config.common import Clip, Decay, Warmup, WeightDecay
from vkdsurgeon.config.section import Section


class Training(Section):
    """How long, how fast, how much at once."""

    steps: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps before the stop rule is checked for the first time. If not given, they follow "
        "from the data: 4 passes over the forget images, at least 300.",
    )
    step_drift: float = Field(
        0.03,
        gt=0,
        lt=1,
        description="How far one optimizer step at the peak of the schedule may move the features of retain images: "
        "mean squared change as a share of their variance over images. The step size is chosen to match "
        "it, by measurement before and during training.",
    )
    step_size: float | None = Field(
        None,
        gt=0,
        description="A fixed peak step of AdamW, relative to each weight, instead of one measured by `step_drift`. An "
        "element of a matrix moves by step_size * rms / sqrt(fan-in), an element of a gain or bias by "
        "0.004 * step_size.",
    )
    warmup: Warmup = 0.05
    decay: Decay = 0.4
    weight_decay: WeightDecay = 0.0
    clip: Clip = 1.0
    forget_batch: int = Field(16, ge=1, description="Forget images per step.")
    retain_batch: int = Field(32, ge=1, description="Images from the retain set or the generic set per step.")
    copies: int = Field(
        4,
        ge=0,
        description="Augmented copies (cropped, changed in brightness) made of every image to retain, and twice as "
        "many of every image to forget, which are rotated as well. No more are made than the steps can use. Each copy "
        "costs one more forward pass of the teacher.",
    )
    micro_batch: int = Field(
        64,
        ge=1,
        description="Largest number of images in one forward pass of the vision tower; lower it to save memory.",
    )
    cache_gib: float = Field(
        8.0,
        gt=0,
        description="Memory limit in GiB for cached teacher features, and the same again for decoded images. The rest "
        "goes to disk.",
    )
