"""The relearning attacks of a cell: every protocol with every scope, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from vkdsurgeon.attacks.relearn import Relearning, relearn
from vkdsurgeon.comparison.datasets import Case
from vkdsurgeon.config.relearn import RelearnPlan, RelearnScope
from vkdsurgeon.errors import UserError
from vkdsurgeon.results.comparison import AttackSettings
from vkdsurgeon.results.comparison_columns import ag_of
from vkdsurgeon.results.relearn import RelearnSettings
from vkdsurgeon.training.events import Listener


def parse_scopes(text: str) -> list[RelearnScope]:
    """The scopes of a comma-separated list.

    Raises:
        UserError: An unknown one, one given twice, or none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    found: list[RelearnScope] = [scope for word in words for scope in get_args(RelearnScope) if scope == word]
    if not found or len(found) != len(words) or len(set(words)) != len(words):
        raise UserError(
            "not a list of scopes",
            where="`attack_scopes`",
            value=text,
            expected=f"different names, separated by commas: {', '.join(get_args(RelearnScope))}",
        )
    return found


def attack_plan(case: Case, seed: int) -> RelearnPlan | None:
    """The settings of a cell's attacks; None where the sets allow none."""
    asked = case.asked
    if not case.protocols:
        return None
    return RelearnPlan(
        protocol=tuple(case.protocols),
        scope=tuple(asked.scopes),
        steps=asked.attack_steps,
        curve_steps=(asked.attack_steps,),
        seeds=(seed,),
    )


def attack_settings(case: Case) -> AttackSettings:
    """The settings of the attacks, for the result."""
    plan = attack_plan(case, 0) or RelearnPlan(steps=case.asked.attack_steps)
    return AttackSettings(
        protocols=list(case.protocols),
        scopes=list(case.asked.scopes),
        fraction=plan.fraction[0],
        steps=plan.steps,
        lr=plan.lr[0],
        batch_size=plan.batch_size,
        rank=plan.rank if "llm" in case.asked.scopes else None,
    )


def attack(case: Case, model: Path, seed: int, listener: Listener) -> tuple[dict[str, float | None], list[str]]:
    """Attack a model with every scope and seed.

    Returns:
        AG by protocol and scope, and by protocol alone the largest over the scopes, since an attacker chooses; and the
        attacks that diverged, which have none.
    """
    plan = attack_plan(case, seed)
    if plan is None:
        return {}, []
    found = relearn(
        Relearning(
            model=model,
            forget=case.forget,
            heldout=case.heldout,
            plan=plan,
            device=case.asked.device,
            device_map=case.asked.device_map,
            tower=case.asked.tower,
            projector=case.asked.projector,
        ),
        listener,
    )
    if isinstance(found.settings, RelearnSettings):
        outcomes = [(found.settings, found.seeds[0])]
    else:
        outcomes = [(each.settings, each.seeds[0]) for each in found.cases]
    values = {ag_of(settings.protocol, settings.scope): outcome.ag for settings, outcome in outcomes}
    for protocol in case.protocols:
        known = [value for scope in plan.scope if (value := values[ag_of(protocol, scope)]) is not None]
        values[ag_of(protocol)] = max(known) if known else None
    diverged = [f"{settings.protocol}.{settings.scope}" for settings, outcome in outcomes if outcome.diverged]
    return values, diverged
