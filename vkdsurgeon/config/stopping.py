"""Settings of the stop rule."""

from __future__ import annotations

from pydantic import Field

from vkdsurgeon.config.section import Section


class Stopping(Section):
    """When a run may end."""

    validation_share: float = Field(
        0.125, ge=0, lt=0.5, description="Share of each subject's images held out for the stop rule."
    )
    forget_reading: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Stop rule: share of the held-out forget images that may still read as their own subject, beyond "
        "what chance would let.",
    )
    retain_reading: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Stop rule: share of the held-out kept images that may read otherwise than before.",
    )
    retain_drift: float = Field(
        0.12,
        gt=0,
        description="Stop rule: squared error of the held-out kept images' features, as a share of how much the "
        "features of kept images differ (their variance over images); no step of training passes it.",
    )
    extensions: int = Field(2, ge=0, description="How often half the steps are added where the stop rule is not met.")
