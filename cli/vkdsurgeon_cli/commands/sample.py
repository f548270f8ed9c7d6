"""`vkdsurgeon sample`: a set that fits a run, out of a collection that fits no memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import Printing

if TYPE_CHECKING:
    from vkdsurgeon.results.sampling import SampleResult
    from vkdsurgeon_cli.tables import Sheet


def sample_command(
    *,
    shards: Annotated[
        list[Path],
        typer.Argument(metavar="SHARDS...", help="WebDataset tars or parquet files, or folders of them."),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new or empty directory.")],
    count: Annotated[
        int,
        typer.Option("--count", metavar="N", help="How many images to draw. Skipped images are not replaced."),
    ] = 9600,
    forget: Annotated[
        Path | None,
        typer.Option("--forget", metavar="SET", help="Leave out images with bytes or subjects of this set."),
    ] = None,
    images_only: Annotated[
        bool, typer.Option("--images-only", help="Take over no subject, question or answer.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 0,
    printing: Printing,
) -> None:
    """Draw images at random from WebDataset or parquet shards of any size, as a set for --retain or --generic.

    A run uses at most retain_batch times steps images: 9,600 with 300 steps of 32. Memory does not grow with the
    shards. DIR/records.jsonl names the images in DIR/images. In a tar (plain, gz, bz2 or xz) the files of one sample
    follow each other and share their name up to the first dot, such as 001.jpg and 001.json. In parquet the image is a
    struct of bytes and path, or bytes in a column called image, jpg, png or the like. Where a sample has `subject`,
    `question`, `answer` or `options` (keys of the .json, columns of parquet), the record takes them over.
    """
    from vkdsurgeon import sample_images

    output = printing.sink
    result = sample_images(
        shards,
        out,
        count=count,
        seed=seed,
        forget=forget,
        images_only=images_only,
        on_event=output.heard,
    )
    output.document(result.model_dump(mode="json"), lambda: _sheet(result).fitted(output.columns), kept=out)


def _sheet(result: SampleResult) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet

    sheet = Sheet(f"give it as --retain {result.records} or --generic {result.records}")
    sheet.column("", "left")
    sheet.column("images")
    rows = {
        f"in {result.shards} shards": result.available,
        "written": result.images,
        "broken, passed over": result.broken,
        "to be forgotten, passed over": result.forgotten,
        "written without facts": result.undescribed,
    }
    for name, number in rows.items():
        sheet.row(name, f"{number:,}")
    return sheet


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "sample",
        sample_command,
        "sample shards/ -o retain/ --count 9600 --forget forget.jsonl",
        "unlearn model/ --forget forget.jsonl --retain retain/records.jsonl -o patched/",
        summary="Draw images at random from WebDataset or parquet shards.",
    )
