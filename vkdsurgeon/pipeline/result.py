"""What a run says about itself: feature mode whole, and what it has in common with every other method."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.checkpoint.stage import WriteReport
from vkdsurgeon.config import Recipe
from vkdsurgeon.decoder_pass.gate import DecoderVerdict
from vkdsurgeon.decoder_pass.plan import DecoderPlan
from vkdsurgeon.vision_pass.plan import Plan
from vkdsurgeon.vision_pass.stop_rule import Choice, Verdict

SCHEMA = "vkdsurgeon/unlearn/1"


class Planned(Protocol):
    """What was planned."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run of any method did; `write` is None after a dry run.

    Attributes:
        plan: What was planned.
        seed: The seed.
        out: Where the patched checkpoint lies.
        selected_elements: Elements the mask let move.
        write: What was written.
        seconds: Wall time per stage.
        provenance: What the record beside the weights says, salted digests of the sets and versions among it.
    """

    plan: Planned
    seed: int
    out: Path | None = None
    selected_elements: int = 0
    write: WriteReport | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def document(self, schema: str, recipe: dict[str, Any], **own: Any) -> dict[str, Any]:
        """What every method tells for `--json`, with what this one tells besides.

        Args:
            schema: Of the document.
            recipe: The effective settings.
            own: What else.
        """
        return {
            "schema": schema,
            "dry_run": self.write is None,
            "out": None if self.out is None else str(self.out),
            "seed": self.seed,
            "versions": versions(),
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


@dataclass(frozen=True, kw_only=True)
class UnlearnResult(Result):
    """The result of `vkdsurgeon unlearn` in feature mode.

    Attributes:
        recipe: The effective recipe.
        verdicts: The stop rule's verdicts, one per schedule.
        choice: The verdict that the written weights belong to; None after a dry run.
        journal: Where the run can be gone on with; None where it is done.
        decoder_plan: What was planned for the decoder pass; None without one.
        decoder_selected_elements: Elements of W that its mask let move.
        decoder_verdict: Its gate.
    """

    plan: Plan
    recipe: Recipe
    verdicts: tuple[Verdict, ...] = ()
    choice: Choice | None = None
    journal: Path | None = None
    decoder_plan: DecoderPlan | None = None
    decoder_selected_elements: int = 0
    decoder_verdict: DecoderVerdict | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The stop rule's verdict on what is written."""
        return None if self.choice is None else self.verdicts[self.choice.index]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return self.document(
            SCHEMA,
            self.recipe.model_dump(),
            stop_rule=[asdict(verdict) for verdict in self.verdicts],
            stop_rule_written=None if self.choice is None else asdict(self.choice),
            journal=None if self.journal is None else str(self.journal),
            decoder=self._decoder(),
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
