"""`vkdsurgeon attack probe`: read the features with a linear probe."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from vkdsurgeon_cli.commands.attack_shared import attack_sheets
from vkdsurgeon_cli.measuring import Results
from vkdsurgeon_cli.options import BaseOption, GoldOption, ModelArgument, Place, SeedOption

if TYPE_CHECKING:
    from vkdsurgeon.results.attacks import ProbeResult


class ProbeName(str, Enum):
    """The kinds of linear probe."""

    logistic = "logistic"
    ridge = "ridge"


class PoolingName(str, Enum):
    """How the tokens of an image become one vector for a probe."""

    mean = "mean"
    tokens = "tokens"


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The sets whose image features are read."""

    forget: Annotated[
        Path, typer.Option("--forget", metavar="SET", help="Images of what was to be forgotten, with subjects.")
    ]
    retain: Annotated[
        Path | None, typer.Option("--retain", metavar="SET", help="Images of others; utility is measured on them.")
    ] = None
    heldout: Annotated[
        Path | None, typer.Option("--heldout", metavar="SET", help="Other views of the forget subjects, to test on.")
    ] = None
    retain_heldout: Annotated[
        Path | None, typer.Option("--retain-heldout", metavar="SET", help="Other views of the retain subjects.")
    ] = None
    panel: ClassVar[str] = "Data"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The settings of the probes."""

    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="NAME", help="layer.0 ..., projector; repeat for several. Otherwise all."),
    ] = None
    probe: Annotated[
        ProbeName, typer.Option("--probe", metavar="NAME", help="The linear reader: logistic or ridge.")
    ] = ProbeName.logistic
    regularisation: Annotated[
        float, typer.Option("--regularisation", metavar="N", help="Its L2 penalty, on standardised features.")
    ] = 1.0
    pooling: Annotated[
        PoolingName,
        typer.Option("--pooling", metavar="NAME", help="mean over an image's tokens, or tokens: all."),
    ] = PoolingName.mean
    folds: Annotated[
        int, typer.Option("--folds", metavar="N", min=2, help="Into which views are dealt without --heldout.")
    ] = 4
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="About so many retain images, by whole subjects.")
    ] = None
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Images per forward pass.")] = 32
    seed: SeedOption = 0
    panel: ClassVar[str] = "Attack"

    def settings(self) -> dict[str, Any]:
        """The settings of the attack, by the names that the API gives them."""
        return {**vars(self), "probe": self.probe.value, "pooling": self.pooling.value}


@dataclass(frozen=True, kw_only=True)
class Models(Place):
    """The models whose features are read alike, and where they run."""

    base: BaseOption = None
    gold: GoldOption = None
    panel: ClassVar[str] = "Models and device"


def probe_command(*, model: ModelArgument, sets: Sets, reader: Reader, models: Models, results: Results) -> None:
    """Train linear probes for identity on the features of every layer; the language model is not loaded.

    Readers are trained on some views and tested on others. identity: the forget subjects among themselves; crowd: among
    all subjects; detect: forget against retain; reader: trained on the base's features and shown the model's. A probe
    finds any face apart, in gold too, so the gap to gold counts.
    """
    out = results.begin()
    from vkdsurgeon import attack

    result: ProbeResult = attack(  # type: ignore[assignment]
        "probe",
        model,
        sets.forget,
        retain=sets.retain,
        settings={"heldout": sets.heldout, "retain_heldout": sets.retain_heldout, **reader.settings()},
        on_event=out.progress,
        **vars(models),
        **results.asked(),
    )
    told = result.settings
    views = "held-out views" if sets.heldout else "other folds"
    title = (
        f"{told.probe} probes on {told.pooling} features, tested on {views}: "
        f"{told.forget_subjects} subjects to forget, {told.retain_subjects} others"
    )
    results.conclude(result, lambda: attack_sheets(result, title, first="layer"))
