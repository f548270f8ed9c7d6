"""`vkdsurgeon demo`: the whole tool on the built-in miniature, through the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import Printing, SeedOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vkdsurgeon_cli.output import Output

ROWS = (
    ("forget VQA, held-out views", "forget.vqa.accuracy"),
    ("  of which names", "forget.vqa.name.accuracy"),
    ("forget VQA, train views", "forget_train.vqa.accuracy"),
    ("retain VQA", "retain.vqa.accuracy"),
    ("general vision, forget images", "forget.general.accuracy"),
    ("general vision, retain images", "retain.general.accuracy"),
    ("text QA", "text.text.accuracy"),
)
MODELS = (("base", "reference."), ("unlearned", ""), ("gold", "gold."))


def demo(
    *,
    keep: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Keep models, records and results in this new directory."),
    ] = None,
    seed: SeedOption = 0,
    printing: Printing,
) -> None:
    """Unlearn, evaluate and attack the built-in miniature, and show the results in one table.

    The miniature is a small LLaVA that knows 64 drawn people who do not exist; four of them are forgotten. The gold
    model was trained in the same way without their images. The demo takes a few minutes on two CPU cores.
    """
    from vkdsurgeon.files.directories import scratch

    output = printing.sink
    if keep is not None:
        output.document(*_run(keep, seed, output))
        return
    with scratch() as folder:
        output.document(*_run(folder / "demo", seed, output))


def _run(place: Path, seed: int, output: Output) -> tuple[dict[str, Any], Any]:
    from vkdsurgeon.data.miniature import unpack

    started = time.monotonic()
    unpack(place)
    forget, heldout = "records/forget.jsonl", "records/forget_heldout.jsonl"
    retain = "records/retain_heldout.jsonl"

    def vkdsurgeon(*words: object) -> dict[str, Any]:
        return _run_command(output, place, ["vkdsurgeon", *map(str, words), "--json"])

    unlearned = vkdsurgeon(
        "unlearn", "base", "--forget", forget, "--retain", "records/retain.jsonl", "-o", "unlearned", "--seed", seed
    )
    measured = vkdsurgeon(
        "eval", "unlearned", "--base", "base", "--gold", "gold", "--forget", heldout, "--retain", retain,
        "--text", "records/text.jsonl", "--extra-set", f"forget_train={forget}", "-o", "eval.json",
    )  # fmt: skip
    attacked = vkdsurgeon(
        "attack", "relearn", "unlearned", "--gold", "gold", "--forget", forget, "--heldout", heldout,
        "--retain", retain, "--seed", seed, "-o", "relearn.json",
    )  # fmt: skip
    values = {metric["id"]: metric["value"] for metric in (*measured["metrics"], *attacked["metrics"])}
    written = unlearned["written"]
    facts = {
        "schema": "vkdsurgeon/demo/1",
        "accuracy": {
            label.strip(): {name: values[prefix + metric] for name, prefix in MODELS} for label, metric in ROWS
        },
        "relearning": {"ag": values["relearn.ag"], "gold_ag": values["gold.relearn.ag"]},
        "text_answers_identical": values["text.text.agreement"],
        "tensors_changed": written["tensors_changed"],
        "elements_changed": written["elements_changed"],
        "unlearn_seconds": round(sum(unlearned["seconds"].values()), 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    return facts, lambda: _table(facts, output.columns)


def _run_command(output: Output, place: Path, command: list[str]) -> dict[str, Any]:
    """Run one real command, its progress on our stderr, and read the document it prints."""
    output.note("\n$ " + " ".join(command))
    started = time.monotonic()
    words = [sys.executable, "-m", "vkdsurgeon_cli", *command[1:]]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, cwd=place)
    # With 3 the result is there, and the stop rule was not met.
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(command[:2])} ended with status {done.returncode}: {done.stdout.strip()}")
    output.note(f"({time.monotonic() - started:.0f} s)")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _table(facts: dict[str, Any], width: int) -> RenderableType:
    from vkdsurgeon_cli.tables import Sheet

    sheet = Sheet("the built-in miniature, accuracy in percent")
    sheet.column("", "left")
    for name, _ in MODELS:
        sheet.column(name)
    for label, _ in ROWS:
        row = facts["accuracy"][label.strip()]
        sheet.row(label, *(f"{100 * row[name]:.1f}" for name, _ in MODELS))
    relearning = facts["relearning"]
    sheet.row("relearning AG, points", "", f"{relearning['ag']:+.1f}", f"{relearning['gold_ag']:+.1f}")
    sheet.line()
    sheet.row("text answers identical to base", "", f"{100 * facts['text_answers_identical']:.1f}", "")
    sheet.row("tensors changed", "", f"{facts['tensors_changed']}", "")
    sheet.row("elements changed", "", f"{facts['elements_changed']:,}", "")
    sheet.row("seconds to unlearn", "", f"{facts['unlearn_seconds']}", "")
    sheet.row("seconds in all", "", f"{facts['seconds']}", "")
    return sheet.fitted(width)


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "demo",
        demo,
        "demo",
        "demo -o miniature/",
        summary="Unlearn, evaluate and attack the built-in miniature.",
    )
