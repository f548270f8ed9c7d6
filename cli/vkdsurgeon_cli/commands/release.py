"""`vkdsurgeon release`: everything from a base to a release, by one file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vkdsurgeon_cli.command import OutputWritten, add_command
from vkdsurgeon_cli.options import Printing
from vkdsurgeon_cli.tracking import Tracking

if TYPE_CHECKING:
    from vkdsurgeon.results.release import ReleaseResult
    from vkdsurgeon.training.events import Event
    from vkdsurgeon_cli.output import Output


def release(
    *,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A release file (YAML): docs/tutorials/pipeline.md.")],
    printing: Printing,
    tracking: Tracking,
) -> None:
    """Unlearn, verify, evaluate, attack, report, attest, export the patch and sign, as PLAN describes.

    To continue an interrupted release, run the same command again: a stage is skipped if its inputs and outputs have
    the recorded digests. Attacks have default gates relative to gold; PLAN can replace them. Status 3 means that a gate
    failed, or that an attack has no gate; all evidence is written anyway.
    """
    output = printing.begin()
    import vkdsurgeon
    from vkdsurgeon_cli.tables import pairs

    try:
        result = vkdsurgeon.make_release(plan, on_event=tracking.heard_by(_Listener(output), output.warn))
    except KeyboardInterrupt as stop:
        if not str(stop):
            raise
        raise OutputWritten(f"The release is not complete; {stop}.") from stop
    output.document(
        result.model_dump(mode="json"),
        lambda: pairs(_rows(result), output.columns),
        kept=Path(result.out) / "summary.md",
    )
    result.raise_if_failed()


class _Listener:
    """Tells of a run as `unlearn` does, and of measurements as they tell of themselves."""

    def __init__(self, output: Output) -> None:
        from vkdsurgeon_cli.run_listener import RunListener

        self._output, self._run = output, RunListener(output)

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        known = ("stage", "note", "warning", "plan", "verdict", "decoder plan", "decoder step", "decoder verdict")
        if event.kind in known or (event.kind == "step" and event.subject is not None and "similarity" in event):
            self._run(event)
        else:
            self._output.progress(event)


def _rows(result: ReleaseResult) -> list[tuple[str, object]]:
    from vkdsurgeon.release.summary import in_words

    return [
        ("verdict", f"{result.verdict}: {result.headline}"),
        *(("attack", in_words(each)) for each in result.attacks),
        *(("missed", each) for each in result.missed),
        *(("not judged", each) for each in result.unjudged),
        ("stages", ", ".join(f"{each.name} ({each.state})" for each in result.stages)),
        ("checkpoint", result.patched),
        ("patch", result.patch),
        ("read this", result.report),
        # Nothing is sent from here.
        *([("then upload", f"hf upload ORG/NAME {shlex.quote(result.patched)} .")] if result.passed else []),
    ]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "release",
        release,
        "release release.yaml",
        "release release.yaml --json --progress jsonl",
        summary="Do all of a release from one file: unlearn, measure, attest.",
    )
