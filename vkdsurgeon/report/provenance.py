"""Where the numbers come from: weights, sets, settings, versions, documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vkdsurgeon.report.evidence import Case
from vkdsurgeon.report.text import Wording, count
from vkdsurgeon.report.verdict import attack_title

_ROLES = {"model": "unlearned model", "reference": "base", "gold": "gold"}


@dataclass(frozen=True)
class Fact:
    """One fact; a digest is set in another type."""

    name: str
    value: str
    is_digest: bool = False


@dataclass(frozen=True)
class Origins:
    """The provenance section: where the numbers come from.

    Attributes:
        groups: Heading -> facts.
        recipe: Key and value of the effective recipe.
    """

    groups: tuple[tuple[str, tuple[Fact, ...]], ...]
    recipe: tuple[tuple[str, str], ...]


def trace(case: Case, wording: Wording) -> Origins:
    """Collect what the documents say about their making."""
    run = case.unlearn or case.provenance
    groups = (
        ("Weights, SHA-256", _weights(case)),
        ("Unlearning run", _run(case, wording)),
        ("Sets of the run", _sets(case, wording)),
        ("Measurements", _measurements(case, wording)),
        ("Versions", _versions(case, wording)),
        ("Documents behind this report, SHA-256", tuple(Fact(wording(kind), d, True) for kind, d in case.digests)),
    )
    recipe = run.recipe if run else {}
    return Origins(
        groups=tuple((title, facts) for title, facts in groups if facts),
        recipe=tuple((wording(key), wording(_plain(value))) for key, value in recipe.items()),
    )


def _weights(case: Case) -> tuple[Fact, ...]:
    return tuple(Fact(name, case.weights[role], True) for role, name in _ROLES.items() if role in case.weights)


def _run(case: Case, wording: Wording) -> tuple[Fact, ...]:
    facts = []
    if case.provenance:
        facts.append(Fact("method", wording(case.provenance.method)))
    if case.unlearn:
        plan = case.unlearn.plan
        facts.append(
            Fact("visual weights", f"{plan.tower_parameters:,} tower, {plan.projector_parameters:,} projector")
        )
        facts.append(Fact("time", f"{sum(case.unlearn.seconds.values()):,.0f} s"))
    run = case.unlearn or case.provenance
    if run:
        place = case.unlearn.plan if case.unlearn else case.provenance
        assert place is not None
        facts += [Fact("seed", str(run.seed)), Fact("device and precision", wording(f"{place.device}, {place.dtype}"))]
        facts += [Fact("schedules until the stop rule", str(len(run.stop_rule)))] if run.stop_rule else []
    return tuple(facts)


def _sets(case: Case, wording: Wording) -> tuple[Fact, ...]:
    run = case.unlearn or case.provenance
    if run is None:
        return ()
    facts = [
        Fact(wording(f"{name}: {count(each.pictures, 'image')}, {count(each.subjects, 'subject')}"), each.digest, True)
        for name, each in run.sets.items()
        if each.pictures
    ]
    return (*facts, Fact("salt", run.salt, True))


def _measurements(case: Case, wording: Wording) -> tuple[Fact, ...]:
    facts = []
    for result in case.evaluations:
        settings = result.settings
        precision = ", ".join(sorted({facts.dtype for facts in result.models}))
        limit = "all questions" if settings.limit is None else f"at most {settings.limit:,} questions per set"
        told = f"{settings.device}, {precision}; seed {settings.seed}; {limit}; {settings.prompt_format}"
        facts.append(Fact("evaluation", wording(f"{told}; {result.seconds:,.0f} s")))
        facts += [Fact(wording(f"set {each.name}"), each.digest, True) for each in result.sets]
    for attack in case.attacks:
        precision = ", ".join(sorted({facts.dtype for facts in attack.models}))
        told = f"{attack.parts[0].settings.get('device', 'device not told')}, {precision}"
        facts.append(Fact(wording(attack_title(attack).lower()), wording(f"{told}; {attack.seconds:,.0f} s")))
        facts += [Fact("protocol of this attack", attack.plan_digest, True)] if attack.plan_digest else []
    if case.comparison:
        told = f"{case.comparison.device}, unlearned in {case.comparison.dtype}"
        facts.append(Fact("comparison", wording(f"{told}; {case.comparison.seconds:,.0f} s")))
        facts += [Fact(wording(f"set {each.name}"), each.digest, True) for each in case.comparison.sets]
    return tuple(facts)


def _versions(case: Case, wording: Wording) -> tuple[Fact, ...]:
    runs = (case.unlearn, case.provenance, *case.evaluations, *case.attacks, case.comparison)
    found: dict[str, dict[str, None]] = {}
    for each in (run.versions for run in runs if run is not None):
        for name, version in each.items():
            found.setdefault(name, {})[version] = None
    told = (f"{name} {' and '.join(versions)}" for name, versions in found.items())
    return (Fact("software", wording(", ".join(told))),) if found else ()


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
