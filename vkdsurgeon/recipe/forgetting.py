"""Settings of the forget term."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from vkdsurgeon.recipe.section import Section, positive

Distance = Literal["nmse", "mse", "cosine", "smooth_l1"]
ForgetTarget = Literal[
    "nobody", "swap", "farthest", "common", "mean", "rmu", "repel", "blank", "blur", "noise", "reference"
]


class Forgetting(Section):
    """What forget pictures are distilled towards, where, and by which distance.

    The symbols are those of docs/method.md: T(x) = mu_p + alpha Q (nu_p - mu_p) + beta (t(x) - mu_p).
    """

    layers: dict[str, float] = Field(
        {"projector": 1.0},
        description="Tapped layers and their weight in both losses, as LAYER=WEIGHT[,LAYER=WEIGHT...]; `projector` "
        "stands for every output that the language model reads; see `inspect` for the names.",
    )
    distance: Distance = Field(
        "nmse", description="Distance between student and target features: nmse, mse, cosine or smooth_l1."
    )
    forget_target: ForgetTarget = Field(
        "nobody",
        description="What the student is to see on forget pictures: nobody; common, one nobody for all subjects; swap "
        "or farthest, one retain identity; mean, of the retain identities; rmu, a random direction; repel, anything "
        "but the teacher's features; blank, blur or noise, the teacher's features of such pictures; reference, those "
        "of --forget-teacher.",
    )
    alpha: float = Field(
        1.6,
        description="How far a subject's mean is moved towards nobody; beyond 1, because other pictures of the subject "
        "move less far than those that were trained on.",
    )
    beta: float = Field(1.0, description="How much of a picture's deviation from its subject's mean is kept.")
    view_share: float = Field(
        0.85, ge=0, lt=1, description="Share of the variation within subjects that counts as view and is never moved."
    )
    stand_ins: int = Field(2, ge=1, description="Number k of far retain identities that nobody is mixed from.")
    far_share: float = Field(1 / 3, gt=0, le=1, description="Share of the retain identities that counts as far.")
    repel_margin: float = Field(
        0.0, ge=-1, lt=1, description="Target repel: cosine to the teacher's features below which nothing pushes."
    )
    steering: float = Field(
        1.0, gt=0, description="Target rmu: length of the random direction over the mean length of a token's features."
    )
    blur: float = Field(0.1, gt=0, le=1, description="Target blur: standard deviation over the shorter side.")
    noise: float = Field(0.5, gt=0, description="Target noise: standard deviation, where white is 1.")

    @field_validator("layers")
    @classmethod
    def _layers_weigh_something(cls, weights: dict[str, float]) -> dict[str, float] | None:
        return positive(weights)
