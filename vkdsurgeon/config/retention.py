"""Settings of the retention term."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from vkdsurgeon.config.forgetting import Distance, Forgetting
from vkdsurgeon.config.section import positive

RetainDistance = Literal[Distance, "relational", "cka", "attention"]

_KNOWN = get_args(RetainDistance)


class Retention(Forgetting):
    """What holds kept images; as the forget term does it, unless said otherwise."""

    retain_layers: dict[str, float] | None = Field(
        None,
        description="Layers and weights of the retain loss, in the form of `layers`. If not given, those of `layers`.",
    )
    retain_distance: dict[str, float] | None = Field(
        None,
        description="Distances of the retain loss with their weights, as NAME[=WEIGHT][,NAME...]: nmse, mse, cosine, "
        "smooth_l1, relational, cka, attention. If not given, `distance`. The last three compare structure "
        "only and ignore rotation or scale, so combine them with one of the others.",
    )
    retain_weight: float = Field(2.0, ge=0, description="Weight lambda of the retain loss.")

    @field_validator("retain_distance", mode="before")
    @classmethod
    def _one_name_is_enough(cls, value: Any) -> Any:
        return {value: 1.0} if isinstance(value, str) else value

    @field_validator("retain_layers", "retain_distance")
    @classmethod
    def _each_weighs_something(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        return positive(weights)

    @field_validator("retain_distance")
    @classmethod
    def _distances_are_known(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        unknown = [name for name in weights or {} if name not in _KNOWN]
        if unknown:
            raise ValueError(f"unknown distance {unknown[0]!r}; known: {', '.join(_KNOWN)}")
        return weights

    @property
    def retention_layers(self) -> dict[str, float]:
        """Layers and weights of the retention loss."""
        return self.layers if self.retain_layers is None else self.retain_layers

    @property
    def retention_distance(self) -> dict[str, float]:
        """Distances of the retention loss and their coefficients."""
        return {self.distance: 1.0} if self.retain_distance is None else self.retain_distance
