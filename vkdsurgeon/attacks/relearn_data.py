"""The data of a relearning attack: what the attacker has, and what is measured. Checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vkdsurgeon.attacks.split import Split, divide_by_media, shares_media, split_records
from vkdsurgeon.config.relearn import RelearnPlan
from vkdsurgeon.data.record import Record, to_forget
from vkdsurgeon.data.sets import NamedSet, sample
from vkdsurgeon.errors import UserError


@dataclass(frozen=True)
class Utility:
    """The questions that show whether the model is still of use.

    Attributes:
        part: `retain`; `utility` where that is missing and the forget file's other tasks (what else is on its
            images, and text) stand in; None where there is nothing.
        records: What is asked.
    """

    part: Literal["retain", "utility"] | None
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Material:
    """Everything that attacks use of the sets.

    Attributes:
        splits: Id of the attack -> one split per seed.
        utility: What utility is measured on.
        wholes: The sets, in the order in which they are told.
    """

    splits: Mapping[str, Sequence[Split]]
    utility: Utility
    wholes: tuple[NamedSet, ...]

    def used(self) -> Iterator[tuple[NamedSet, NamedSet]]:
        """Each set as far as it was shown, measured or asked, beside the whole of it."""
        taken = {id(record) for record in self.utility.records}
        for splits in self.splits.values():
            for split in splits:
                taken |= {id(record) for record in (*split.shown, *split.measured)}
        for whole in self.wholes:
            used = tuple(record for record in whole.records if id(record) in taken)
            if used:
                yield NamedSet(whole.name, used), whole


def gather_material(
    forget: NamedSet,
    heldout: NamedSet | None,
    retain: NamedSet | None,
    benign: NamedSet | None,
    unrelated: NamedSet | None,
    plan: RelearnPlan,
) -> Material:
    """Divide the sets as the plan says.

    Args:
        forget: What was to be forgotten.
        heldout: Other views of the same subjects.
        retain: What utility is measured on.
        benign: What the attacker has under `benign`; half of `retain` where it is not given.
        unrelated: What the attacker has under `unrelated`.
        plan: Which attacks.

    Raises:
        UserError: A set that a protocol needs is missing, or what is measured would be shown.
    """
    seed = plan.seeds[0]
    kept: Sequence[Record] = retain.records if retain else ()
    data: dict[str, Sequence[Record]] = {}
    if "benign" in plan.protocol:
        if benign is not None:
            data["benign"] = benign.records
        elif retain is not None:
            data["benign"], kept = divide_by_media(retain.records, seed)
        else:
            raise UserError(
                "protocol benign trains on what is to be kept",
                where="`protocol`",
                value="benign",
                expected="`retain`, half of which is the attacker's, or `benign`",
            )
    if "unrelated" in plan.protocol:
        if unrelated is None:
            raise UserError(
                "protocol unrelated trains on records of your choice",
                where="`protocol`",
                value="unrelated",
                expected="`unrelated`",
            )
        data["unrelated"] = unrelated.records
    _refuse_unused(benign, unrelated, plan)
    views = (*forget.records, *(heldout.records if heldout else ()))
    for protocol, records in data.items():
        _refuse_forgotten(protocol, records, views)
        if "visual" in plan.scope and all(record.media is None for record in records):
            raise UserError(
                f"the data of protocol {protocol} has no image, so it teaches tower and projector nothing",
                where="`scope`",
                value="visual",
                expected="records with images, or another scope",
            )
    splits: dict[tuple[str, float, int], Split] = {}
    for protocol in plan.protocol:
        for fraction in plan.fraction:
            for each in plan.seeds:
                split = split_records(
                    forget.records,
                    heldout.records if heldout else None,
                    protocol=protocol,
                    fraction=fraction,
                    seed=each,
                    data=data.get(protocol),
                )
                if protocol == "views" or (fraction == 1.0 and protocol in ("people", "pairs")):
                    _refuse_shown_views(split)
                splits[protocol, fraction, each] = split
    wholes = [each for each in (forget, heldout, retain, benign, unrelated) if each is not None]
    return Material(
        {case.id: [splits[case.protocol, case.fraction, each] for each in plan.seeds] for case in plan.cases},
        _utility(kept, views if heldout is None else heldout.records, plan.limit, seed, retain is not None),
        tuple(wholes),
    )


def _utility(kept: Sequence[Record], views: Sequence[Record], limit: int | None, seed: int, retained: bool) -> Utility:
    if retained:
        return Utility("retain", tuple(sample(kept, limit, seed)))
    others = [record for record in views if not to_forget(record)]
    return Utility("utility", tuple(sample(others, limit, seed))) if others else Utility(None, ())


def _refuse_unused(benign: NamedSet | None, unrelated: NamedSet | None, plan: RelearnPlan) -> None:
    for given, flag, protocol in ((benign, "`benign`", "benign"), (unrelated, "`unrelated`", "unrelated")):
        if given is not None and protocol not in plan.protocol:
            raise UserError(
                "no chosen protocol uses this set",
                where=flag,
                expected=f"`protocol={protocol}`",
                remedy=f"add {protocol} to `protocol`, or leave {flag} out",
            )


def _refuse_forgotten(protocol: str, records: Sequence[Record], views: Sequence[Record]) -> None:
    targets = [record for record in views if to_forget(record)]
    subjects = {record.subject for record in targets} - {None}
    about = next((record for record in records if record.subject in subjects), None)
    about = about or shares_media(targets, records)
    if about is not None:
        raise UserError(
            f"the data of protocol {protocol} shows a forget subject",
            where=about.source,
            expected="no image and no subject of the forget set",
            remedy="leave these records out; protocols people, pairs and views are for training on the forget set",
        )


def _refuse_shown_views(split: Split) -> None:
    twice = shares_media(split.shown, split.measured)
    if twice is not None:
        raise UserError(
            "an image that is shown to the attacker would be measured as well",
            where=twice.source,
            expected="other images of the same subjects in `heldout`",
        )
