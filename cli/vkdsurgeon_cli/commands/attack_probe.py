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

    forget: Annotated[Path, typer.Option("--forget", metavar="SET", help="Images of the forget set, with subjects.")]
    retain: Annotated[
        Path | None, typer.Option("--retain", metavar="SET", help="Images of the retain set, to measure utility.")
    ] = None
    heldout: Annotated[
        Path | None, typer.Option("--heldout", metavar="SET", help="Other images of the forget subjects, to test on.")
    ] = None
    retain_heldout: Annotated[
        Path | None, typer.Option("--retain-heldout", metavar="SET", help="Other images of the retain subjects.")
    ] = None
    panel: ClassVar[str] = "Data"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The settings of the probes."""

    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="NAME", help="layer.0 ..., projector; repeatable. [default: all]"),
    ] = None
    probe: Annotated[
        ProbeName, typer.Option("--probe", metavar="NAME", help="The linear classifier: logistic or ridge.")
    ] = ProbeName.logistic
    regularisation: Annotated[
        float, typer.Option("--regularisation", metavar="N", help="Its L2 penalty, on standardised features.")
    ] = 1.0
    pooling: Annotated[
        PoolingName,
        typer.Option("--pooling", metavar="NAME", help="mean of an image's tokens, or tokens: all of them."),
    ] = PoolingName.mean
    folds: Annotated[
        int, typer.Option("--folds", metavar="N", min=2, help="Cross-validation folds, if --heldout is not given.")
    ] = 4
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Largest number of retain images, in whole subjects."),
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
    """Train linear classifiers (probes) for identity on the features of every layer. The language model is not loaded.

    Probes are trained on some images and tested on others. identity: the forget subjects among themselves. crowd: among
    all subjects. detect: forget against retain subjects. reader: trained on the features of the base, tested on those
    of MODEL. A probe can also tell faces apart in gold, which never saw them, so look at the gap to gold.
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
