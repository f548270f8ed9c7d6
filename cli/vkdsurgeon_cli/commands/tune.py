"""`vkdsurgeon tune`: search the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vkdsurgeon_cli.commands.eval_ import new_table, stack
from vkdsurgeon_cli.commands.unlearn import RunListener
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
    from collections.abc import Mapping

    from vkdsurgeon.training.events import Event
    from vkdsurgeon.tuning.result import Attempt, TuneResult
    from vkdsurgeon.tuning.validation_metrics import ValidationRecords

_OBJECTIVES = ("forget", "retain", "robust")


def tune(
    *,
    model: ModelArgument,
    forget: Annotated[Path, typer.Option("--forget", help="What to forget, as `unlearn` takes it.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Directory of trials, recipes and result: empty or not there yet.")
    ],
    retain: Annotated[Path | None, typer.Option("--retain", help="What to keep.")] = None,
    generic: Annotated[Path | None, typer.Option("--generic", help="Pictures of others.")] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe to start from, the first trial; without it the default one.")
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="What may vary, as YAML; without it the default space.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Finished trials in all, resumed ones included.")] = 30,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", help="No trial starts later than this; one that runs is finished, and one always is."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the trials in the output directory, if there are any.")
    ] = False,
    pick: Annotated[
        str | None,
        typer.Option(
            "--pick",
            help="Write one member of the front as picked.yaml: knee, forget, retain, robust, or with validation "
            "records general. Status 3 when none satisfies it.",
        ),
    ] = None,
    validation_forget: Annotated[
        Path | None,
        typer.Option(
            "--validation-forget",
            help="Questions with answers about held-out forget pictures: forgetting is measured by the whole model's "
            "answers.",
        ),
    ] = None,
    validation_retain: Annotated[
        Path | None, typer.Option("--validation-retain", help="The same about what is to be kept.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Ask at most so many validation questions per set, drawn per task."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="Weights in memory: float32 or bfloat16.")] = "float32",
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Search for recipes that forget more, keep more or resist more on this case than the one to start from.

    Three objectives, less is better: forget, retain, robust, all measured without labels on pictures that no trial
    trains on, or the first two on validation records. The first trial is the start recipe, so the Pareto front is never
    worse. Its members are written as recipes for `unlearn --recipe`. The model itself is never written to.
    """
    from vkdsurgeon.config import load_recipe
    from vkdsurgeon.errors import GateFailed, UserError
    from vkdsurgeon.model.device import resolve_device, resolve_dtype
    from vkdsurgeon.pipeline.run import Request
    from vkdsurgeon.tuning.pick import rule_named
    from vkdsurgeon.tuning.space import load_space
    from vkdsurgeon.tuning.tune import TuneRequest
    from vkdsurgeon.tuning.tune import tune as run

    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError("not a budget", where="--minutes", value=minutes, expected="a number above 0")
    output = Output(as_json, progress)
    validation = _validation(validation_forget, validation_retain, limit, seed)
    request = TuneRequest(
        unlearn=Request(
            model=model,
            forget=forget,
            retain=retain,
            generic=generic,
            out=None,
            recipe=load_recipe(recipe, {}),
            seed=seed,
            device=resolve_device(device),
            dtype=resolve_dtype(dtype),
            tower=tower,
            projector=projector,
        ),
        out=out,
        space=load_space(space),
        trials=trials,
        minutes=minutes,
        resume=resume,
        rule=None if pick is None else rule_named(pick, rates=validation is not None),
        validation=validation,
    )
    try:
        result = run(request, _TrialListener(output))
    except KeyboardInterrupt:
        output.note(f"finished trials are kept; go on with --resume -o {out}")
        raise
    output.document(result.as_dict(), lambda: stack([_front_table(result), _notes(result)]), kept=out)
    if result.rule is not None and result.picked is None:
        raise GateFailed([f"--pick {result.rule!r}: none of {len(result.front)} members of the front satisfies it"])


def _validation(forget: Path | None, retain: Path | None, limit: int | None, seed: int) -> ValidationRecords | None:
    from vkdsurgeon.data.sets import read_set, sample
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.tuning.validation_metrics import ValidationRecords

    if forget is None and retain is None:
        if limit is not None:
            raise UserError(
                "a bound on validation questions without any",
                where="--limit",
                value=limit,
                expected="validation records",
            )
        return None
    if forget is None or retain is None:
        raise UserError(
            "validation records for one objective alone",
            where="--validation-forget" if forget is None else "--validation-retain",
            expected="both --validation-forget and --validation-retain, or neither",
        )
    asked = (sample(read_set(*each).records, limit, seed) for each in (("forget", forget), ("retain", retain)))
    return ValidationRecords(*map(tuple, asked))


class _TrialListener(RunListener):
    """Adds finished trials to what a run tells."""

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        if event.kind == "trial":
            self.attempted(event.subject, event.facts["trials"])
        else:
            super().__call__(event)

    def attempted(self, attempt: Attempt, trials: int) -> None:
        """A trial is finished."""
        values = "  ".join(f"{name} {attempt.values[name]:.4f}" for name in _OBJECTIVES if name in attempt.values)
        told = f"failed: {attempt.reason}" if attempt.reason else values
        self._output.note(f"trial {attempt.number + 1}/{trials}: {told}  ({_told(attempt.changes)})")


def _told(changes: Mapping[str, Any]) -> str:
    return (
        ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in changes.items()
        )
        or "the start recipe"
    )


def _front_table(result: TuneResult) -> Table:
    failed = sum(attempt.reason is not None for attempt in result.attempts)
    table = new_table(f"Pareto front of {len(result.attempts)} trials ({failed} failed); less is better")
    for column in ("recipe", *_OBJECTIVES, "stop rule", "seconds"):
        table.add_column(column, justify="left" if column == "recipe" else "right", no_wrap=True)
    table.add_column("differs in")
    untouched = [f"{result.untouched[name]:.4f}" for name in _OBJECTIVES]
    table.add_row("untouched model", *untouched, "", "", "")
    if result.default.reason is None and result.default not in result.front:
        table.add_row("start recipe", *_cells(result.default))
    table.add_section()
    for rank, attempt in enumerate(result.front, start=1):
        mark = " *" if attempt is result.picked else ""
        table.add_row(f"front/{rank:02d}.yaml{mark}", *_cells(attempt))
    return table


def _cells(attempt: Attempt) -> list[str]:
    verdict = attempt.facts.get("stop_rule")
    met = "" if verdict is None else "met" if verdict["met"] else "not met"
    numbers = [f"{attempt.values[name]:.4f}" for name in _OBJECTIVES]
    return [*numbers, met, f"{attempt.facts['seconds']:.0f}", escape(_told(attempt.changes))]


def _notes(result: TuneResult) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for name in _OBJECTIVES:
        table.add_row(name, escape(str(result.objectives[name]["what"])))
    if result.picked is not None:
        table.add_row("*", escape(f"picked.yaml, by: {result.rule}"))
    return table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tune")(tune)
