"""Settings of the retention term."""

from __future__ import annotations

from pydantic import Field, field_validator

from vkdsurgeon.config.forgetting import Forgetting
from vkdsurgeon.config.section import positive


class Retention(Forgetting):
    """What holds kept images; as the forget term does it, unless said otherwise."""

    retain_layers: dict[str, float] | None = Field(
        None,
        description="Layers and weights of the retain loss, in the form of `layers`. If not given, those of `layers`.",
    )
    retain_weight: float = Field(2.0, ge=0, description="Weight lambda of the retain loss.")

    @field_validator("retain_layers")
    @classmethod
    def _each_weighs_something(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        return positive(weights)

    @property
    def retention_layers(self) -> dict[str, float]:
        """Layers and weights of the retention loss."""
        return self.layers if self.retain_layers is None else self.retain_layers
