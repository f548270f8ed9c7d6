"""`vkdsurgeon attack probe`: read the features with a linear probe."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import GoldOption, attack_tables
from vkdsurgeon_cli.commands.eval_ import OutputOption, SaltOption, conclude, gates_of, stack
from vkdsurgeon_cli.options import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ProgressOption,
    ProjectorOption,
    SeedOption,
    TowerOption,
)
from vkdsurgeon_cli.output import Output, ProgressMode


class ProbeName(str, Enum):
    """Linear readers."""

    logistic = "logistic"
    ridge = "ridge"


class PoolingName(str, Enum):
    """What a reader gets of a picture's tokens."""

    mean = "mean"
    tokens = "tokens"


def probe_command(
    model: ModelArgument,
    forget: Annotated[
        Path, typer.Option("--forget", help="Pictures of what was to be forgotten, with subjects; no questions needed.")
    ],
    retain: Annotated[
        Path | None, typer.Option("--retain", help="Pictures of others, with subjects; utility is measured on them.")
    ] = None,
    heldout: Annotated[
        Path | None, typer.Option("--heldout", help="Other views of the forget subjects, to test on instead of folds.")
    ] = None,
    retain_heldout: Annotated[
        Path | None, typer.Option("--retain-heldout", help="Other views of the retain subjects, to test on.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="The model before unlearning; a reader of its features is tried as well."),
    ] = None,
    gold: GoldOption = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", help="layer.0 ..., projector; more than once for several. Otherwise all."),
    ] = None,
    probe: Annotated[ProbeName, typer.Option("--probe", help="The linear reader.")] = ProbeName.logistic,
    regularisation: Annotated[
        float, typer.Option("--regularisation", help="Strength of its L2 penalty, on standardised features.")
    ] = 1.0,
    pooling: Annotated[
        PoolingName, typer.Option("--pooling", help="mean: the mean over a picture's tokens. tokens: all of them.")
    ] = PoolingName.mean,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Into which views are dealt without --heldout.")] = 4,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most about so many retain pictures, by whole subjects.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", help='A bound such as "gap.probe.projector.crowd.accuracy<=0.1"; missing it ends with status 3.'
        ),
    ] = None,
    output: OutputOption = None,
    salt: SaltOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures per forward pass.")] = 32,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Train linear probes for identity on the features of every layer; the language model is not loaded.

    Readers are trained on some views and tested on others. identity: the forget subjects among themselves; crowd: among
    all subjects; detect: forget against retain; reader: trained on the reference's features and shown the model's. A
    probe finds any face apart, in gold too, so the gap to gold counts.
    """
    from vkdsurgeon.attacks.probe import Probing
    from vkdsurgeon.attacks.probe import probe as run_probe
    from vkdsurgeon.data.read import read_records
    from vkdsurgeon.data.sets import NamedSet
    from vkdsurgeon.errors import UserError

    if not 0.0 < regularisation <= 1e9:
        raise UserError("out of range", where="--regularisation", value=regularisation, expected="above 0, at most 1e9")
    gates = gates_of(gate, output)

    def read(name: str, path: Path | None) -> NamedSet | None:
        return None if path is None else NamedSet(name, tuple(read_records(path, role=name)))

    out = Output(as_json, progress)
    attack = Probing(
        model=model,
        forget=NamedSet("forget", tuple(read_records(forget, role="forget"))),
        retain=read("retain", retain),
        heldout=read("heldout", heldout),
        retain_heldout=read("retain-heldout", retain_heldout),
        reference=reference,
        gold=gold,
        layers=layer,
        probe=probe.value,
        regularisation=regularisation,
        pooling=pooling.value,
        folds=folds,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        gates=gates,
        device=device,
        tower=tower,
        projector=projector,
        salt=(salt or "").encode(),
    )
    result = run_probe(attack, out.progress)
    told = result.settings
    title = (
        f"{told.probe} probes on {told.pooling} features, tested on {'held-out views' if heldout else 'other folds'}: "
        f"{told.forget_subjects} subjects to forget, {told.retain_subjects} others"
    )
    conclude(result, output, out, lambda: stack(attack_tables(result, title, first="layer")))
