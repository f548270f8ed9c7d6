"""Settings of the forget term."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_serializer, field_validator

from vkdsurgeon.config.registered import is_registered
from vkdsurgeon.config.section import Section, positive

Distance = Literal["nmse", "mse", "cosine", "smooth_l1"]
ForgetTarget = Literal["nobody", "swap", "common", "nearest", "reference"]


class Forgetting(Section):
    """What forget images are distilled towards, where, and by which distance.

    The symbols are those of docs/studies/method.md: T(x) = t(x) + S(nu_p - mu) - S(mu_p - mu).
    """

    layers: dict[str, float] = Field(
        {"projector": 1.0},
        description="Layers whose features are compared, with their weight in both losses, as "
        "LAYER=WEIGHT[,LAYER=WEIGHT...]. `projector` means every output that the language model reads. "
        "`inspect` lists the names.",
    )
    distance: Distance = Field(
        "nmse", description="Distance between student and target features: nmse, mse, cosine or smooth_l1."
    )
    forget_target: ForgetTarget = Field(
        "nobody",
        description="Target features of forget images. nobody: a mixture of distant retain identities, for each "
        "subject its own; common: one such mixture for all subjects; nearest: a mixture of the retain identities that "
        "each image would be taken for if its subject were unknown; swap: one distant retain identity; reference: the "
        "features of `forget_teacher`.",
    )
    stand_ins: int = Field(
        2,
        ge=0,
        description="Number k of retain identities that a target is mixed from. With 0 the target nobody puts nothing "
        "in the place of the identity.",
    )
    far_share: float = Field(
        1 / 3, gt=0, le=1, description="Share of the retain identities, the farthest ones, that count as distant."
    )

    @field_validator("forget_target", mode="wrap")
    @classmethod
    def _target_is_known(cls, word: Any, check: ValidatorFunctionWrapHandler) -> Any:
        return word if is_registered("forget_target", word) else check(word)

    @field_serializer("forget_target")
    def _target_as_it_is(self, word: str) -> str:
        # The list of words is closed for those who read it, but a program may have added to it.
        return word

    @field_validator("layers")
    @classmethod
    def _layers_weigh_something(cls, weights: dict[str, float]) -> dict[str, float] | None:
        return positive(weights)
