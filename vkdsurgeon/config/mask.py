"""Settings of the saliency mask."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_serializer, field_validator

from vkdsurgeon.config.registered import is_registered
from vkdsurgeon.config.section import Section

Saliency = Literal["forget_gradient", "ratio", "fisher", "random"]


class Mask(Section):
    """Which weights may move."""

    depth: int | str = Field(
        2,
        description="Which weights the mask may choose from: a number K, the projector and the last K layers whose "
        "features reach it, or reach another output that the language model reads; all; projector. Layers before "
        "these are run once per image, not in every step.",
    )
    density: float = Field(
        0.5, gt=0, le=1, description="Share of the visual weights within `depth` that the saliency mask lets move."
    )
    granularity: Literal["element", "row", "tensor", "layer"] = Field(
        "element",
        description="What the saliency mask selects as a whole: element, row, tensor or layer. Units larger than an "
        "element are ranked by their mean score and bring the density as near as whole units can.",
    )
    saliency: Saliency = Field(
        "forget_gradient",
        description="What ranks the weights: forget_gradient; ratio, that over the sensitivity of retained features; "
        "fisher, squared gradients by image; random, the control.",
    )

    @field_validator("saliency", mode="wrap")
    @classmethod
    def _saliency_is_known(cls, word: Any, check: ValidatorFunctionWrapHandler) -> Any:
        return word if is_registered("saliency", word) else check(word)

    @field_serializer("saliency")
    def _saliency_as_it_is(self, word: str) -> str:
        # The list of words is closed for those who read it, but a program may have added to it.
        return word

    @field_validator("depth", mode="before")
    @classmethod
    def _depth_is_known(cls, depth: Any) -> Any:
        if isinstance(depth, str) and depth.isdecimal():
            # As a flag hands it over.
            depth = int(depth)
        if depth in ("all", "projector") or (type(depth) is int and depth >= 1):
            return depth
        raise ValueError("neither 'all', 'projector' nor a number of layers from 1 up")
