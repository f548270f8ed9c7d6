"""Whether the release may go out, by the bounds that somebody set; and what nobody measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vkdsurgeon.report.evidence import Case
from vkdsurgeon.report.gate_words import in_words
from vkdsurgeon.report.text import Wording, count
from vkdsurgeon.results.attack_document import AttackDocument
from vkdsurgeon.results.evaluation import GateOutcome
from vkdsurgeon.results.run_record import ProvenanceDocument, TowerDocument, UnlearnDocument

Status = Literal["passed", "partial", "failed", "unjudged"]

_ATTACKS = {
    "relearn": "Relearning",
    "restore": "Original visual weights put back",
    "probe": "Linear probe",
    "quantize": "Quantisation",
    "perturb": "Perturbed images",
    "prompt": "Other prompts",
    "typography": "Words written into images",
    "membership": "Membership inference",
}
_PROTOCOLS = {
    "people": "other subjects",
    "pairs": "other questions",
    "views": "other views",
    "benign": "trained on what is to be kept",
    "unrelated": "trained on unrelated data",
}
_SCOPES = {"llm": "LoRA on the language model", "llm_full": "the language model", "all": "every weight"}
_BESIDE = ("retain.", "utility.", "before.")
_COSTS = (".seconds", ".cpu_seconds", ".peak_memory_mib", ".tera_flops")
_USUAL_SHARE, _USUAL_RATE = 0.5, 3e-4


@dataclass(frozen=True)
class Check:
    """One gate and its outcome.

    Attributes:
        text: The gate as it was written, or what was checked.
        is_gate: Whether it is a gate; else a rule of the unlearning run itself.
        origin: Which measurement it belongs to.
        measured: What came out.
        passed: Whether it holds.
        words: A gate in words; empty for others.
    """

    text: str
    is_gate: bool
    origin: str
    measured: str
    passed: bool
    words: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict of the whole report.

    Attributes:
        status: `failed` when any check fails; `passed` when gates were set, all hold, and there is one on what every
            attack brought back; `partial` when all hold and an attack has none; `unjudged` without gates.
        headline: In a sentence or two.
        checks: Failed ones first.
        unjudged: Attacks that were measured and that no gate judges.
        missing: What was not measured, one sentence each.
    """

    status: Status
    headline: str
    checks: tuple[Check, ...]
    unjudged: tuple[str, ...]
    missing: tuple[str, ...]


def attack_title(document: AttackDocument) -> str:
    """Title of an attack for people, with its protocol and what is not usual about it."""
    title = _ATTACKS.get(document.attack, document.attack.replace("_", " ").capitalize())
    settings = document.settings
    told = [_PROTOCOLS.get(str(settings.get("protocol")))]
    if document.attack == "relearn" and not document.cases:
        share, rate = settings["fraction"], settings["lr"]
        if share == 1.0 and settings["protocol"] in ("people", "pairs"):
            told = [_PROTOCOLS["views"]]
        told.append(f"{100 * share:g} %" if share != _USUAL_SHARE else None)
        told.append(_SCOPES.get(str(settings["scope"])))
        told.append(f"learning rate {rate:g}" if rate != _USUAL_RATE else None)
    return ", ".join([title, *(each for each in told if each)])


def judge(case: Case, wording: Wording) -> Verdict:
    """Hold everything that was measured against every bound that was set."""
    checks = [*_gates(case, wording), *_own_rules(case, wording)]
    failed = [check for check in checks if not check.passed]
    gates = sum(check.is_gate for check in checks)
    unjudged = tuple(wording(title) for title in _unjudged(case))
    status: Status
    if failed:
        status, headline = "failed", f"{len(failed)} of {count(len(checks), 'check')} failed."
    elif not gates:
        status, headline = "unjudged", "No gate was set, so nothing was judged."
    elif unjudged:
        status, headline = "partial", "Every bound that was set holds."
    else:
        status, headline = "passed", "The only gate holds." if gates == 1 else f"All {gates} gates hold."
    if unjudged and gates:
        headline += f" NOT judged, only measured: {'; '.join(unjudged)}."
    ordered = tuple(sorted(checks, key=lambda check: check.passed))
    return Verdict(status, headline, ordered, unjudged, tuple(_missing(case)))


def _unjudged(case: Case) -> list[str]:
    """Titles of attacks without a gate on what they brought back."""
    found = []
    for document in case.attacks:
        names = [single.id for single in document.cases] or [""]
        for name, part in zip(names, document.parts, strict=True):
            if not any(_judges(gate, document.attack, name) for gate in document.gates):
                found.append(attack_title(part))
    return list(dict.fromkeys(found))


def _judges(gate: GateOutcome, attack: str, part: str) -> bool:
    """Whether a gate bounds what came back in this attack: nothing else about it can stand in for that."""
    name = gate.metric.removeprefix("gap.")
    start = f"{attack}.{part}." if part else f"{attack}."
    rest = name.removeprefix(start)
    # A bound on utility, on cost, on another model or on the model before the attack says nothing about that, and one
    # that lets any amount come back does not either.
    upwards = ">" in gate.gate
    bounding = upwards == name.endswith(".steps_to_recover") or "==" in gate.gate
    return bounding and name.startswith(start) and not rest.startswith(_BESIDE) and not name.endswith(_COSTS)


def _gates(case: Case, wording: Wording) -> list[Check]:
    found = [(gate, "Evaluation") for result in case.evaluations for gate in result.gates]
    found += [(gate, attack_title(result)) for result in case.attacks for gate in result.gates]
    found += [(gate, "Comparison") for gate in (case.comparison.gates if case.comparison else [])]
    return [
        Check(
            wording(gate.gate), True, wording(origin), _measured(gate), gate.passed, words=wording(in_words(gate.gate))
        )
        for gate, origin in found
    ]


def _measured(gate: GateOutcome) -> str:
    if gate.value is None:
        return "could not be measured"
    # The bound is told where the gate itself does not: gold-0.03 is no number.
    relative = gate.bound is not None and ("gold" in gate.gate or "reference" in gate.gate)
    return f"{gate.value:.4f}" + (f", bound {gate.bound:.4f}" if relative else "")


def _own_rules(case: Case, wording: Wording) -> list[Check]:
    run = case.unlearn or case.provenance
    if run is None:
        return []
    checks = _stop_rule(run, "Stop rule of the unlearning run")
    if isinstance(run, UnlearnDocument) and run.image_pass is not None:
        checks += _stop_rule(run.image_pass, "Stop rule of the vision tower")
    if run.decoder is not None and run.decoder.gate is not None:
        gate = run.decoder.gate
        measured = "every bound holds" if gate.met else wording("; ".join(gate.missed))
        checks.append(Check("Bounds of the decoder pass", False, "Unlearning", measured, gate.met))
    return checks


def _stop_rule(run: TowerDocument | ProvenanceDocument, title: str) -> list[Check]:
    if not run.stop_rule:
        return []
    # Runs wrote their last state before they kept the best one.
    written = -1 if run.stop_rule_written is None else run.stop_rule_written.index
    last = run.stop_rule[min(written, len(run.stop_rule) - 1)]
    places = ", ".join(
        f"{images} {'held-out' if held_out else 'trained-on'} {name}"
        for name, images, held_out in zip(("forget", "retain"), last.pictures, last.held_out, strict=True)
    )
    forgotten = (
        f"forget loss at {last.forget_ratio:.2f} of its start"
        if last.own is None
        else f"{last.own} forget images read as their own subject (before {last.base_own}, by chance up to "
        f"{last.own_allowed}), {last.agree} retain images as before"
    )
    measured = f"{forgotten}, retain drift {last.retain_drift:.3f} ({places} images)"
    return [Check(title, False, "Unlearning", measured, last.met)]


def _missing(case: Case) -> list[str]:
    if "model" not in case.weights:
        return ["Methods are compared; no document is about one model that is to go out."]
    found = []
    if not case.evaluations:
        found.append("Nothing was asked of the model: there is no evaluation.")
    else:
        roles = {facts.role for result in case.evaluations for facts in result.models}
        sets = {facts.name for result in case.evaluations for facts in result.sets}
        if "reference" not in roles:
            found.append("The base was not measured, so it is not shown what was lost and what was kept.")
        if "gold" not in roles:
            found.append("No gold model was measured, so it is not shown what a model that never knew would answer.")
        tasks = {metric.id.split(".")[1] for result in case.evaluations for metric in result.metrics}
        # Benchmarks ask without images in every one of their sets.
        sets |= {"text"} if tasks & {"qa", "gen", "cloze"} else set()
        for name, sentence in (
            ("forget", "Nothing was asked about what is to be forgotten."),
            ("retain", "Nothing was asked about what is to be kept."),
            ("text", "Nothing was asked without images."),
        ):
            if name not in sets:
                found.append(sentence)
    if not case.attacks:
        found.append("No attack was tried: whether the knowledge comes back was not measured.")
    if case.unlearn is None and case.provenance is None:
        found.append("There is no record of how the model was made.")
    if case.diff is None and case.unlearn is None:
        found.append("What changed in the weights was not counted.")
    return found
