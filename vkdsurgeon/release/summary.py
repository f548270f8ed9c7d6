"""The verdict on a release and its summary page, which always shows what attacks brought back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vkdsurgeon.config.release import ReleasePlan
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.results.attack_document import AttackDocument
from vkdsurgeon.results.read import read_source
from vkdsurgeon.results.release import AttackFacts, ReleaseResult, StageFacts

Verdict = Literal["release", "accepted", "unjudged", "failed"]
_RESTORED = "Original visual weights put back"


def attack_facts(results: Path, plan: ReleasePlan) -> list[AttackFacts]:
    """What each attack brought back.

    Args:
        results: Where the documents lie.
        plan: Names attacks and bounds.
    """
    facts = []
    for protocol in plan.protocols:
        document = _attack(results / f"relearn-{protocol}.json")
        facts.append(_fact(f"relearn {protocol}", document, "relearn.ag", plan.relearn_gates))
    restored = _attack(results / "restore.json")
    gained = [each.id for each in restored.metrics if each.id.startswith("restore.after.") and "retain" not in each.id]
    # The shortest id is the widest group of questions; general ones are not about the subject.
    widest = sorted(gained, key=lambda name: ("general" in name, len(name.split(".")), name))
    return [*facts, _fact("restore", restored, (*widest, "restore.after")[0], plan.restore_gates)]


def judged(
    plan: ReleasePlan, report: Any, stages: Sequence[StageFacts], attacks: Sequence[AttackFacts], *, edited: bool
) -> tuple[Verdict, str, list[str]]:
    """The verdict, its sentence, and the attacks that no bound judges.

    Args:
        plan: What is accepted or out of scope by its own word.
        report: The report on all results.
        stages: Every stage that was done or kept.
        attacks: From `attack_facts`.
        edited: Whether the language model was edited.
    """
    told = "; ".join(in_words(each) for each in attacks)
    language = " The language model was edited, as its record declares." if edited else ""
    missed = [each for stage in stages for each in stage.missed]
    unjudged = list(report.unjudged)
    if missed or report.verdict == "failed":
        return (
            "failed",
            f"Do not release: {len(missed or report.failed)} bound(s) missed. Attacks: {told}.{language}",
            unjudged,
        )
    open_ = [each for each in unjudged if not (plan.restore_out_of_scope and each == _RESTORED)]
    if report.verdict == "passed" or (report.verdict == "partial" and not open_):
        beside = f" Out of scope by the plan: {_RESTORED}." if unjudged else ""
        return "release", f"Within the bounds that were set. Attacks: {told}.{beside}{language}", unjudged
    names = ", ".join(open_) or "everything: no bound was set"
    if plan.accept_unjudged:
        return (
            "accepted",
            f"Measured and NOT judged, which the plan accepts: {names}. Attacks: {told}.{language}",
            unjudged,
        )
    return (
        "unjudged",
        f"Do not release: NOT judged: {names}. Attacks: {told}. Give gold, or bounds of your own under gates, or set "
        f"accept_unjudged after reading the report.{language}",
        unjudged,
    )


def in_words(attack: AttackFacts) -> str:
    """One attack with its number, gold's, and the bounds."""
    points = attack.metric.endswith(".ag")

    def number(value: float | None) -> str:
        if value is None:
            return "not measured"
        return f"{value:+.1f} points" if points else f"{100 * value:.1f} %"

    gold = "" if attack.gold is None else f" (gold {number(attack.gold)})"
    bound = ", ".join(attack.bounds) or "no bound"
    return f"{attack.attack} {number(attack.value)}{gold} [{bound}]"


def summary_page(result: ReleaseResult) -> str:
    """One page of Markdown for the person who decides."""
    lines = [
        f"# Release: {result.verdict}", "", result.headline, "",
        "Everything here is relative to base and gold, under these attacks, on these questions.", "",
        "| attack | metric | brought back | gold | bound |", "|-|-|-|-|-|",
    ]  # fmt: skip
    for each in result.attacks:
        value, gold = (("" if number is None else f"{number:.4g}") for number in (each.value, each.gold))
        lines.append(f"| {each.attack} | `{each.metric}` | {value} | {gold} | {', '.join(each.bounds) or 'none'} |")
    lines += ["", "| stage | state | seconds | missed |", "|-|-|-|-|"]
    for stage in result.stages:
        missed = "; ".join(each.removeprefix(f"{stage.name}: ") for each in stage.missed)
        lines.append(f"| {stage.name} | {stage.state} | {stage.seconds:.1f} | {missed} |")
    if result.unjudged:
        lines += ["", f"Measured and not judged: {', '.join(result.unjudged)}."]
    lines += ["", f"- checkpoint: `{Path(result.patched).name}`", f"- patch: `{Path(result.patch).name}`"]
    lines += [f"- report: `{Path(result.report).name}`", f"- attestations: {', '.join(result.attestations)}", ""]
    return "\n".join(lines)


def _attack(path: Path) -> AttackDocument:
    document = read_source(path).document
    assert isinstance(document, AttackDocument)
    return document


def _fact(name: str, document: AttackDocument, otherwise: str, bounds: list[str]) -> AttackFacts:
    """The figure that the first gate bounds, or another where none does, so that figure and bound belong together."""
    values = {each.id: each.value for each in document.metrics}
    metric = next((gate.metric for gate in parse_gates(bounds) if gate.metric in values), otherwise)
    return AttackFacts(
        attack=name, metric=metric, value=values.get(metric), gold=values.get(f"gold.{metric}"), bounds=list(bounds)
    )
