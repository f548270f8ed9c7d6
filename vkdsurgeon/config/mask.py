"""Settings of the saliency mask."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_serializer, field_validator

from vkdsurgeon.config.registered import is_registered
from vkdsurgeon.config.section import Section

Saliency = Literal["forget_gradient", "random"]


class Mask(Section):
    """Which weights may move."""

    depth: int | str = Field(
        2,
        description="Which weights the saliency mask can select from. A number K: the projector and the last K layers "
        "of each output that the language model reads; all: the whole vision tower and the projector; "
        "projector: the projector only. Earlier layers are run once per image instead of in every step.",
    )
    density: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the visual weights within `depth` that the saliency mask selects for training.",
    )
    granularity: Literal["element", "row", "tensor", "layer"] = Field(
        "element",
        description="Unit that the saliency mask selects: element, row, tensor or layer. Units larger than an element "
        "are ranked by their mean score, and the density is met as closely as whole units allow.",
    )
    saliency: Saliency = Field(
        "forget_gradient",
        description="Score that ranks the weights. forget_gradient: |gradient| of the forget loss; random: a control.",
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
