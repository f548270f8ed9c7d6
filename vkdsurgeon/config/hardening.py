"""Settings that make forgetting harder to undo."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vkdsurgeon.config.section import Section

AttackGoal = Literal["features", "identity", "both"]
AttackSplit = Literal["pictures", "subjects"]


class Hardening(Section):
    """Terms beside forgetting and retention, see docs/studies/hardening.md. By default, simulated attacks alone.

    Sizes are relative to each weight, as `step_size` is.
    """

    tamper_weight: float = Field(
        0.5,
        ge=0,
        description="Weight of an additional forget loss, computed on the model after a simulated relearning attack; 0 "
        "turns the simulation off.",
    )
    tamper_steps: int = Field(2, ge=1, description="Number K of steps that the simulated attacker takes per attack.")
    tamper_size: float = Field(
        0.1, gt=0, description="Size of the simulated attacker's steps, relative to each weight, like `step_size`."
    )
    tamper_horizon: int | None = Field(
        16,
        ge=1,
        description="Number of steps after which the simulated attacker starts again from the current student; before "
        "that it continues from its own weights. If null, every attack starts from the student.",
    )
    tamper_goal: AttackGoal = Field(
        "features",
        description="What the simulated attacker trains for. features: restore the teacher's features; identity: make "
        "identity heads read the subject again; both: one attack of each kind in turn.",
    )
    tamper_split: AttackSplit = Field(
        "subjects",
        description="Which half of the forget images the simulated attacker gets. pictures: half of the images of a "
        "step, of any subject; subjects: the images of half of the subjects, drawn anew for every attack.",
    )
    identity_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of a hinge loss on forget images that makes the identity heads fail, frozen classifiers "
        "that recognise subjects from the teacher's features; 0 turns it off.",
    )
    identity_margin: float = Field(
        2.0, ge=0, description="Margin of the hinge loss: log-odds against the correct subject that are enough."
    )
