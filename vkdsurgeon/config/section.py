"""What all sections of a recipe have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def positive(weights: dict[str, float] | None) -> dict[str, float] | None:
    """Refuse a mapping of weights that is empty or has one that is not positive.

    Raises:
        ValueError: For pydantic, which names the key.
    """
    if weights is not None and not (weights and all(0 < weight < float("inf") for weight in weights.values())):
        raise ValueError("needs at least one entry, each with a positive weight")
    return weights
