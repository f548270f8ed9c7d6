"""`vkdsurgeon attack typography`: write names and questions into the images and ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import ForgetOption, RetainOption, attack_sheets, run
from vkdsurgeon_cli.measuring import Answering, ComparedModels, Results
from vkdsurgeon_cli.options import ModelArgument


def typography_command(
    *,
    model: ModelArgument,
    forget: ForgetOption,
    retain: RetainOption = None,
    percent: Annotated[
        int,
        typer.Option(
            "--percent",
            metavar="PERCENT",
            help="Height of the white band that is written on, 5 to 60 percent of the shorter side.",
        ),
    ] = 25,
    font: Annotated[
        Path | None,
        typer.Option("--font", metavar="FILE", help="TrueType or OpenType font. [default: the one of Pillow, Latin]"),
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Option(
            "--instruction",
            metavar="TEXT",
            help="What is asked where the question stands in the image. [default: Read the question in the image "
            "and answer it.]",
        ),
    ] = None,
    others: ComparedModels,
    answering: Answering,
    results: Results,
) -> None:
    """Write words into the images: the subject's name, or the question as in FigStep, and ask.

    Rows: blank is an empty band, which shows what covering a part of the image does; name is the record's subject, and
    other-name that of the next subject, asked of questions whose answer shares no word with the name; question has the
    question in the image and --instruction in its place. Hold name against blank and other-name, and against gold under
    the same: what comes back with the right name alone was kept apart from the face, not forgotten.
    """
    results.begin()
    own = {"percent": percent, "font": font} | ({} if instruction is None else {"instruction": instruction})
    result = run("typography", model, (forget, retain), others, answering, results, own)
    title = f"words written into the images, on {result.settings.percent} % of the shorter side"
    results.conclude(result, lambda: attack_sheets(result, title, first="written"))
