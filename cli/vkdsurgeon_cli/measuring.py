"""What commands that measure have in common: their options, their sets and gates, and how a result leaves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from vkdsurgeon_cli.command import ResultUnwritten
from vkdsurgeon_cli.options import (
    BaseOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    GateOption,
    GoldOption,
    MaxMemoryOption,
    OutputOption,
    SeedOption,
    TablePrinting,
)

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import RenderableType

    from vkdsurgeon.results.attacks import AttackResult
    from vkdsurgeon.results.evaluation import EvalResult
    from vkdsurgeon.results.relearn import RelearnResult, RestoreResult
    from vkdsurgeon_cli.output import Output
    from vkdsurgeon_cli.tables import Sheet

SaltOption = Annotated[
    str | None, typer.Option("--salt", metavar="TEXT", help="Salt for the digests of the sets, against guessing.")
]
NormalisedOption = Annotated[
    bool, typer.Option("--length-normalised", help="Divide an option's log-likelihood by its token count.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Largest number of questions per set.")
]


@dataclass(frozen=True, kw_only=True)
class ComparedModels:
    """The models that are measured beside the given one, and how all of them run."""

    base: BaseOption = None
    gold: GoldOption = None
    device: DeviceOption = "auto"
    device_map: DeviceMapOption = None
    max_memory: MaxMemoryOption = None
    dtype: DtypeOption = "auto"
    panel: ClassVar[str] = "Models and device"


@dataclass(frozen=True, kw_only=True)
class Results(TablePrinting):
    """Where a measurement goes, and what it must satisfy."""

    gate: GateOption = None
    output: OutputOption = None
    salt: SaltOption = None
    panel: ClassVar[str] = "Output and gates"

    def asked(self) -> dict[str, Any]:
        """As the API takes it; also refuses an output that could not be written, before anything costs time.

        Raises:
            UserError: The output cannot be written.
        """
        from vkdsurgeon.results.evaluation import check_writable

        if self.output is not None:
            check_writable(self.output)
        return {"gates": self.gate or [], "salt": self.salt or ""}

    def conclude(
        self,
        result: EvalResult | RelearnResult | RestoreResult | AttackResult,
        sheets: Callable[[], list[Sheet]],
    ) -> None:
        """Write and print a measurement, then end with the gates that failed.

        Raises:
            ResultUnwritten: The file could not be written; what was measured stands on stdout.
            GateFailed: A gate failed.
        """
        from vkdsurgeon_cli.tables import gate_sheet, stack

        for warning in result.warnings:
            self.sink.warn(warning)

        def tables() -> RenderableType:
            gates = [gate_sheet(result.gates)] if result.gates else []
            return stack([*sheets(), *gates], self.sink.columns)

        deliver(result, self.output, self.sink, tables)
        result.raise_if_failed()


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How questions are put and answers read."""

    limit: LimitOption = None
    length_normalised: NormalisedOption = False
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest generated answer, in tokens.")
    ] = 64
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Sequences per forward pass.")] = (
        32
    )
    seed: SeedOption = 0
    panel: ClassVar[str] = "Questions"


def deliver(result: BaseModel, output: Path | None, out: Output, table: Callable[[], Any]) -> None:
    """Write a result where it was asked for, and print it whatever comes of that: hours of work may be in it.

    Raises:
        ResultUnwritten: The file could not be written; the result stands on stdout.
    """
    from vkdsurgeon.results.evaluation import write_document

    document = result.model_dump(mode="json")
    failed: OSError | None = None
    if output is not None:
        try:
            write_document(output, result)
        except OSError as error:
            failed = error
    if failed is None:
        out.document(document, table, kept=output)
        return
    out.rescue(document)
    problem = f"the result could not be written: {failed.strerror or failed}"
    raise ResultUnwritten(f"{output}: {problem}; it stands on stdout")
