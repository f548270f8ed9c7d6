"""A random sample of a collection of images that is far larger than memory, as a set that the passes read."""

from __future__ import annotations

import hashlib
import json
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from vkdsurgeon.data.formats import records_of
from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.read import IMAGE_SUFFIXES, Given, records_given
from vkdsurgeon.data.rows import Row
from vkdsurgeon.data.samples import file_digest
from vkdsurgeon.data.shards.find import shards_in
from vkdsurgeon.data.shards.shard import Shard, ShardSample
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.directories import claimed, refuse_non_empty, staged
from vkdsurgeon.results.sampling import SampleResult
from vkdsurgeon.training.events import Event, Listener, unheard

RECORDS, IMAGES = "records.jsonl", "images"


def sample_images(
    paths: Sequence[Path],
    out: Path,
    *,
    count: int,
    seed: int = 0,
    forget: Given | None = None,
    images_only: bool = False,
    listen: Listener = unheard,
) -> SampleResult:
    """Draw images from shards, each as likely as any other, and write them as files with a file of records.

    Memory holds one image at a time and one number per drawn image, however many there are. Shards are read twice: for
    their number of images (of a plain tar the headers, of parquet the footer), then for those that were drawn.

    Args:
        paths: Shards, or folders of them: WebDataset tars and parquet files.
        out: A new or empty directory.
        count: How many to draw; all of them where there are fewer.
        seed: Seed of the draw. The same shards in the same order give the same images.
        forget: Images with the bytes of one of this set are passed over.
        images_only: Take over no subject, question or answer.
        listen: Called with progress.

    Raises:
        UserError: A shard is damaged or none, the facts beside an image make no record, nothing is left, or the output
            is not empty.
        SurgeryError: Writing failed.
    """
    if count < 1:
        raise UserError("nothing is to be drawn", where="`count`", value=count, expected="1 or more")
    refuse_non_empty(out)
    out.resolve().parent.mkdir(parents=True, exist_ok=True)
    with claimed(out):
        return _sampled(shards_in(paths), out, count, seed, _digests(forget), images_only, listen)


def _sampled(
    shards: Sequence[Shard],
    out: Path,
    count: int,
    seed: int,
    unwanted: set[str],
    images_only: bool,
    listen: Listener,
) -> SampleResult:
    available = list(_counted(shards, listen))
    total = sum(available)
    if not total:
        raise UserError("the shards hold no images", where=shards[0].path, value=f"{len(shards)} shards")
    drawn = sorted(random.Random(seed).sample(range(total), min(count, total)))
    written = broken = forgotten = 0
    with staged(out) as staging:
        folder = staging / IMAGES
        folder.mkdir()
        with (staging / RECORDS).open("w", encoding="utf-8") as records:
            for number, sample in _read(shards, available, drawn, listen):
                if hashlib.sha256(sample.content).hexdigest() in unwanted:
                    forgotten += 1
                    continue
                # Names say nothing of what is to be seen.
                name = f"{number:010}{sample.suffix if sample.suffix in IMAGE_SUFFIXES else ''}"
                if not _kept(folder / name, sample):
                    broken += 1
                    continue
                row = {"image": f"{IMAGES}/{name}", **({} if images_only else sample.facts)}
                _check(row, sample, staging)
                records.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
        if not written:
            raise UserError(
                "none of the drawn images can be used",
                where=shards[0].path,
                value=f"{broken} broken, {forgotten} to be forgotten",
                expected="images that can be decoded",
            )
    if broken:
        listen(Event.warning(f"{broken} of {len(drawn)} drawn images cannot be decoded and were passed over"))
    return SampleResult(
        records=str(out / RECORDS),
        images=written,
        available=total,
        shards=len(shards),
        seed=seed,
        broken=broken,
        forgotten=forgotten,
    )


def _digests(forget: Given | None) -> set[str]:
    records = [] if forget is None else records_given(forget, role="forget")
    return {file_digest(record.image, record.source) for record in records if record.image is not None}


def _counted(shards: Sequence[Shard], listen: Listener) -> Iterator[int]:
    for number, shard in enumerate(shards, start=1):
        listen(_shard_event("count images", number, shards))
        yield shard.count()


def _read(
    shards: Sequence[Shard], available: Sequence[int], drawn: Sequence[int], listen: Listener
) -> Iterator[tuple[int, ShardSample]]:
    """The drawn samples with their numbers in the whole collection, shard by shard."""
    start = 0
    for number, (shard, end) in enumerate(zip(shards, accumulate(available), strict=True), start=1):
        wanted = drawn[bisect_left(drawn, start) : bisect_left(drawn, end)]
        listen(_shard_event("draw images", number, shards))
        if wanted:
            found = shard.read([each - start for each in wanted])
            yield from zip(wanted, found, strict=True)
        start = end


def _shard_event(stage: str, number: int, shards: Sequence[Shard]) -> Event:
    return Event("shard", facts={"stage": stage, "done": number - 1, "total": len(shards)})


def _kept(path: Path, sample: ShardSample) -> bool:
    path.write_bytes(sample.content)
    try:
        open_image(path, where=sample.source)
    except UserError:
        # One in some thousand of the web's images is broken, and no reason to stop after hours.
        path.unlink()
        return False
    return True


def _check(row: dict[str, object], sample: ShardSample, folder: Path) -> None:
    try:
        list(records_of(Row(row, sample.source), folder, "vqa"))
    except UserError as error:
        raise UserError(
            f"the facts beside an image make no record: {error.what}",
            where=sample.source,
            value=error.value,
            expected=error.expected,
            remedy="take the images alone (images_only)",
        ) from None
