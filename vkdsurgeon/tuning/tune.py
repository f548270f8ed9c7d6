"""`vkdsurgeon tune` from a request to a written front."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from vkdsurgeon.checkpoint.provenance import set_digest
from vkdsurgeon.config.shard import Shard
from vkdsurgeon.data.samples import Sample, check_disjoint, records_digest, samples_of
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.directories import scratch
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.pipeline.sets import assemble
from vkdsurgeon.training.events import Event, Listener
from vkdsurgeon.tuning.identity_certainty import SURE
from vkdsurgeon.tuning.objective import FORGET, OBJECTIVES, RETAIN, ROBUST, Measured, TrialRunner
from vkdsurgeon.tuning.output import write
from vkdsurgeon.tuning.pick import FORGET_RATE, Rule
from vkdsurgeon.tuning.relearning_proxy import Attacker
from vkdsurgeon.tuning.result import Attempt, TuneResult, pareto_front
from vkdsurgeon.tuning.sampler import changes_of, draws_of, search, starting_points
from vkdsurgeon.tuning.space import Space, recipe_at
from vkdsurgeon.tuning.splits import TrialSets, trial_sets
from vkdsurgeon.tuning.storage import DRAW, REASON, SHARD, UNTOUCHED, check_folder, finished, opened, take_over
from vkdsurgeon.tuning.validation_metrics import Answers, ValidationRecords
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.teacher import visual_digest

NO_DECODER = (
    "the recipe has a decoder pass; the trials leave it out, and the recipes that are written keep its settings as "
    "they are"
)


@dataclass(frozen=True)
class TuneRequest:
    """`vkdsurgeon tune` as asked for.

    Attributes:
        unlearn: Model, sets, seed, device, and the recipe that the search starts from; its `out` is not used.
        out: The directory of journal, front and document.
        space: What may vary.
        trials: Finished trials in all.
        minutes: No trial starts later than so many minutes after the command; None for no bound.
        resume: Go on with the trials that `out` holds.
        rule: What to pick; None for nothing.
        validation: Records to measure forgetting and retention on; None for label-free objectives.
        attacker: Simulated after every trial.
        shard: The share of the trials that is this search's; None for all.
        join: Directories of shards, whose finished trials count.
    """

    unlearn: Request
    out: Path
    space: Space
    trials: int
    minutes: float | None = None
    resume: bool = False
    rule: Rule | None = None
    validation: ValidationRecords | None = None
    attacker: Attacker = field(default_factory=Attacker)
    shard: Shard | None = None
    join: Sequence[Path] = ()


def tune(request: TuneRequest, listener: Listener) -> TuneResult:
    """Search, and write what was found.

    Raises:
        UserError: Wrong input, other inputs than those of the trials that are to be continued, or a start recipe that
            cannot be run; found before anything is trained wherever that is possible.
        SurgeryError: No trial came to a result.
    """
    started = time.monotonic()
    if request.shard is not None and request.join:
        raise UserError("a shard joins nothing", where="`join`", remedy="join the shards in a directory of its own")
    if request.out.resolve() in (each.resolve() for each in request.join):
        raise UserError(
            "a search does not join itself",
            where="`join`",
            value=str(request.out),
            expected="other directories than the output",
            remedy="leave it out: `resume` keeps the trials that are in the output already",
        )
    check_folder(request.out, request.resume, request.unlearn.model)
    starting_points(request.space, request.unlearn.recipe)
    if request.validation is not None:
        request.validation.check()
    with scratch() as folder:
        job = assemble(request.unlearn, folder, listener)
        check_disjoint(job.forget, [*job.retain, *job.generic])
        sets = trial_sets(job)
        answers = _answers(request)
        runner = TrialRunner(sets, request.attacker, answers)
        warnings = [*_warnings(request, sets, job), *runner.prepared.plan.warnings]
        for text in warnings:
            listener(Event.warning(text))
        objectives = _objectives(request, sets, runner)
        inputs = _inputs(request, job, runner, objectives)
        # As many as `unlearn` would take on the whole forget set.
        derived = request.unlearn.recipe.fitted(len(job.forget)).planned_steps
        with opened(request.out, inputs) as study:
            draws = draws_of(request.trials, request.shard)
            take_over(study, request.join, inputs)
            untouched = _untouched(study, runner, listener)

            def heard(event: Event) -> None:
                if event.kind in ("stage", "step"):
                    listener(event)

            def described(trial: FrozenTrial) -> None:
                attempt = _attempt(trial, len(finished(study)) - 1, request, derived)
                listener(Event("trial", facts={"trials": len(draws)}, subject=attempt))

            search(
                study,
                request.space,
                request.unlearn.recipe,
                derived,
                lambda recipe: runner.run(_as_planned(recipe, derived), heard),
                draws=draws,
                minutes=request.minutes,
                seed=request.unlearn.seed,
                heard=described,
                started=started,
            )
            attempts = tuple(_attempt(trial, number, request, derived) for number, trial in enumerate(finished(study)))
            result = _conclude(request, attempts, inputs, objectives, untouched, warnings, started)
            write(result, request.out)
    return result


def _conclude(
    request: TuneRequest,
    attempts: tuple[Attempt, ...],
    inputs: Mapping[str, Any],
    objectives: Mapping[str, Mapping[str, Any]],
    untouched: Mapping[str, Any],
    warnings: Sequence[str],
    started: float,
) -> TuneResult:
    front = pareto_front(attempts)
    if not front:
        raise SurgeryError(f"all {len(attempts)} trials failed; the first one: {attempts[0].reason}")
    default = _bounds(attempts[0], objectives)
    chosen = None if request.rule is None else request.rule.pick([each.candidate for each in front], default)
    return TuneResult(
        inputs=inputs,
        space=request.space,
        objectives=objectives,
        untouched=untouched,
        attempts=attempts,
        front=front,
        rule=None if request.rule is None else request.rule.name,
        picked=None if chosen is None else attempts[chosen.trial],
        warnings=tuple(warnings),
        seconds=time.monotonic() - started,
    )


def _bounds(default: Attempt, objectives: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Bounds on a member's objectives: the start recipe's values, but never below chance."""
    if default.reason is not None:
        return {}
    # Below chance nothing is left to read, and less of it is no better.
    floors = {name: float(facts.get("chance", 0.0)) for name, facts in objectives.items()}
    floors[FORGET_RATE] = floors[FORGET]
    return {name: max(value, floors.get(name, value)) for name, value in default.candidate.values.items()}


def _attempt(trial: FrozenTrial, number: int, request: TuneRequest, derived: int) -> Attempt:
    recipe = request.unlearn.recipe
    values = dict(zip(OBJECTIVES, trial.values, strict=True)) if trial.values else {}
    facts = {key: value for key, value in trial.user_attrs.items() if key not in (REASON, DRAW)}
    return Attempt(
        number=number,
        changes=changes_of(trial, recipe, request.space),
        recipe=recipe_at(recipe, trial.params, request.space, derived),
        values=values,
        facts=facts,
        reason=trial.user_attrs.get(REASON),
    )


def _as_planned(recipe: Any, derived: int) -> Any:
    # Trials see fewer images than `unlearn` will, and are to take as many steps.
    return recipe if recipe.steps is not None else recipe.model_copy(update={"steps": derived})


def _answers(request: TuneRequest) -> Answers | None:
    if request.validation is None:
        return None
    dtype = str(request.unlearn.dtype).removeprefix("torch.")
    return Answers(request.unlearn.model, request.validation, device=str(request.unlearn.device), dtype=dtype)


def _untouched(study: optuna.Study, runner: TrialRunner, listener: Listener) -> dict[str, Any]:
    known = study.user_attrs.get(UNTOUCHED)
    if known is None:
        listener(Event.stage("untouched model"))
        measured: Measured = runner.untouched()
        known = {name: round(value, 6) for name, value in {**measured.parts, **measured.values}.items()}
        study.set_user_attr(UNTOUCHED, known)
    return dict(known)


def _warnings(request: TuneRequest, sets: TrialSets, job: Job) -> list[str]:
    found = []
    if not sets.forget_held_out:
        found.append(
            "no subject of the forget set has four images, so forgetting is measured on what trials train on: that "
            "flatters recipes that fit images instead of people"
        )
    if sets.keep_held_out == "nothing":
        found.append(
            "the kept set names fewer than eight subjects and none has four images, so retention is measured on what "
            "trials train on"
        )
    if request.unlearn.recipe.decoder is not None:
        found.append(NO_DECODER)
    if request.validation is not None:
        trained = {sample.digest for sample in [*job.forget, *job.retain, *job.generic]}
        records = [record for record in (*request.validation.forget, *request.validation.retain) if record.media]
        shared = [] if not records else _shared(samples_of(records, role="validation"), trained)
        if shared:
            found.append(
                f"{len(shared)} images of the validation records are in the sets that trials train on, too: give "
                "other views"
            )
    return found


def _shared(samples: Sequence[Sample], trained: set[str]) -> list[Sample]:
    return [sample for sample in samples if sample.digest in trained]


def _objectives(request: TuneRequest, sets: TrialSets, runner: TrialRunner) -> dict[str, dict[str, Any]]:
    """Descriptions of the three objectives, in words and numbers."""
    attacker = request.attacker
    forget = f"{len(sets.forget)} {'held-out' if sets.forget_held_out else 'trained-on'} forget images"
    keep = {
        "subjects": "images of held-out subjects",
        "pictures": "held-out images of trained subjects",
        "nothing": "trained-on images",
    }[sets.keep_held_out]
    identities = runner.label_free.identities
    chance = round(1 / identities, 4)
    reads = (
        f"probability that a nearest-centroid reader of the original features ({identities} subjects, "
        f"{100 * SURE:.0f} % sure of them) gives to the right subject, mean over {forget}"
    )
    found: dict[str, dict[str, Any]] = {
        FORGET: {"what": reads, "measured": "label-free", "chance": chance, "pictures": len(sets.forget)},
        RETAIN: {
            "what": f"squared change of the features over their power, {len(sets.keep)} kept {keep}, plus the same "
            f"along views on {forget}",
            "measured": "label-free",
            "pictures": len(sets.keep),
        },
        ROBUST: {
            "what": f"the reader's probability under attack, mean over {attacker.steps} steps that pull the features "
            f"of {len(sets.job.forget)} forget images back to the original's, mean over {forget}",
            "measured": "label-free",
            "chance": chance,
            "pictures": len(sets.forget),
            "attacker": attacker.as_dict(),
        },
    }
    if request.validation is not None:
        records = request.validation
        found[FORGET] = {
            "what": "rate of right answers to the validation questions about what is to be forgotten",
            "measured": "validation records, with the language model",
            "chance": round(records.chance, 4),
            "records": len(records.forget),
        }
        found[RETAIN] = {
            "what": "rate of right answers lost on the validation records to keep, plus that on general questions "
            "about forget images",
            "measured": "validation records, with the language model",
            "records": len(records.retain),
        }
    return found


def _inputs(
    request: TuneRequest, job: Job, runner: TrialRunner, objectives: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Everything that trials depend on; runs with equal inputs may share a journal."""
    digest = visual_digest(runner.stack)
    # Told beside the digests of the sets, and the same whenever the search is continued.
    salt = hashlib.sha256(f"{job.seed} {digest}".encode()).digest()[:16]
    sets = {"forget": job.forget, "retain": job.retain, "generic": job.generic}
    found: dict[str, Any] = {
        "model": digest,
        "seed": job.seed,
        "salt": salt.hex(),
        "dtype": runner.stack.precision,
        "recipe": request.unlearn.recipe.model_dump(),
        "space": request.space.as_dict(),
        "objectives": {name: facts["measured"] for name, facts in objectives.items()},
        "attacker": request.attacker.as_dict(),
        **({} if request.shard is None else {SHARD: str(request.shard)}),
    }
    for name, samples in sets.items():
        # Who is on an image decides about targets, so the labels count; the salt keeps them untold.
        labelled = (f"{sample.digest} {sample.subject}" for sample in samples)
        found[f"{name} set"] = {"pictures": len(samples), "digest": set_digest(labelled, salt)}
    if request.validation is not None:
        for name, records in (("forget", request.validation.forget), ("retain", request.validation.retain)):
            found[f"validation {name} set"] = {"records": len(records), "digest": records_digest(records, salt)}
    return found
