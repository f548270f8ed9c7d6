"""Settings that make forgetting harder to undo."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vkdsurgeon.config.section import Section

Attacker = Literal["sign", "adam"]
AttackGoal = Literal["features", "identity", "both"]
AttackSplit = Literal["pictures", "subjects"]
IdentityHeads = Literal["linear", "mlp", "both"]


class Hardening(Section):
    """Terms beside forgetting and retention, see docs/studies/hardening.md. By default, simulated attacks alone.

    Sizes are relative to each weight, as `step_size` is.
    """

    tamper_weight: float = Field(
        0.5, ge=0, description="Weight of the forget loss where a simulated relearning attack leads; 0 simulates none."
    )
    tamper_steps: int = Field(2, ge=1, description="Steps K that the simulated attacker takes at a time.")
    tamper_size: float = Field(
        0.1, gt=0, description="Size of the simulated attacker's steps, relative to each weight, as step_size."
    )
    tamper_horizon: int | None = Field(
        16,
        ge=1,
        description="Steps after which the simulated attacker starts afresh from the student; until then it goes on "
        "from where it stood. Not given: afresh every time.",
    )
    tamper_every: int = Field(1, ge=1, description="Simulate an attack every so many steps.")
    tamper_optimizer: Attacker = Field("sign", description="How the simulated attacker steps: sign or adam.")
    tamper_goal: AttackGoal = Field(
        "features",
        description="What the simulated attacker is after: features, the teacher's; identity, that identity heads read "
        "the subject again; both, one attack after the other.",
    )
    tamper_split: AttackSplit = Field(
        "subjects",
        description="What the simulated attacker has half of: the images of a step, whoever is on them; subjects, "
        "the images of half of the subjects, drawn anew for every attack.",
    )
    identity_weight: float = Field(
        0.0, ge=0, description="Weight of the identity heads' hinge on forget images; 0 leaves it out."
    )
    identity_heads: IdentityHeads = Field(
        "both", description="Frozen heads that read subjects off the teacher's features: linear, mlp or both."
    )
    identity_margin: float = Field(
        2.0, ge=0, description="Log-odds against the right subject that identity heads are pushed beyond."
    )
