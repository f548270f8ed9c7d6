"""The relearning attack: fine-tune on a part of what was forgotten, measure what comes back of the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from vkdsurgeon.attacks.adapters import adapter_versions, require_peft
from vkdsurgeon.attacks.finetune import attacking, fine_tune, scope_names
from vkdsurgeon.attacks.relearn_data import Material, Utility, gather_material
from vkdsurgeon.attacks.relearn_metrics import AttackRun, RelearnMetrics, find, known_ids
from vkdsurgeon.attacks.relearn_warnings import relearn_warnings
from vkdsurgeon.attacks.split import Split
from vkdsurgeon.attacks.target import Attack
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.config.relearn import Case, RelearnPlan
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.errors import Diverged
from vkdsurgeon.evaluation.gates import check_gates, judge
from vkdsurgeon.evaluation.models import Role, Roles, ask_each, roles_of
from vkdsurgeon.evaluation.score import Answered, Scoring, answer_records
from vkdsurgeon.evaluation.sets import set_facts
from vkdsurgeon.evaluation.silence import without_silence
from vkdsurgeon.model.device import enough_memory
from vkdsurgeon.model.device_map import check_held
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.results.evaluation import Metric, ModelFacts
from vkdsurgeon.results.relearn import RelearnCase, RelearnResult, RelearnSettings
from vkdsurgeon.training.events import Event, Listener, unheard


@dataclass(frozen=True, kw_only=True)
class Relearning(Attack):
    """Attacks on one model, and on gold alike; the reference is measured only.

    Attributes:
        forget: What was to be forgotten.
        heldout: Other views of the same subjects to measure on.
        retain: What utility is measured on; half of its images are the attacker's under protocol `benign`.
        benign: What the attacker has under `benign` instead.
        unrelated: What the attacker has under `unrelated`.
        plan: Which attacks.
        batch_size: Sequences per forward pass while measuring.
    """

    forget: NamedSet
    heldout: NamedSet | None = None
    retain: NamedSet | None = None
    benign: NamedSet | None = None
    unrelated: NamedSet | None = None
    plan: RelearnPlan = field(default_factory=RelearnPlan)
    batch_size: int = 32

    @property
    def roles(self) -> Roles:
        """The models to measure, the base last."""
        return roles_of(("model", self.model), ("gold", self.gold), ("reference", self.reference))

    @property
    def scoring(self) -> Scoring:
        """The settings for obtaining answers."""
        return Scoring(self.batch_size, self.plan.length_normalised, self.plan.max_new_tokens)


def relearn(attack: Relearning, listener: Listener = unheard) -> RelearnResult:
    """Attack a model, and gold alike, and report what came back beside what it cost.

    Args:
        attack: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included; nothing is written, the models on disk stay as they are.

    Raises:
        UserError: Sets, gates or models are wrong; sets and gates are checked before a model is loaded.
        SurgeryError: The GPU has too little memory.
    """
    started = time.perf_counter()
    plan, cases = attack.plan, attack.plan.cases
    material = gather_material(attack.forget, attack.heldout, attack.retain, attack.benign, attack.unrelated, plan)
    known = {
        case.id: known_ids(
            [split.measured for split in material.splits[case.id]],
            material.utility,
            gold=attack.gold is not None,
            reference=attack.reference is not None,
        )
        for case in cases
    }
    check_gates(attack.gates, [name for case in cases for each in known[case.id] for name in _names(each, case, cases)])
    if "llm" in plan.scope:
        require_peft()

    attack_runs: dict[Role, dict[str, list[AttackRun]]] = {}
    reference: dict[str, list[list[Answered]]] = {}

    def ask(role: Role, loaded: LoadedModel) -> None:
        if role != "reference":
            for scope in plan.scope:
                check_held(loaded.model, scope_names(loaded, scope, attack.tower, attack.projector), f"scope {scope}")
        asked = _Answers(attack, loaded, listener)
        asked.ask([record for splits in material.splits.values() for split in splits for record in split.measured])
        if role == "reference":
            reference.update(
                {name: [asked.ask(split.measured) for split in splits] for name, splits in material.splits.items()}
            )
        else:
            attack_runs[role] = {case.id: _attack(attack, asked, case, role, material) for case in cases}

    done = ask_each(attack, ask, dtype=plan.dtype, listener=listener)
    measured = [
        find(
            plan,
            attack_runs["model"][case.id],
            attack_runs["gold"][case.id] if "gold" in attack_runs else None,
            reference.get(case.id),
            material.utility,
        )
        for case in cases
    ]
    settings = [
        _settings(attack, case, material, done.first.places, attack_runs["model"][case.id][0].trained) for case in cases
    ]
    return _result(attack, material, settings, measured, done.models, started)


class _Answers:
    """The answers of a model before the attack; each question is asked once, however many attacks use it."""

    def __init__(self, attack: Relearning, loaded: LoadedModel, listener: Listener) -> None:
        self.attack, self.loaded, self.listener = attack, loaded, listener
        self._known: dict[int, Answered] = {}

    def ask(self, records: Sequence[Record]) -> list[Answered]:
        new = {id(record): record for record in records if id(record) not in self._known}
        if new:
            self._known |= zip(new, self.fresh(list(new.values())), strict=True)
        return [self._known[id(record)] for record in records]

    def fresh(self, records: Sequence[Record]) -> list[Answered]:
        """Ask the model as it is now."""
        return answer_records(self.loaded, records, self.attack.scoring, self.listener) if records else []


def _attack(attack: Relearning, asked: _Answers, case: Case, role: Role, material: Material) -> list[AttackRun]:
    """One attack on one model, once per seed; the model is as before afterwards."""
    return [
        _one_seed(attack, asked, case, role, split, material.utility, seed)
        for seed, split in zip(attack.plan.seeds, material.splits[case.id], strict=True)
    ]


def _one_seed(
    attack: Relearning, asked: _Answers, case: Case, role: Role, split: Split, utility: Utility, seed: int
) -> AttackRun:
    plan, loaded, listener = attack.plan, asked.loaded, asked.listener
    given = without_silence({"measured": asked.ask(split.measured), "utility": asked.ask(utility.records)})
    before, utility_before = given["measured"], given["utility"]
    attack_run = AttackRun(seed, split, before, utility_before)
    attack_run.measured(0, None, before)
    with attacking(
        loaded, case.scope, rank=plan.rank, seed=seed, tower=attack.tower, projector=attack.projector
    ) as parameters:
        attack_run.trained = sum(parameter.numel() for parameter in parameters)
        losses = fine_tune(
            loaded,
            parameters,
            split.shown,
            steps=plan.steps,
            lr=case.lr,
            batch_size=plan.batch_size,
            seed=seed,
        )
        short = (
            f" for an attacker who trains scope {case.scope} with {plan.batch_size} records a step; attack with a "
            "narrower scope, or with fewer records"
        )
        try:
            with enough_memory(short):
                for step, loss in enumerate(losses, start=1):
                    text = f"{role}: attack {case.id}, seed {seed}, step {step} of {plan.steps}"
                    facts = {"model": role, "case": case.id, "seed": seed, "step": step, "loss": loss}
                    listener(Event("attack", text, facts))
                    attack_run.trained_on.append(loss)
                    if step in plan.measured_steps:
                        attack_run.measured(step, loss, asked.fresh(split.measured))
        except Diverged:
            # Other attacks of the series, and gold, have their own numbers.
            attack_run.diverge(plan.measured_steps)
        else:
            attack_run.utility_after = asked.fresh(utility.records)
    return attack_run


def _result(
    attack: Relearning,
    material: Material,
    settings: Sequence[RelearnSettings],
    measured: Sequence[RelearnMetrics],
    facts: list[ModelFacts],
    started: float,
) -> RelearnResult:
    plan, cases = attack.plan, attack.plan.cases
    every: dict[str, Metric] = {}
    aliases: dict[str, float | None] = {}
    for case, found in zip(cases, measured, strict=True):
        for metric in found.metrics:
            names = _names(metric.id, case, cases)
            every[names[0]] = metric.model_copy(update={"id": names[0]})
            aliases |= dict.fromkeys(names, metric.value)
    warnings = []
    for case, found in zip(cases, measured, strict=True):
        own = relearn_warnings(
            found, material.utility, gold=attack.gold is not None, heldout=attack.heldout is not None
        )
        warnings += [text if len(cases) == 1 or text in own.common else f"{case.id}: {text}" for text in own.every]
    alone = measured[0] if len(cases) == 1 else None
    return RelearnResult(
        models=facts,
        sets=[set_facts(chosen, whole, attack.salt) for chosen, whole in material.used()],
        settings=settings[0] if alone else plan,
        ag_over=alone.ag_over if alone else [],
        metrics=list(every.values()),
        curve=alone.curve if alone else [],
        recovery=alone.recovery if alone else [],
        seeds=alone.seeds if alone else [],
        diverged=any("model" in found.diverged for found in measured),
        cases=[]
        if alone
        else [
            RelearnCase(
                id=case.id,
                settings=each,
                ag_over=found.ag_over,
                curve=found.curve,
                recovery=found.recovery,
                seeds=found.seeds,
                diverged="model" in found.diverged,
            )
            for case, each, found in zip(cases, settings, measured, strict=True)
        ],
        plan=plan,
        plan_digest=plan.digest,
        gates=judge(attack.gates, aliases),
        warnings=list(dict.fromkeys(warnings)),
        versions=versions() | adapter_versions() if "llm" in plan.scope else versions(),
        seconds=round(time.perf_counter() - started, 3),
    )


def _names(name: str, case: Case, cases: Sequence[Case]) -> tuple[str, ...]:
    """The ids of a case's metric, the one in the document first: short ones only where there is one case."""
    qualified = name.replace("relearn.", f"relearn.{case.id}.", 1)
    return (name, qualified) if len(cases) == 1 else (qualified,)


def _settings(attack: Relearning, case: Case, material: Material, device: str, trained: int) -> RelearnSettings:
    plan, split = attack.plan, material.splits[case.id][0]
    return RelearnSettings(
        protocol=case.protocol,
        scope=case.scope,
        fraction=case.fraction,
        steps=plan.steps,
        lr=case.lr,
        batch_size=plan.batch_size,
        seed=plan.seeds[0],
        seeds=list(plan.seeds),
        rank=plan.rank if case.scope == "llm" else None,
        limit=plan.limit,
        device=device,
        trained_parameters=trained,
        shown_records=len(split.shown),
        shown_subjects=len({record.subject for record in split.shown}),
        measured_records=len(split.measured),
        measured_subjects=len({record.subject for record in split.measured}),
        measured_on="heldout" if attack.heldout else "forget",
    )
