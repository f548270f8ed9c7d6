"""The options that attacks on answers have in common, written down once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vkdsurgeon_cli.commands.eval_ import (
    BatchOption,
    DtypeOption,
    NormalisedOption,
    OutputOption,
    SaltOption,
    TokensOption,
    conclude,
    gates_of,
    set_if_given,
    stack,
)
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

if TYPE_CHECKING:
    from rich.table import Table

    from vkdsurgeon.results.attacks import AttackResult
    from vkdsurgeon.results.relearn import RestoreResult

_SHARED = "shared"


def _options(
    *,
    retain: Annotated[Path | None, typer.Option("--retain", help="What utility is measured on.")] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The model before unlearning; attacked alike, as the ceiling.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="A model that never saw the forget set; attacked alike.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Ask at most so many questions per set, drawn per task.")
    ] = None,
    gate: list[str] | None = None,
    output: OutputOption = None,
    salt: SaltOption = None,
    length_normalised: NormalisedOption = False,
    max_new_tokens: TokensOption = 64,
    batch_size: BatchOption = 32,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: SeedOption = 0,
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """The options; `--gate` gets its help from the attack."""


_PLACES = ("tower", "projector")


@dataclass(frozen=True)
class Shared:
    """What was given of these options.

    Attributes:
        given: Option -> value, `model` among them, without what a command declares itself.
        out: Where progress, warnings and the result go.
    """

    given: dict[str, Any]
    out: Output

    def target(self, forget: Path) -> dict[str, Any]:
        """The fields of `variation.Target`, its sets read; the output's place and the gates are checked first.

        Raises:
            UserError: The output cannot be written, a gate is none, or a set cannot be read.
        """
        from vkdsurgeon.data.sets import read_set
        from vkdsurgeon.evaluation.score import Scoring

        given = self.given
        fields = {name: given[name] for name in ("reference", "gold", "limit", "seed", "device", "dtype", *_PLACES)
                  if name in given}  # fmt: skip
        return {
            "gates": gates_of(given["gate"], given["output"]),
            "model": given["model"],
            "forget": read_set("forget", forget),
            "retain": set_if_given("retain", given["retain"]),
            "scoring": Scoring(given["batch_size"], given["length_normalised"], given["max_new_tokens"]),
            "salt": (given["salt"] or "").encode(),
            **fields,
        }

    def conclude(self, result: AttackResult | RestoreResult, tables: Callable[[], list[Table]]) -> None:
        """Write and print the result, and end with 3 where a gate failed."""
        conclude(result, self.given["output"], self.out, lambda: stack(tables()))


def with_attack_options(gate: str, *, places: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options to a typer command.

    Args:
        gate: A gate, for the help.
        places: Whether tower and projector can be named.

    Returns:
        A decorator for a command that takes `shared: Shared` after its own options. An option of these that the command
        declares itself is its own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        own.pop(_SHARED)
        keyword = inspect.Parameter.KEYWORD_ONLY
        told = typer.Option("--gate", help=f'A bound such as "{gate}"; missing it ends with status 3.')
        common = {
            name: parameter.replace(annotation=Annotated[list[str] | None, told]) if name == "gate" else parameter
            for name, parameter in inspect.signature(_options, eval_str=True).parameters.items()
            if places or name not in _PLACES
        }
        model = inspect.Parameter("model", keyword, annotation=ModelArgument)
        every = {"model": model, **{name: each.replace(kind=keyword) for name, each in own.items()}}
        every |= {name: parameter for name, parameter in common.items() if name not in own}

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            out = Output(arguments["as_json"], arguments["progress"])
            given = {name: value for name, value in arguments.items() if name not in own}
            command(**{name: arguments[name] for name in own}, shared=Shared(given, out))

        run.__signature__ = inspect.Signature(list(every.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in every.items()}
        return run

    return decorate
