"""`vkdsurgeon tune`: search the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import ModelArgument, RecipeSource, SeedOption, ShardOption, TablePrinting, TrainingPlace
from vkdsurgeon_cli.tracking import Tracking

if TYPE_CHECKING:
    from vkdsurgeon.tuning.result import Attempt, TuneResult
    from vkdsurgeon_cli.tables import Sheet

_OBJECTIVES = ("forget", "retain", "robust")


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is forgotten and what is kept."""

    forget: Annotated[Path, typer.Option("--forget", metavar="SET", help="The forget set, as for `unlearn`.")]
    retain: Annotated[Path | None, typer.Option("--retain", metavar="SET", help="The retain set.")] = None
    generic: Annotated[Path | None, typer.Option("--generic", metavar="SET", help="Images of any others.")] = None
    panel: ClassVar[str] = "Data"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Records that the whole model is asked about."""

    validation_forget: Annotated[
        Path | None,
        typer.Option("--validation-forget", metavar="SET", help="Questions about held-out forget images."),
    ] = None
    validation_retain: Annotated[
        Path | None, typer.Option("--validation-retain", metavar="SET", help="Questions about held-out retain images.")
    ] = None
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Largest number of validation questions per set."),
    ] = None
    panel: ClassVar[str] = Sets.panel


@dataclass(frozen=True, kw_only=True)
class Search:
    """How long and for what."""

    space: Annotated[
        Path | None, typer.Option("--space", metavar="FILE", help="The search space (YAML). [default: built in]")
    ] = None
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", min=1, help="Number of trials to finish, including resumed ones.")
    ] = 30
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="N", help="Start no trial after N minutes; one always runs.")
    ] = None
    pick: Annotated[
        str | None,
        typer.Option(
            "--pick",
            metavar="RULE",
            help="Write the best recipe as picked.yaml, by one of these rules: knee, forget, retain, robust or "
            "(with validation questions) general. Status 3 if no recipe satisfies it.",
        ),
    ] = None
    seed: SeedOption = 0
    panel: ClassVar[str] = "Search"


@dataclass(frozen=True, kw_only=True)
class Results(TablePrinting):
    """Where trials and recipes go."""

    out: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="For trials, recipes and result: a new or empty directory."),
    ]
    resume: Annotated[bool, typer.Option("--resume", help="Continue with the trials in the output directory.")] = False
    shard: ShardOption = None
    join: Annotated[
        list[Path] | None,
        typer.Option("--join", metavar="DIR", help="Take over the finished trials of a shard; repeat for all of them."),
    ] = None
    panel: ClassVar[str] = "Output and resuming"


def tune(
    *,
    model: ModelArgument,
    sets: Sets,
    validation: Validation,
    search: Search,
    results: Results,
    tracking: Tracking,
    source: RecipeSource,
    place: TrainingPlace,
) -> None:
    """Search for recipes that forget more, retain more or resist relearning better than a start recipe, on your data.

    There are three objectives: forget, retain and robust; lower is better. They are measured from features, without
    labels, on images that no trial trains on; with validation questions, the first two are measured by asking the
    model. The first trial is the start recipe (--preset, --recipe, --set), so the Pareto front is never worse than it.
    Every recipe of the front is written as a file for `unlearn --recipe`. MODEL is never written to. With --shard I/N,
    N machines share --trials, each in an output directory of its own; --join puts them together.
    """
    output = results.begin()
    import vkdsurgeon
    from vkdsurgeon_cli.trial_listener import TrialListener

    try:
        result = vkdsurgeon.tune(
            model,
            recipe=source.load(source.given(decoder_pass=False)),
            out=results.out,
            resume=results.resume,
            shard=results.shard,
            join=results.join or (),
            on_event=tracking.heard_by(TrialListener(output), output.warn),
            **vars(sets),
            **vars(validation),
            **vars(search),
            **vars(place),
        )
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"finished trials are kept: add --resume -o {results.out}") from stop
    from vkdsurgeon_cli.tables import pairs

    def tables() -> Any:
        from rich.console import Group

        return Group(_front_sheet(result).fitted(output.columns), pairs(_notes(result), output.columns))

    output.document(result.model_dump(mode="json"), tables, kept=results.out)
    result.raise_if_failed()


def _front_sheet(result: TuneResult) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet

    failed = sum(attempt.reason is not None for attempt in result.attempts)
    sheet = Sheet(f"Pareto front of {len(result.attempts)} trials ({failed} failed); less is better")
    sheet.column("recipe", "left")
    for name in _OBJECTIVES:
        sheet.column(name)
    sheet.column("stop rule", drop=1)
    sheet.column("seconds", drop=2)
    sheet.column("differs in", "left", drop=3)
    untouched = [f"{result.untouched[name]:.4f}" for name in _OBJECTIVES]
    sheet.row("untouched model", *untouched, "", "", "")
    if result.default.reason is None and result.default not in result.front:
        sheet.row("start recipe", *_cells(result.default))
    sheet.line()
    for rank, attempt in enumerate(result.front, start=1):
        mark = " *" if attempt is result.picked else ""
        sheet.row(f"front/{rank:02d}.yaml{mark}", *_cells(attempt))
    return sheet


def _cells(attempt: Attempt) -> list[str]:
    from vkdsurgeon_cli.trial_listener import describe_changes

    verdict = attempt.facts.get("stop_rule")
    met = "" if verdict is None else "met" if verdict["met"] else "not met"
    numbers = [f"{attempt.values[name]:.4f}" for name in _OBJECTIVES]
    return [*numbers, met, f"{attempt.facts['seconds']:.0f}", describe_changes(attempt.changes)]


def _notes(result: TuneResult) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [(name, result.objectives[name]["what"]) for name in _OBJECTIVES]
    return rows if result.picked is None else [*rows, ("*", f"picked.yaml, by: {result.rule}")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "tune",
        tune,
        "tune model/ --forget forget.jsonl --retain retain.jsonl -o tuned/",
        "tune model/ --forget f.jsonl -o tuned/ --minutes 60 --pick retain --resume",
        "tune model/ --forget f.jsonl -o tuned-1/ --trials 40 --shard 1/4",
        "tune model/ --forget f.jsonl -o tuned/ --trials 40 --join tuned-0/ --join tuned-1/",
        summary="Search for recipes that suit your model better.",
    )
