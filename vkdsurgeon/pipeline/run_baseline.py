"""`unlearn --method` from a request to a verified output directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from vkdsurgeon.baselines.base import MethodOutcome, Operable
from vkdsurgeon.baselines.baseline_run import MethodJob, MethodPlan, MethodPrepared, operate_method, prepare_method
from vkdsurgeon.baselines.examples import training_sets
from vkdsurgeon.baselines.output_mode import OutputJob, OutputPlan, OutputPrepared, operate_output, prepare_output
from vkdsurgeon.baselines.registry import BASELINES, Scope
from vkdsurgeon.checkpoint.environment import environment
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.output import check_links, output_claimed
from vkdsurgeon.checkpoint.provenance import free_record_name
from vkdsurgeon.checkpoint.write_provenance import salt_of, set_facts, write_recorded
from vkdsurgeon.config.baselines import BaselineRecipe
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.images import check_header
from vkdsurgeon.data.read import Given, records_given
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.request import UNTAGGED, RequestTag
from vkdsurgeon.data.samples import Sample, check_disjoint, samples_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.source import ModelSource
from vkdsurgeon.pipeline.result import Result, fields_of
from vkdsurgeon.training.events import Event, Listener, Step
from vkdsurgeon.training.saliency import layer_shares

SCHEMA = "vkdsurgeon/unlearn-method/1"


@dataclass(frozen=True, kw_only=True)
class MethodRequest(ModelSource):
    """`vkdsurgeon unlearn --method` as asked for; `out` None is a dry run.

    Attributes:
        method: One of `baselines.registry.BASELINES`, or `vkd` with an output loss in the recipe.
        scope: What may move; None for what the method's source trains.
        generic: Images of others to retain, in output mode alone.
        drop_stale: Leave out of the output what may hold the same weights once more.
        follow_links: Take links that leave the model for what they lead to.
        link_untouched: Make weight files that stay the same hard links to the model's.
        tag: The request behind the run, for the record.
    """

    forget: Given
    retain: Given | None
    out: Path | None
    method: str
    recipe: Recipe
    scope: Scope | None = None
    text: Given | None = None
    generic: Given | None = None
    drop_stale: bool = False
    follow_links: bool = False
    link_untouched: bool = False
    tag: RequestTag = UNTAGGED


class MethodResult(Result):
    """The result of `vkdsurgeon unlearn --method`; `model_validate_json` reads what `model_dump_json` wrote.

    Attributes:
        method: Its name.
        recipe: The effective settings.
        last: The last step; None without training.
        measured: Label-free figures of output mode.
    """

    plan: MethodPlan | OutputPlan
    method: str
    recipe: dict[str, Any]
    last: Step | None = None
    measured: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_document(cls, found: Any) -> Any:
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            return found
        fields, last = fields_of(found), found["last_step"]
        steps = fields["plan"]["steps"]
        if last is not None:
            values = {name: value for name, value in last.items() if name != "loss"}
            last = {"step": steps, "steps": steps, "loss": last["loss"], "values": values}
        return {**fields, "method": found["method"], "measured": found["measured"], "last": last}

    def as_dict(self) -> dict[str, Any]:
        """The document, for `--json`."""
        return self.document(
            SCHEMA,
            self.recipe,
            method=self.method,
            last_step=None if self.last is None else {"loss": self.last.loss, **self.last.values},
            measured=self.measured,
        )


def run_method(request: MethodRequest, listener: Listener) -> MethodResult:
    """Do what was asked, or raise and leave nothing behind.

    Raises:
        UserError: Wrong input; found before the model is loaded wherever that is possible.
        SurgeryError: Training or writing failed; nothing half-written stays.
    """
    inventory = take_inventory(request.model)
    check_links(inventory, request.follow_links)
    if request.out is None:
        return _run(request, listener)
    linked = inventory.shards if request.link_untouched else ()
    with output_claimed(inventory, request.out, [free_record_name(inventory)], linked=linked):
        return _run(request, listener)


def _run(request: MethodRequest, listener: Listener) -> MethodResult:
    listener(Event.stage("reading"))
    sets = _read(request)
    check_disjoint(sets.samples["forget"], [*sets.samples["retain"], *sets.samples["generic"]])
    prepared: MethodPrepared | OutputPrepared
    prepared = _baseline(request, sets) if request.method in BASELINES else _output_mode(request, sets)
    listener(Event("plan", subject=prepared.plan))
    planned = MethodResult(method=request.method, plan=prepared.plan, recipe=prepared.effective, seed=request.seed)
    if request.out is None:
        for sample in (sample for samples in sets.samples.values() for sample in samples):
            check_header(sample.path, where=sample.source)
        return planned

    if isinstance(prepared, MethodPrepared):
        outcome = operate_method(prepared, listener)
    else:
        outcome = operate_output(prepared, listener)
    facts = _facts(request, sets, prepared, outcome)
    listener(Event.stage("writing"))
    report = write_recorded(
        prepared.inventory,
        outcome.changes,
        request.out,
        facts,
        drop_stale=request.drop_stale,
        link_untouched=request.link_untouched,
    )
    return planned.model_copy(
        update={
            "out": request.out,
            "selected_elements": outcome.mask.count,
            "last": outcome.last,
            "measured": outcome.measured,
            "write": report,
            "seconds": {**outcome.seconds, "writing": report.seconds},
            "provenance": facts,
        }
    )


def _baseline(request: MethodRequest, sets: _Sets) -> MethodPrepared:
    if request.generic is not None:
        raise UserError(
            "generic images have no answers, and this method needs answers",
            where="`generic`",
            value=request.method,
            expected="`retain` records with questions and answers",
        )
    return prepare_method(
        MethodJob(
            method=request.method,
            training_sets=training_sets(sets.forget, sets.retain, sets.text),
            recipe=request.recipe.baseline or BaselineRecipe.model_validate({}),
            scope=request.scope,
            **request.source,
        )
    )


def _output_mode(request: MethodRequest, sets: _Sets) -> OutputPrepared:
    if request.text is not None or request.scope not in (None, Scope.visual):
        option = "`text`" if request.text is not None else "`scope`"
        raise UserError(
            "output mode trains only the vision tower and the projector, and does not use this",
            where=option,
            expected="neither `text` nor a `scope` other than visual",
            remedy="leave it out",
        )
    return prepare_output(
        OutputJob(
            forget=sets.samples["forget"],
            retain=[*sets.samples["retain"], *sets.samples["generic"]],
            # Retention looks at images alone.
            examples=training_sets(sets.forget, [], []).forget,
            recipe=request.recipe,
            **request.source,
        )
    )


@dataclass(frozen=True)
class _Sets:
    forget: list[Record]
    retain: list[Record]
    text: list[Record]
    samples: dict[str, list[Sample]]


def _read(request: MethodRequest) -> _Sets:
    forget = records_given(request.forget, role="forget")
    retain = [] if request.retain is None else records_given(request.retain, role="retain")
    text = [] if request.text is None else records_given(request.text, role="text")
    for record in text:
        if record.image is not None:
            raise UserError(
                "a record of the text set has an image",
                where=record.source,
                expected="questions without images",
                remedy="put images to keep into `retain`",
            )
    generic = [] if request.generic is None else records_given(request.generic, role="generic")
    samples = {
        "forget": samples_of(forget, role="forget"),
        "retain": samples_of(retain, role="retain") if retain else [],
        "generic": samples_of(generic, role="generic") if generic else [],
    }
    return _Sets(forget, retain, text, samples)


def _facts(request: MethodRequest, sets: _Sets, prepared: Operable, outcome: MethodOutcome) -> dict[str, Any]:
    salt = salt_of(request.seed, outcome.changes)
    inventory, chosen = prepared.inventory, outcome.mask.selected
    sizes = {name: inventory.tensors[disk].elements for name, disk in prepared.on_disk.items()}
    selected = {prepared.on_disk[name]: mask.count for name, mask in chosen.items()}
    language = _language_facts(selected, prepared.split.language)
    return {
        "request": asdict(request.tag),
        "method": prepared.title,
        "model_type": prepared.plan.model_type,
        "recipe": prepared.effective,
        "seed": request.seed,
        "device": str(request.device),
        "dtype": str(request.dtype).removeprefix("torch."),
        "environment": environment(request.device, prepared.plan.elements),
        "sets": set_facts(sets.samples, salt),
        "salt": salt.hex(),
        "tensors_with_selected_elements": sorted(outcome.changes),
        "stop_rule": [],
        "scope": prepared.plan.scope,
        "selected_elements": outcome.mask.count,
        "layers": [asdict(share) for share in layer_shares(outcome.mask, sizes, prepared.layer_of)],
        **({} if language is None else {"language": language}),
    }


def _language_facts(selected: Mapping[str, int], language: Sequence[str]) -> dict[str, Any] | None:
    """Which tensors of the language model may differ and by how many elements, for `diff --only-declared`.

    Args:
        selected: Tensor on disk -> selected elements.
        language: Names on disk of the language side.

    Returns:
        None where none of them may.
    """
    inside = {name: count for name, count in sorted(selected.items()) if name in set(language)}
    return {"selected_elements": sum(inside.values()), "tensors": inside} if inside else None
