"""Settings of the loop: steps, their size, batches, memory."""

from __future__ import annotations

from pydantic import Field

from vkdsurgeon.config.section import Section


class Training(Section):
    """How long, how fast, how much at once."""

    steps: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps before the stop rule looks for the first time; derived from the data when not "
        "given: 4 passes over the forget images, at least 300.",
    )
    step_drift: float = Field(
        0.03,
        gt=0,
        lt=1,
        description="What an optimizer step at the peak of the schedule changes of kept features, as a share of their "
        "variance over images. The step size follows from it; it is measured before and while training.",
    )
    step_size: float | None = Field(
        None,
        gt=0,
        description="A fixed peak step of AdamW relative to each weight instead of a measured one: an element of a "
        "matrix moves by step_size * rms / sqrt(fan-in), of a gain or bias by 0.004 * step_size.",
    )
    warmup: float = Field(0.05, ge=0, le=1, description="First share of the steps, of linear warm-up.")
    decay: float = Field(0.4, ge=0, le=1, description="Last share of the steps, of linear decay to zero.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of the selected elements.")
    clip: float = Field(1.0, gt=0, description="Global norm that the selected gradient is clipped to.")
    forget_batch: int = Field(16, ge=1, description="Forget images per step.")
    retain_batch: int = Field(32, ge=1, description="Retain or generic images per step.")
    copies: int = Field(
        4,
        ge=0,
        description="Altered copies of every training image (cut, lit otherwise), as far as the steps can draw "
        "them; each costs the teacher a pass.",
    )
    micro_batch: int = Field(64, ge=1, description="Most images that pass the tower at once (bounds memory).")
    cache_gib: float = Field(8.0, gt=0, description="Most GiB of memory for teacher features and decoded images each.")
