"""Settings of the stop rule."""

from __future__ import annotations

from pydantic import Field

from vkdsurgeon.config.section import Section


class Stopping(Section):
    """When a run may end."""

    validation_share: float = Field(
        0.125,
        ge=0,
        lt=0.5,
        description="Share of each subject's images that is held out from training, for the stop rule.",
    )
    forget_reading: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Stop rule: largest share of held-out forget images that may still be recognised as their own "
        "subject, on top of what chance explains.",
    )
    retain_reading: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Stop rule: largest share of held-out retain images that may be recognised as another subject than "
        "before.",
    )
    retain_drift: float = Field(
        0.12,
        gt=0,
        description="Stop rule: largest change of the features of held-out retain images, as squared error relative to "
        "their variance over images. Steps that are measured and exceed it are undone.",
    )
    extensions: int = Field(
        2, ge=0, description="How many times half of the steps are added if the stop rule is not met."
    )
