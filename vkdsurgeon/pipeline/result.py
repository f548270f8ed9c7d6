"""The result of a run in feature mode, and the part that it shares with every other method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from vkdsurgeon.checkpoint.provenance import versions as versions_in_use
from vkdsurgeon.checkpoint.stage import WriteReport
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.decoder_pass.gate import DecoderVerdict
from vkdsurgeon.decoder_pass.plan import DecoderPlan
from vkdsurgeon.pipeline.words import describe_verdict
from vkdsurgeon.results.document import RunDocument
from vkdsurgeon.results.judged import Judged
from vkdsurgeon.vision_pass.forecast import Forecast
from vkdsurgeon.vision_pass.plan import Plan
from vkdsurgeon.vision_pass.stop_rule import Choice, Verdict

SCHEMA = "vkdsurgeon/unlearn/1"


class Result(Judged, RunDocument):
    """The result of a run of any method; `write` is None after a dry run.

    Attributes:
        plan: What was planned.
        seed: The seed.
        out: Directory of the patched checkpoint.
        selected_elements: Number of elements that the saliency mask selected.
        write: Files and elements that were written.
        seconds: Wall time per stage.
        provenance: Content of the record beside the weights, such as salted digests of the sets and versions.
        versions: The libraries that it ran with.
    """

    plan: Any
    seed: int
    out: Path | None = None
    selected_elements: int = 0
    write: WriteReport | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=versions_in_use)

    @property
    def failures(self) -> list[str]:
        """One sentence per bound of the run itself that was missed."""
        return []

    def document(self, schema: str, recipe: dict[str, Any], **own: Any) -> dict[str, Any]:
        """The part of the JSON document that all methods share, with the method's own keys.

        Args:
            schema: JSON schema of the document.
            recipe: The effective settings.
            own: What else.
        """
        return {
            "schema": schema,
            "dry_run": self.write is None,
            "out": None if self.out is None else str(self.out),
            "seed": self.seed,
            "versions": self.versions,
            "sets": self.provenance.get("sets"),
            "salt": self.provenance.get("salt"),
            "plan": self.plan.as_dict(),
            "recipe": recipe,
            "selected_elements": self.selected_elements or None,
            "layers": self.provenance.get("layers"),
            **own,
            "written": None if self.write is None else asdict(self.write),
            "seconds": {key: round(value, 3) for key, value in self.seconds.items()},
        }


def fields_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Result`, from the document that `Result.document` wrote; `provenance` in part, as it tells it."""
    plan = dict(document["plan"])
    return {
        "plan": plan,
        "recipe": document["recipe"],
        "seed": document["seed"],
        "out": document["out"],
        "selected_elements": document["selected_elements"] or 0,
        "write": document["written"],
        "seconds": document["seconds"],
        "provenance": {name: document[name] for name in ("sets", "salt", "layers") if document[name] is not None},
        "versions": document["versions"],
    }


class UnlearnResult(Result):
    """The result of `vkdsurgeon unlearn` in feature mode; `model_validate_json` reads what `model_dump_json` wrote.

    Stand-ins and parts of the provenance are not saved, so they are not read back.

    Attributes:
        recipe: The effective recipe.
        forecast: Time and disk that the run would take; after a dry run only.
        verdicts: The stop rule's verdicts, one per schedule.
        choice: The verdict that the written weights belong to; None after a dry run.
        stand_ins: Forget subject -> the retain identities that its target was mixed from. These are names, so they are
            kept in memory only, and never saved.
        journal: Journal to continue the run from; None if the run is complete.
        decoder_plan: Plan of the decoder pass; None without one.
        decoder_selected_elements: Elements of the language model that its mask selected.
        decoder_verdict: Outcome of its gate.
        image_pass: The result of the vision tower, where this is that of the audio tower of the same run.
    """

    plan: Plan
    recipe: Recipe
    forecast: Forecast | None = None
    verdicts: tuple[Verdict, ...] = ()
    choice: Choice | None = None
    stand_ins: dict[str, tuple[str, ...]] = Field(default_factory=dict, repr=False)
    journal: Path | None = None
    decoder_plan: DecoderPlan | None = None
    decoder_selected_elements: int = 0
    decoder_verdict: DecoderVerdict | None = None
    image_pass: UnlearnResult | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_document(cls, found: Any) -> Any:
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            return found
        fields = fields_of(found)
        # The total follows from the parts.
        memory = {name: value for name, value in fields["plan"].pop("memory_mib").items() if name != "total"}
        fields["plan"]["memory"] = memory
        decoder = found["decoder"] or {}
        gate = decoder.get("gate")
        return {
            **fields,
            "forecast": found.get("forecast"),
            "verdicts": found["stop_rule"],
            "choice": found["stop_rule_written"],
            "journal": found["journal"],
            "decoder_plan": decoder.get("plan"),
            "decoder_selected_elements": decoder.get("selected_elements") or 0,
            "decoder_verdict": gate and {name: value for name, value in gate.items() if name != "met"},
            "image_pass": found.get("image_pass"),
        }

    @property
    def verdict(self) -> Verdict | None:
        """The stop rule's verdict on what is written."""
        return None if self.choice is None else self.verdicts[self.choice.index]

    @property
    def failures(self) -> list[str]:
        """What the stop rule and the gate of the decoder pass found missing; empty after a dry run."""
        found = [] if self.verdict is None or self.verdict.met else [f"stop rule: {describe_verdict(self.verdict)}"]
        if self.decoder_verdict is not None:
            found += [f"decoder pass: {missed}" for missed in self.decoder_verdict.missed]
        if self.image_pass is not None:
            found = [f"images: {each}" for each in self.image_pass.failures] + [f"clips: {each}" for each in found]
        return found

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return self.document(
            SCHEMA,
            self.recipe.model_dump(),
            forecast=None if self.forecast is None else asdict(self.forecast),
            stop_rule=[asdict(verdict) for verdict in self.verdicts],
            stop_rule_written=None if self.choice is None else asdict(self.choice),
            journal=None if self.journal is None else str(self.journal),
            decoder=self._decoder(),
            image_pass=None if self.image_pass is None else self.image_pass.as_dict(),
        )

    def _decoder(self) -> dict[str, Any] | None:
        if self.decoder_plan is None:
            return None
        verdict = self.decoder_verdict
        return {
            "plan": self.decoder_plan.as_dict(),
            "selected_elements": self.decoder_selected_elements or None,
            "gate": None if verdict is None else {**asdict(verdict), "met": verdict.met},
        }
