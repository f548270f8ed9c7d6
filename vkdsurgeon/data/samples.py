"""Distinct images (or clips of sound) behind records, told apart by the digest of their bytes."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vkdsurgeon.data.modality import NOUNS, Modality, noun_of
from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or

NO_SUBJECT = "subject"


@dataclass(frozen=True)
class Sample:
    """One image file, or one clip of sound.

    Attributes:
        path: Where it lies.
        subject: Who or what is to be seen or heard; `subject` where the records do not say.
        digest: SHA-256 of the file's bytes, in hex.
        source: `file:line` of the first record that names it.
        variant: 0 is the image as it is, others are altered copies of it (`augment.variants`).
    """

    path: Path
    subject: str
    digest: str
    source: str
    variant: int = 0


def samples_of(records: Iterable[Record], *, role: str, modality: Modality = "image") -> list[Sample]:
    """Collect the distinct images of a set, in order of first appearance; records without an image are passed over.

    Args:
        records: The set.
        role: What the set is for, for messages.
        modality: With `audio` its clips are collected in place of its images.

    Raises:
        UserError: There is no image at all, one cannot be read, or one image has two subjects.
    """
    noun = NOUNS[modality]
    records = list(records)
    digests: dict[Path, str] = {}
    found: dict[str, Sample] = {}
    named: set[str] = set()
    for record in records:
        path: Path | None = getattr(record, modality)
        if path is None:
            continue
        if path not in digests:
            digests[path] = file_digest(path, record.source)
        digest = digests[path]
        known = found.get(digest)
        if known is None:
            found[digest] = Sample(path, record.subject or NO_SUBJECT, digest, record.source)
        elif record.subject is not None and digest in named and known.subject != record.subject:
            if role != "forget":
                # A group image is kept as it is; only what is to be forgotten must be clear.
                continue
            raise UserError(
                f"one {noun} has two subjects in the {role} set",
                where=record.source,
                value=record.subject,
                expected=f"the subject given at {known.source}: {known.subject!r}",
            )
        elif record.subject is not None:
            found[digest] = replace(known, subject=record.subject)
        if record.subject is not None:
            named.add(digest)
    if not found:
        other: Modality = "audio" if modality == "image" else "image"
        remedy = f"it has {NOUNS[other]}s: modality {other}" if any(getattr(each, other) for each in records) else None
        raise UserError(
            f"the {role} set has no {noun}s", expected=f"at least one record with `{modality}`", remedy=remedy
        )
    return list(found.values())


def check_disjoint(forget: Sequence[Sample], retain: Sequence[Sample]) -> None:
    """Refuse images that are to be forgotten and kept at once.

    Raises:
        UserError: Naming one such image and their number.
    """
    kept = {sample.digest: sample for sample in retain}
    both = [sample for sample in forget if sample.digest in kept]
    if both:
        raise UserError(
            f"the forget and the retain set share {len(both)} {noun_of(both[0].path)}(s)",
            where=both[0].source,
            value=str(both[0].path),
            expected=f"disjoint sets; the same bytes are at {kept[both[0].digest].source}",
        )


def records_digest(records: Iterable[Record], salt: bytes = b"") -> str:
    """Digest a set: images by content, and all text; the order counts, the paths do not.

    Args:
        records: The set.
        salt: Secret that keeps the digest of a small set from being guessed; stored apart from the digest.

    Returns:
        SHA-256 in hex; HMAC-SHA-256 where a salt is given.
    """
    hasher = hmac.new(salt, digestmod=hashlib.sha256) if salt else hashlib.sha256()
    digests: dict[Path, str] = {}
    for record in records:
        row = [*asked_content(record, digests), record.subject, record.task, *protocol_content(record, digests)]
        hasher.update(json.dumps(row).encode() + b"\n")
    return hasher.hexdigest()


def asked_content(record: Record, digests: dict[Path, str]) -> list[object]:
    """Image by content, question, answer and options of a record; `digests` remembers images between calls."""
    return [_content(record.media, record.source, digests), record.question, record.answer, list(record.options)]


def protocol_content(record: Record, digests: dict[Path, str]) -> list[object]:
    """What else decides how a record of a benchmark is answered and scored; empty for others."""
    if not isinstance(record, ProtocolRecord):
        return []
    shots = [[_content(shot.image, record.source, digests), shot.question, shot.answer] for shot in record.shots]
    return [
        record.protocol,
        list(record.letters),
        record.right,
        record.paraphrase,
        list(record.perturbed),
        shots,
    ]


def _content(media: Path | None, source: str, digests: dict[Path, str]) -> str | None:
    if media is None:
        return None
    if media not in digests:
        digests[media] = file_digest(media, source)
    return digests[media]


def file_digest(path: Path, source: str) -> str:
    """SHA-256 of a file's bytes, in hex.

    Raises:
        UserError: The file cannot be read, naming `source`.
    """
    try:
        with open(path, "rb") as file:
            hasher = hashlib.sha256()
            while block := file.read(1 << 20):
                hasher.update(block)
            return hasher.hexdigest()
    except OSError as error:
        raise machine_or(
            UserError(f"the {noun_of(path)} cannot be read: {error.strerror}", where=source, value=str(path)), error
        ) from None
