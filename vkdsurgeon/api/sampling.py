"""Making a set out of a large collection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vkdsurgeon.api.arguments import optional_records, paths_of
from vkdsurgeon.api.names import PathLike, RecordSet
from vkdsurgeon.training.events import Listener, unheard

if TYPE_CHECKING:
    from vkdsurgeon.results.sampling import SampleResult


def sample_images(
    shards: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    count: int = 9600,
    seed: int = 0,
    forget: RecordSet | None = None,
    images_only: bool = False,
    on_event: Listener | None = None,
) -> SampleResult:
    """Draw images from WebDataset or parquet shards of any size, and write them as a set for `retain` or `generic`.

        drawn = sample_images("shards/", "retain/", forget="forget.jsonl")
        unlearn("model/", "forget.jsonl", "patched/", retain=drawn.records)

    Every image is as likely as any other. Memory holds one image at a time, however many there are.

    Args:
        shards: Tars and parquet files, or folders of them. In a tar, the files of a sample share their name up to the
            first dot and follow each other. In parquet, the image is a struct of `bytes` and `path`, or bytes in a
            column called `image`, `jpg`, `png` or the like.
        out: The directory to create, or an empty one.
        count: How many images to draw. A run uses at most `retain_batch` times `steps`.
        seed: Seed of the draw. The same shards in the same order give the same images.
        forget: Same as in `unlearn`. Images with the bytes of one of these, or of one of their subjects, are left out.
        images_only: Take over no subject, question or answer from the shards.
        on_event: Called with progress.

    Raises:
        UserError: A shard is damaged or changes meanwhile, no image can be used, or the output is not empty.
        SurgeryError: The disk is full, or writing failed otherwise.
    """
    from vkdsurgeon.pipeline.sample_images import sample_images as run

    return run(
        paths_of(shards),
        Path(out),
        count=count,
        seed=seed,
        forget=optional_records(forget),
        images_only=images_only,
        listen=on_event or unheard,
    )
