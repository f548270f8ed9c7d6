"""A random sample of a collection of images that is far larger than memory, as a set that the passes read."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from vkdsurgeon.data.formats import records_of
from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.read import IMAGE_SUFFIXES, Given, records_given
from vkdsurgeon.data.rows import Row, refuse_surrogates
from vkdsurgeon.data.samples import file_digest
from vkdsurgeon.data.shards.find import shards_in
from vkdsurgeon.data.shards.shard import Shard, ShardSample
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.directories import claimed, make_parent, refuse_non_empty, staged
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
        forget: Images with the bytes of one of this set, or of a subject of it, are passed over.
        images_only: Take over no subject, question or answer.
        listen: Called with progress.

    Raises:
        UserError: A shard is damaged, none, or changed meanwhile, nothing is left, or the output is not empty.
        SurgeryError: Writing failed.
    """
    if count < 1:
        raise UserError("nothing is to be drawn", where="`count`", value=count, expected="1 or more")
    refuse_non_empty(out)
    shards = shards_in(paths)
    unwanted = _Unwanted.of(forget)
    make_parent(out)
    with claimed(out), staged(out) as staging:
        return _sampled(shards, out, staging, count, seed, unwanted, images_only, listen)


@dataclass(frozen=True)
class _Unwanted:
    """What tells an image that is to be forgotten: its bytes, or whom the shard says that it shows."""

    digests: frozenset[str]
    subjects: frozenset[str]

    @classmethod
    def of(cls, forget: Given | None) -> _Unwanted:
        records = [] if forget is None else records_given(forget, role="forget")
        shown = [record for record in records if record.image is not None]
        if forget is not None and not shown:
            raise UserError("the forget set has no images", where=forget if isinstance(forget, Path) else None)
        return cls(
            frozenset(file_digest(record.image, record.source) for record in shown if record.image is not None),
            frozenset(record.subject for record in shown if record.subject is not None),
        )

    def has(self, sample: ShardSample) -> bool:
        subject = sample.facts.get("subject")
        named = isinstance(subject, str) and unicodedata.normalize("NFC", subject) in self.subjects
        return named or hashlib.sha256(sample.content).hexdigest() in self.digests


def _sampled(
    shards: Sequence[Shard],
    out: Path,
    staging: Path,
    count: int,
    seed: int,
    unwanted: _Unwanted,
    images_only: bool,
    listen: Listener,
) -> SampleResult:
    states = [_state(shard) for shard in shards]
    available = list(_counted(shards, listen))
    total = sum(available)
    if apart := sum(shard.apart for shard in shards):
        listen(
            Event.warning(f"{apart} .json files have no image of their name beside them; nothing is taken from them")
        )
    if not total:
        raise UserError("the shards hold no images", where=shards[0].path, value=f"{len(shards)} file(s)")
    drawn = sorted(random.Random(seed).sample(range(total), min(count, total)))
    folder = staging / IMAGES
    folder.mkdir()
    written = broken = forgotten = undescribed = 0
    doubt = ""
    with (staging / RECORDS).open("w", encoding="utf-8") as records:
        for number, sample in _read(shards, states, available, drawn, not images_only, listen):
            if unwanted.has(sample):
                forgotten += 1
                continue
            # Names say nothing of what is to be seen.
            name = f"{number:010}{sample.suffix if sample.suffix in IMAGE_SUFFIXES else ''}"
            if not _kept(folder / name, sample):
                broken += 1
                continue
            row: dict[str, object] = {"image": f"{IMAGES}/{name}"}
            fault = sample.fault or _fault({**row, **sample.facts}, sample, staging)
            if fault is None:
                row |= sample.facts
            else:
                undescribed, doubt = undescribed + 1, doubt or f"{sample.source}: {fault}"
            records.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    if not written:
        raise UserError(
            "none of the drawn images can be used",
            where=shards[0].path,
            value=f"{broken} empty or broken, {forgotten} to be forgotten",
            expected="images of others that can be decoded",
        )
    if broken:
        listen(Event.warning(f"{broken} of {len(drawn)} drawn images are empty or broken, and were passed over"))
    if undescribed:
        listen(
            Event.warning(f"{undescribed} images go without what the shard says of them, which is no record: {doubt}")
        )
    # Staging is private; a set is for whoever may read the folder that it lies in.
    shutil.copymode(folder, staging)
    return SampleResult(
        records=str(out / RECORDS),
        images=written,
        available=total,
        shards=len(shards),
        seed=seed,
        broken=broken,
        forgotten=forgotten,
        undescribed=undescribed,
    )


def _state(shard: Shard) -> tuple[int, int]:
    try:
        found = shard.path.stat()
    except OSError:
        raise UserError("the shard is no longer there", where=shard.path) from None
    return found.st_size, found.st_mtime_ns


def _counted(shards: Sequence[Shard], listen: Listener) -> Iterator[int]:
    for number, shard in enumerate(shards, start=1):
        listen(_shard_event("count images", number, shards))
        yield shard.count()


def _read(
    shards: Sequence[Shard],
    states: Sequence[tuple[int, int]],
    available: Sequence[int],
    drawn: Sequence[int],
    described: bool,
    listen: Listener,
) -> Iterator[tuple[int, ShardSample]]:
    """The drawn samples with their numbers in the whole collection, shard by shard."""
    start = 0
    for number, (shard, state, end) in enumerate(zip(shards, states, accumulate(available), strict=True), start=1):
        wanted = drawn[bisect_left(drawn, start) : bisect_left(drawn, end)]
        listen(_shard_event("draw images", number, shards))
        left = iter(wanted)
        if wanted and _state(shard) == state:
            yield from zip(left, shard.read([each - start for each in wanted], described=described), strict=False)
        if next(left, None) is not None or _state(shard) != state:
            raise UserError("the shard was changed while it was read", where=shard.path, remedy="sample again")
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


def _fault(row: Mapping[str, object], sample: ShardSample, folder: Path) -> str | None:
    """Why a row is no record; None where it is one."""
    try:
        refuse_surrogates(row, sample.source)
        list(records_of(Row(dict(row), sample.source), folder))
    except UserError as error:
        return error.what
    return None
