"""`vkdsurgeon unlearn`: the main job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from vkdsurgeon.baselines.registry import Method, Scope
from vkdsurgeon_cli.command import RARE, SHARED, OutputWritten, add_command
from vkdsurgeon_cli.launched import refuse_several, together
from vkdsurgeon_cli.options import (
    ModalitiesOption,
    ModelArgument,
    Printing,
    RecipeSource,
    SeedOption,
    WholeTrainingPlace,
)
from vkdsurgeon_cli.suite_options import Benchmark
from vkdsurgeon_cli.tracking import Tracking

if TYPE_CHECKING:
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon.data.suites.split import SuiteSplit
    from vkdsurgeon.pipeline.result import UnlearnResult

_SAVING = "Output and resuming"
_OTHERS = ", ".join(each.value for each in Method if each is not Method.vkd)


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is forgotten and what is kept."""

    forget: Annotated[
        Path | None,
        typer.Option("--forget", metavar="SET", help="The forget set: JSONL, JSON or a folder of images."),
    ] = None
    retain: Annotated[
        Path | None, typer.Option("--retain", metavar="SET", help="The retain set, in the same formats.")
    ] = None
    generic: Annotated[
        Path | None, typer.Option("--generic", metavar="SET", help="Images of any others, with or instead of --retain.")
    ] = None
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="SET",
            help="For --decoder-pass: prompts whose answers must not change, one per line or as JSON lines.",
        ),
    ] = None
    forget_teacher: Annotated[
        Path | None,
        typer.Option(
            "--forget-teacher", metavar="DIR", help="A model without the knowledge, for --set forget_target=reference."
        ),
    ] = None
    retain_teacher: Annotated[
        Path | None,
        typer.Option("--retain-teacher", metavar="DIR", help="The retain teacher. [default: MODEL]"),
    ] = None
    modality: ModalitiesOption = "image"
    panel: ClassVar[str] = "Data"
    rare: ClassVar[tuple[str, ...]] = ("retain_teacher",)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the patched checkpoint goes."""

    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The patched checkpoint: a new or empty directory."),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan with memory, time and disk.")] = False
    panel: ClassVar[str] = _SAVING


@dataclass(frozen=True, kw_only=True)
class Copying:
    """Which files of the model's directory are copied."""

    drop_stale: Annotated[
        bool, typer.Option("--drop-stale", help="Leave out files that may contain the old weights.")
    ] = False
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Allow links that point outside MODEL; copy their targets.")
    ] = False
    link_untouched: Annotated[
        bool, typer.Option("--link-untouched", help="Hard-link weight files that do not change, to save disk space.")
    ] = False
    panel: ClassVar[str] = RARE


@dataclass(frozen=True, kw_only=True)
class Tagging:
    """What asked for the run."""

    request_id: Annotated[
        str | None,
        typer.Option("--request-id", metavar="TEXT", help="The request, such as a ticket number; it is published."),
    ] = None
    request_date: Annotated[
        str | None,
        typer.Option("--request-date", metavar="DATE", help="Date of the request, such as 2026-03-01; published."),
    ] = None
    panel: ClassVar[str] = _SAVING


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How an interrupted run goes on."""

    resume: Annotated[bool, typer.Option("--resume", help="Continue from the journal, if there is one.")] = False
    journal: Annotated[
        Path | None,
        typer.Option("--journal", metavar="DIR", help="Where progress is saved. [default: OUTPUT.journal]"),
    ] = None
    checkpoint_minutes: Annotated[
        float, typer.Option("--checkpoint-minutes", metavar="N", help="Shortest time between two saves.")
    ] = 1.0
    panel: ClassVar[str] = _SAVING
    rare: ClassVar[tuple[str, ...]] = ("journal", "checkpoint_minutes")


@dataclass(frozen=True, kw_only=True)
class Replaying:
    """What is kept from request to request."""

    replay: Annotated[
        list[Path] | None,
        typer.Option(
            "--replay", metavar="FILE", help="Forget again whom earlier requests forgot, without images; repeatable."
        ),
    ] = None
    save_replay: Annotated[
        Path | None,
        typer.Option("--save-replay", metavar="FILE", help="Write a replay file for later requests. It is sensitive."),
    ] = None
    replay_key: Annotated[
        Path | None,
        typer.Option("--replay-key", metavar="FILE", help="32 random bytes that these files are encrypted with."),
    ] = None
    panel: ClassVar[str] = RARE


@dataclass(frozen=True, kw_only=True)
class RunPrinting(Printing):
    """How the result is printed."""

    panel: ClassVar[str] = _SAVING


@dataclass(frozen=True, kw_only=True)
class RunTracking(Tracking):
    """Where its numbers go besides."""

    rare: ClassVar[tuple[str, ...]] = ("track",)


@dataclass(frozen=True, kw_only=True)
class OwnFlags:
    """The keys of the recipe that have options of their own."""

    decoder_pass: Annotated[
        bool,
        typer.Option(
            "--decoder-pass", help="Train the language model as well, to not recognise the original features."
        ),
    ] = False
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Optimizer steps. [default: from the data]")
    ] = None
    panel: ClassVar[str] = RecipeSource.panel

    def settings(self) -> dict[str, Any]:
        """The recipe keys that were given by an option of their own."""
        return {} if self.steps is None else {"steps": self.steps}


@dataclass(frozen=True, kw_only=True)
class MethodChoice:
    """Another method than visual knowledge distillation."""

    method: Annotated[
        Method,
        typer.Option(
            "--method",
            metavar="NAME",
            help=f"Another method: {_OTHERS}.",
        ),
    ] = Method.vkd
    scope: Annotated[
        Scope | None,
        typer.Option("--scope", metavar="PART", help="Weights that method may change: visual, llm or all."),
    ] = None
    seed: SeedOption = 0
    panel: ClassVar[str] = RecipeSource.panel


def unlearn(
    *,
    model: ModelArgument,
    sets: Sets,
    benchmark: Benchmark,
    target: Target,
    saving: Saving,
    replaying: Replaying,
    copying: Copying,
    tagging: Tagging,
    printing: RunPrinting,
    tracking: RunTracking,
    source: RecipeSource,
    flags: OwnFlags,
    choice: MethodChoice,
    place: WholeTrainingPlace,
) -> None:
    """Make the tower and the projector forget, and write a patched checkpoint.

    Only weights that the saliency mask selects change; with --decoder-pass and most other methods, also selected
    weights of the language model. The output directory is complete and verified, or it does not exist. Status 3: it was
    written, but the stop rule or the gate of the decoder pass was not met. Started by torchrun, all processes make the
    run together.
    """
    from vkdsurgeon.errors import UserError

    output = printing.begin()
    if target.out is None and not target.dry_run:
        raise UserError(
            "no output directory was given", where="-o", expected="a directory that does not exist yet, or --dry-run"
        )
    suite = benchmark.chosen({"--forget": sets.forget, "--retain": sets.retain})
    if sets.forget is None and suite is None:
        raise UserError(
            "no forget set was given", where="--forget", expected="--forget FILE, or --suite with its split"
        )
    if target.dry_run and target.out is not None and not saving.resume:
        _look_at_output(model, target.out, linked=copying.link_untouched)
    recipe = _recipe(source, flags, sets)
    common: dict[str, Any] = {
        "model": model,
        "out": None if target.dry_run else target.out,
        "recipe": recipe,
        "seed": choice.seed,
        **vars(copying),
        **vars(tagging),
        **vars(place),
    }
    from vkdsurgeon_cli.other_methods import is_other_method

    if is_other_method(choice.method, choice.scope, recipe):
        refuse_several(f"unlearn --method {choice.method.value}")
        with _telling_of(common["out"]):
            _run_other(common, sets, suite, saving, replaying, choice, printing, tracking)
        return
    import vkdsurgeon
    from vkdsurgeon_cli.run_listener import RunListener
    from vkdsurgeon_cli.run_tables import result_rows
    from vkdsurgeon_cli.tables import pairs

    with _telling_of(common["out"]), together() as first:
        heard = tracking.heard_by(RunListener(output), output.warn) if first else None
        kept = vars(saving) | vars(replaying)
        result = vkdsurgeon.unlearn(suite=suite, **vars(sets), **kept, **common, on_event=heard)
        rows = [*result_rows(result), *_replay_row(replaying, result)]
        output.document(result.model_dump(mode="json"), lambda: pairs(rows, output.columns), kept=result.out)
    _judge(result, printing)


def _look_at_output(model: Path, out: Path, *, linked: bool) -> None:
    """Refuse in a dry run what the run would refuse.

    Raises:
        UserError: The output cannot be made there, or there is no such model.
    """
    from vkdsurgeon.checkpoint.inventory import take_inventory
    from vkdsurgeon.checkpoint.output import check_output
    from vkdsurgeon.checkpoint.provenance import free_record_name
    from vkdsurgeon.files.hub import model_path

    inventory = take_inventory(model_path(model))
    check_output(inventory, out, [free_record_name(inventory)], linked=inventory.shards if linked else ())


@contextmanager
def _telling_of(out: Path | None) -> Iterator[None]:
    """Let an interrupt that comes after the output say that the output is there.

    Raises:
        OutputWritten: It came so late.
    """
    there = out is not None and out.exists()
    try:
        yield
    except KeyboardInterrupt as stop:
        if out is None or there or not out.exists():
            raise
        raise OutputWritten(f"{out} was written before, complete and verified; nothing else is missing.") from stop


def _recipe(source: RecipeSource, flags: OwnFlags, sets: Sets) -> Recipe:
    """The recipe of a run.

    Raises:
        UserError: The recipe is not valid, or it sets keys of a decoder pass without asking for one.
    """
    from vkdsurgeon.config.files import lay_over

    given = source.given(decoder_pass=flags.decoder_pass)
    own = flags.settings()
    if sets.forget_teacher is not None and "forget_target" not in given:
        own["forget_target"] = "reference"
    if flags.decoder_pass:
        own["decoder"] = {}
    return source.load(lay_over(given, own))


def _run_other(
    common: dict[str, Any],
    sets: Sets,
    suite: SuiteSplit | None,
    saving: Saving,
    replaying: Replaying,
    choice: MethodChoice,
    printing: Printing,
    tracking: Tracking,
) -> None:
    from vkdsurgeon.errors import UserError
    from vkdsurgeon_cli.other_methods import refuse_foreign_options, run_other_method

    method = choice.method.value
    if sets.forget is None or suite is not None:
        raise UserError(
            "--suite works only with VKD in feature mode (no --method, no output_loss)",
            where="--suite",
            value=f"--method {method}",
            expected="--forget and --retain records",
        )
    if sets.modality != "image":
        raise UserError("only VKD in feature mode takes clips", where="--modality", value=f"--method {method}")
    if saving.resume:
        raise UserError("only VKD in feature mode can resume", where="--resume", value=f"--method {method}")
    foreign = {
        "--forget-teacher": sets.forget_teacher,
        "--retain-teacher": sets.retain_teacher,
        "--journal": saving.journal,
        "--checkpoint-minutes": saving.checkpoint_minutes
        if saving.checkpoint_minutes != Saving().checkpoint_minutes
        else None,
        "--replay": replaying.replay,
        "--save-replay": replaying.save_replay,
        "--replay-key": replaying.replay_key,
    }
    refuse_foreign_options(choice.method, common["recipe"], foreign)
    records = {name: getattr(sets, name) for name in ("forget", "retain", "generic", "text")}
    run_other_method({"method": method, "scope": choice.scope, **records, **common}, printing.sink, tracking)


def _replay_row(replaying: Replaying, result: UnlearnResult) -> list[tuple[str, str]]:
    if replaying.save_replay is None or result.write is None:
        return []
    how = "encrypted" if replaying.replay_key else "not encrypted: keep it as you would keep the images"
    return [("replay file", f"{replaying.save_replay}, {how}")]


def _judge(result: UnlearnResult, printing: Printing) -> None:
    from vkdsurgeon_cli.run_tables import how_to_go_on

    if result.verdict and not result.verdict.met and result.journal is not None:
        printing.sink.note(how_to_go_on(result))
    result.raise_if_failed()


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        SHARED,
        unlearn,
        "unlearn model/ --forget f.jsonl --retain r.jsonl -o patched/",
        "unlearn model/ --forget faces/ --dry-run --set density=0.25",
        "unlearn model/ --forget f.jsonl -o patched/ --preset robust --resume",
        summary="Make tower and projector forget, and write a patched checkpoint.",
    )
