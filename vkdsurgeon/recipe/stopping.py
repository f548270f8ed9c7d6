"""Settings of the stop rule."""

from __future__ import annotations

from pydantic import Field

from vkdsurgeon.recipe.section import Section


class Stopping(Section):
    """When a run may end."""

    validation_share: float = Field(
        0.125, ge=0, lt=0.5, description="Share of the pictures held out for the stop rule."
    )
    retain_drift: float = Field(
        0.12,
        gt=0,
        description="Stop rule: squared error of the held-out kept pictures' features, as a share of how much the "
        "features of kept pictures differ (their variance over pictures).",
    )
    extensions: int = Field(2, ge=0, description="How often half the steps are added where the stop rule is not met.")
