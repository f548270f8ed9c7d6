"""`unlearn --method` from a request to a verified output directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.output import check_output
from vkdsurgeon.checkpoint.provenance import free_record_name, provenance_record, versions
from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.checkpoint.stage import WriteReport, write_patched
from vkdsurgeon.data.pictures import Picture, check_disjoint, pictures_of
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.methods.exercises import Material, material
from vkdsurgeon.methods.loop import MethodStep
from vkdsurgeon.methods.names import BASELINES, Scope
from vkdsurgeon.methods.operation import MethodJob, MethodPlan, MethodPrepared, operate_method, prepare_method
from vkdsurgeon.methods.output_mode import OutputJob, OutputPlan, operate_output, prepare_output
from vkdsurgeon.methods.record import language_facts, layer_facts, salt_of, set_facts
from vkdsurgeon.recipe import BaselineRecipe, Recipe

SCHEMA = "vkdsurgeon/unlearn-method/1"


class Listener(Protocol):
    """Hears how a run goes."""

    def method_planned(self, plan: MethodPlan | OutputPlan) -> None:
        """The plan is known; no weight was read yet."""

    def stage(self, name: str) -> None:
        """A stage starts."""

    def method_step(self, step: MethodStep) -> None:
        """A training step is done."""


@dataclass(frozen=True)
class MethodRequest:
    """`vkdsurgeon unlearn --method` as asked for; `out` None is a dry run.

    Attributes:
        method: One of `names.BASELINES`, or `vkd` with an output loss in the recipe.
        scope: What may move; None for what the method's source trains.
        generic: Pictures of others to retain, in output mode alone.
    """

    model: Path
    forget: Path
    retain: Path | None
    out: Path | None
    method: str
    recipe: Recipe
    seed: int
    device: torch.device
    dtype: torch.dtype
    scope: Scope | None = None
    text: Path | None = None
    generic: Path | None = None
    tower: str | None = None
    projector: Sequence[str] | None = None


@dataclass(frozen=True)
class MethodResult:
    """What a run did; `write` is None after a dry run.

    Attributes:
        method: Its name.
        plan: What was planned.
        recipe: The effective settings.
        seed: The seed.
        out: Where the patched checkpoint lies.
        selected_elements: Elements that the mask let move.
        last: The last step; None without training.
        measured: Label-free figures of output mode.
        write: What was written.
        seconds: Wall time per stage.
        provenance: What the record beside the weights says.
    """

    method: str
    plan: MethodPlan | OutputPlan
    recipe: dict[str, Any]
    seed: int
    out: Path | None = None
    selected_elements: int = 0
    last: MethodStep | None = None
    measured: dict[str, float] = field(default_factory=dict)
    write: WriteReport | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "schema": SCHEMA,
            "method": self.method,
            "dry_run": self.write is None,
            "out": None if self.out is None else str(self.out),
            "seed": self.seed,
            "versions": versions(),
            "sets": self.provenance.get("sets"),
            "salt": self.provenance.get("salt"),
            "plan": self.plan.as_dict(),
            "recipe": self.recipe,
            "selected_elements": self.selected_elements or None,
            "layers": self.provenance.get("layers"),
            "last_step": None if self.last is None else {"loss": self.last.loss, **self.last.terms},
            "measured": self.measured,
            "written": None if self.write is None else asdict(self.write),
            "seconds": {key: round(value, 3) for key, value in self.seconds.items()},
        }


def run_method(request: MethodRequest, listener: Listener) -> MethodResult:
    """Do what was asked, or raise and leave nothing behind.

    Raises:
        UserError: Wrong input; found before the model is loaded wherever that is possible.
        SurgeryError: Training or writing failed; nothing half-written stays.
    """
    if request.out is not None:
        check_output(take_inventory(request.model), request.out)
    sets = _read(request)
    check_disjoint(sets.pictures["forget"], [*sets.pictures["retain"], *sets.pictures["generic"]])
    if request.method in BASELINES:
        return _baseline(request, sets, material(sets.forget, sets.retain, sets.text), listener)
    # Retention looks at pictures alone.
    return _output_mode(request, sets, material(sets.forget, [], []), listener)


def _baseline(request: MethodRequest, sets: _Sets, exercises: Material, listener: Listener) -> MethodResult:
    recipe = request.recipe.baseline or BaselineRecipe.model_validate({})
    if request.generic is not None:
        raise UserError(
            "pictures without answers, which this method cannot retain",
            where="--generic",
            value=request.method,
            expected="--retain records with questions and answers",
        )
    job = MethodJob(
        model=request.model,
        method=request.method,
        material=exercises,
        recipe=recipe,
        scope=request.scope,
        seed=request.seed,
        device=request.device,
        dtype=request.dtype,
        tower=request.tower,
        projector=request.projector,
    )
    prepared = prepare_method(job)
    listener.method_planned(prepared.plan)
    effective = {"baseline": recipe.model_dump() | {"steps": prepared.plan.steps, "step_size": prepared.plan.step_size}}
    planned = MethodResult(request.method, prepared.plan, effective, request.seed)
    if request.out is None:
        return planned
    outcome = operate_method(prepared, _hearing(listener))
    selected = {name: chosen.count for name, chosen in outcome.mask.selected.items()}
    facts = _facts(request, sets, outcome.changes) | {
        "method": f"{request.method}: {job.facts.title}",
        "model_type": prepared.plan.model_type,
        "recipe": effective,
        "scope": prepared.plan.scope,
        "selected_elements": outcome.mask.count,
        "layers": _layers(prepared, selected),
    }
    language = language_facts(outcome.selected, prepared.split.language)
    facts |= {} if language is None else {"language": language}
    return _written(
        replace(planned, selected_elements=outcome.mask.count, last=outcome.last, seconds=outcome.seconds),
        request, prepared.inventory, outcome.changes, facts, listener,
    )  # fmt: skip


def _output_mode(request: MethodRequest, sets: _Sets, exercises: Material, listener: Listener) -> MethodResult:
    if request.text is not None or request.scope not in (None, Scope.visual):
        option = "--text" if request.text is not None else "--scope"
        raise UserError(
            "output mode trains tower and projector alone and has no use for this",
            where=option,
            expected="neither --text nor a --scope other than visual",
            remedy="leave it out",
        )
    job = OutputJob(
        model=request.model,
        forget=sets.pictures["forget"],
        retain=[*sets.pictures["retain"], *sets.pictures["generic"]],
        exercises=exercises.forget,
        recipe=request.recipe,
        seed=request.seed,
        device=request.device,
        dtype=request.dtype,
        tower=request.tower,
        projector=request.projector,
    )
    prepared = prepare_output(job)
    listener.method_planned(prepared.plan)
    planned = MethodResult(request.method, prepared.plan, prepared.recipe.model_dump(), request.seed)
    if request.out is None:
        return planned
    outcome = operate_output(prepared, _hearing(listener))
    selected = {name: chosen.count for name, chosen in outcome.mask.selected.items()}
    stack = prepared.visual.stack
    sizes = {name: value.numel() for name, value in stack.visual_parameters().items()}
    facts = _facts(request, sets, outcome.changes) | {
        "method": f"visual knowledge distillation, output mode ({prepared.plan.output_loss} through the frozen "
        "language model)",
        "model_type": prepared.plan.model_type,
        "recipe": prepared.recipe.model_dump(),
        "selected_elements": outcome.mask.count,
        "layers": layer_facts(selected, sizes, {name: stack.layer_of(name) for name in sizes}),
    }
    return _written(
        replace(planned, selected_elements=outcome.mask.count, last=outcome.last, seconds=outcome.seconds,
                measured=outcome.measured),
        request, stack.inventory, outcome.changes, facts, listener,
    )  # fmt: skip


@dataclass(frozen=True)
class _Sets:
    forget: list[Record]
    retain: list[Record]
    text: list[Record]
    pictures: dict[str, list[Picture]]


def _read(request: MethodRequest) -> _Sets:
    forget = read_records(request.forget, role="forget")
    retain = [] if request.retain is None else read_records(request.retain, role="retain")
    text = [] if request.text is None else read_records(request.text, role="text")
    for record in text:
        if record.image is not None:
            raise UserError(
                "a record of the text set has a picture",
                where=record.source,
                expected="questions without pictures",
                remedy="pictures to keep belong into --retain",
            )
    generic = [] if request.generic is None else read_records(request.generic, role="generic")
    pictures = {
        "forget": pictures_of(forget, role="forget"),
        "retain": pictures_of(retain, role="retain") if retain else [],
        "generic": pictures_of(generic, role="generic") if generic else [],
    }
    return _Sets(forget, retain, text, pictures)


def _facts(request: MethodRequest, sets: _Sets, changes: Mapping[str, Tensor]) -> dict[str, Any]:
    salt = salt_of(request.seed, changes)
    return {
        "method": request.method,
        "model_type": "",
        "recipe": {},
        "seed": request.seed,
        "device": str(request.device),
        "dtype": str(request.dtype).removeprefix("torch."),
        "sets": set_facts(sets.pictures, salt),
        "salt": salt.hex(),
        "tensors_with_selected_elements": sorted(changes),
        "stop_rule": [],
    }


def _layers(prepared: MethodPrepared, selected: Mapping[str, int]) -> list[dict[str, Any]]:
    weights = prepared.weights
    paths = (*weights.tower_layers, *(weights.decoder.layers if weights.decoder else ()))
    sizes = {name: prepared.inventory.tensors[disk].elements for name, disk in weights.on_disk.items()}
    layer_of = {
        name: next((path for path in paths if name.startswith(f"{path}.")), _part_of(prepared.split, name))
        for name in sizes
    }
    return layer_facts(selected, sizes, layer_of)


def _part_of(split: Split, name: str) -> str:
    return "tower" if name in split.placement.tower_parameters else "projector"


def _hearing(listener: Listener) -> Any:
    def heard(stage: str, event: MethodStep | None) -> None:
        if event is None:
            listener.stage(stage)
        else:
            listener.method_step(event)

    return heard


def _written(
    result: MethodResult,
    request: MethodRequest,
    inventory: Inventory,
    changes: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    listener: Listener,
) -> MethodResult:
    assert request.out is not None
    listener.stage("writing")
    report = write_patched(
        inventory,
        changes,
        request.out,
        extra_files={
            free_record_name(inventory): lambda digest: provenance_record({**facts, "weights_digest": digest})
        },
    )
    return replace(
        result,
        out=request.out,
        write=report,
        seconds={**result.seconds, "writing": report.seconds},
        provenance=dict(facts),
    )
