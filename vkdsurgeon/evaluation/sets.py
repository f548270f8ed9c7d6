"""What a result says about a set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vkdsurgeon.data.record import Record
from vkdsurgeon.data.samples import records_digest
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.results.evaluation import SetFacts


def drawn_facts(drawn: Iterable[tuple[NamedSet, Sequence[Record]]], salt: bytes = b"") -> list[SetFacts]:
    """The description of sets, of which some records were drawn and asked, for a result.

    Args:
        drawn: The whole sets, and the records that were asked.
        salt: For `records_digest`.
    """
    return [set_facts(NamedSet(whole.name, tuple(records)), whole, salt) for whole, records in drawn]


def set_facts(chosen: NamedSet, whole: NamedSet, salt: bytes = b"") -> SetFacts:
    """The description of a set for a result.

    Args:
        chosen: The records that were asked.
        whole: The set they were drawn from.
        salt: For `records_digest`.
    """
    return SetFacts(
        name=chosen.name,
        records=len(whole.records),
        asked=len(chosen.records),
        pictures=len({record.media for record in chosen.records if record.media is not None}),
        subjects=len({record.subject for record in chosen.records if record.subject is not None}),
        digest=records_digest(chosen.records, salt),
    )
