"""Options that several commands share, spelled once, alone and in groups."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from vkdsurgeon.config.preset import preset_names
from vkdsurgeon.data.modality import Modality
from vkdsurgeon_cli.streams import ProgressMode

if TYPE_CHECKING:
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon_cli.output import Output

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A checkpoint directory, or ORG/NAME in the local Hugging Face cache.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
WideOption = Annotated[bool, typer.Option("--wide", help="Show all columns of tables.")]
ProgressOption = Annotated[
    ProgressMode,
    typer.Option("--progress", metavar="HOW", help="On stderr: auto, jsonl or none. [default: auto]",
                 show_default=False),
]  # fmt: skip
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 ...")]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="HOW",
        help="auto: spread the whole model over GPUs, main memory and disk (needs accelerate).",
    ),
]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="LIST", help="With --device-map: such as 0=20GiB,cpu=30GiB; the rest: disk."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Seed for all random choices.")
]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Do only a share of it, number I (from 0) of N, for several machines."),
]
TowerOption = Annotated[
    str | None, typer.Option("--tower", metavar="MODULE", help="The vision tower, if the wrong one is found.")
]
ProjectorOption = Annotated[
    list[str] | None,
    typer.Option("--projector", metavar="MODULE", help="The projector, if the wrong one is found; repeatable."),
]
ModalityOption = Annotated[
    Modality, typer.Option("--modality", metavar="KIND", help="What the tower takes in: image or audio.")
]
ModalitiesOption = Annotated[
    Literal["image", "audio", "both"],
    typer.Option("--modality", metavar="KIND", help="The tower that forgets: of image, of audio, or both in turn."),
]
GateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="BOUND",
        help="A bound on a metric of this command, as in the examples; repeatable. If it is not met, the status is 3.",
    ),
]
BaseOption = Annotated[
    Path | None, typer.Option("--base", "--reference", metavar="DIR", help="The model before unlearning.")
]
GoldOption = Annotated[
    Path | None, typer.Option("--gold", metavar="DIR", help="A model never trained on the forget set.")
]
DtypeOption = Annotated[
    str,
    typer.Option("--dtype", metavar="TYPE", help="float32, bfloat16 or auto (the model's own on a GPU, else float32)."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the result to this JSON file.")
]
RecipeOption = Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="A recipe file (YAML).")]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help=f"A recipe that ships with the package: {', '.join(preset_names())}.",
        autocompletion=lambda: list(preset_names()),
    ),
]


def _known_keys(incomplete: str) -> list[str]:
    from vkdsurgeon.config.keys import recipe_keys

    return [f"{each.key}=" for each in recipe_keys() if each.key.startswith(incomplete)]


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key of `vkdsurgeon recipe keys`; repeatable.",
        autocompletion=_known_keys,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Printing:
    """How a result is printed."""

    as_json: JsonOption = False
    progress: ProgressOption = ProgressMode.auto
    panel: ClassVar[str] = "Output"

    @functools.cached_property
    def sink(self) -> Output:
        """Where progress, warnings and the result go."""
        from vkdsurgeon_cli.output import Output

        return Output(self.as_json, self.progress, wide=getattr(self, "wide", False))

    def begin(self, stage: str = "loading libraries") -> Output:
        """The output, after something was shown on it."""
        self.sink.begin(stage)
        return self.sink

    def close(self) -> None:
        """Take progress off the terminal."""
        if "sink" in self.__dict__:
            self.sink.close()


@dataclass(frozen=True, kw_only=True)
class TablePrinting(Printing):
    """How a result is printed that is wider than a terminal."""

    wide: WideOption = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the parts of the model lie, and where they run."""

    device: DeviceOption = "auto"
    tower: TowerOption = None
    projector: ProjectorOption = None
    panel: ClassVar[str] = "Device"
    rare: ClassVar[tuple[str, ...]] = ("tower", "projector")


@dataclass(frozen=True, kw_only=True)
class TrainingPlace(Place):
    """Where a run trains, and in what precision."""

    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="TYPE", help="auto (mixed where it is faster), float32, bfloat16 or mixed."),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class WholeModelPlace(Place):
    """Where the parts of the model lie, and where they run, the language model among them."""

    device_map: DeviceMapOption = None
    max_memory: MaxMemoryOption = None
    rare: ClassVar[tuple[str, ...]] = (*Place.rare, "device_map", "max_memory")


@dataclass(frozen=True, kw_only=True)
class WholeTrainingPlace(WholeModelPlace, TrainingPlace):
    """Where a run trains that may load the language model, and in what precision."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where tower and projector lie."""

    tower: TowerOption = None
    projector: ProjectorOption = None
    panel: ClassVar[str] = "Model"


@dataclass(frozen=True, kw_only=True)
class SensedParts(Parts):
    """Where tower and projector lie, of images or of sound."""

    modality: ModalityOption = "image"


@dataclass(frozen=True, kw_only=True)
class RecipeSource:
    """Where a recipe comes from."""

    preset: PresetOption = None
    recipe: RecipeOption = None
    settings: SetOption = None
    panel: ClassVar[str] = "Preset and recipe"

    def given(self, *, decoder_pass: bool) -> dict[str, Any]:
        """The recipe keys that `--set` sets.

        Args:
            decoder_pass: Whether a decoder pass was asked for by name.

        Raises:
            UserError: A word is no setting, or it sets up a decoder pass that neither an option nor preset and file ask
                for.
        """
        from vkdsurgeon.config.keys import parse_settings
        from vkdsurgeon.errors import UserError

        found = parse_settings(self.settings or [])
        if "decoder" in found and not decoder_pass and self.load({}).decoder is None:
            raise UserError(
                "a setting of the decoder pass was given, but no decoder pass",
                where=f"--set decoder.{next(iter(found['decoder']))}",
                expected="also --decoder-pass or --preset decoder; the language model is changed only on request",
            )
        return found

    def load(self, settings: dict[str, Any] | None = None, *, preset: bool = True) -> Recipe:
        """The recipe: single settings over the file, the file over the preset.

        Args:
            settings: In place of those of `--set`.
            preset: Whether the preset is laid under them.

        Raises:
            UserError: An unknown preset or key, a file that cannot be read, a value out of range.
        """
        from vkdsurgeon.config.files import load_recipe
        from vkdsurgeon.config.keys import parse_settings

        chosen = parse_settings(self.settings or []) if settings is None else settings
        return load_recipe(self.recipe, chosen, self.preset if preset else None)
