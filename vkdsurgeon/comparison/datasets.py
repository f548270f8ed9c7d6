"""The sets of a comparison, read and checked before anything is run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vkdsurgeon.attacks.split import split_records
from vkdsurgeon.comparison.request import ComparedProtocol, Comparison
from vkdsurgeon.comparison.text_split import divide_text, write_text
from vkdsurgeon.data.read import read_records, require_answers
from vkdsurgeon.data.samples import records_digest
from vkdsurgeon.data.sets import NamedSet, read_set
from vkdsurgeon.decoder_pass.text_set import FEWEST
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.results.comparison import Cell


@dataclass
class Case:
    """A comparison whose sets were read.

    Attributes:
        asked: The comparison.
        forget: The forget set.
        heldout: Other views of its subjects, where there are any.
        measured: What every model is asked.
        given_text: The part of the text set that methods may be given.
        digests: Digests of every set, by its use.
        protocols: The relearning protocols that these sets allow.
        warnings: What a reader should know.
    """

    asked: Comparison
    forget: NamedSet
    heldout: NamedSet | None
    measured: list[NamedSet]
    given_text: Path | None
    digests: dict[str, str]
    protocols: list[ComparedProtocol]
    warnings: list[str] = field(default_factory=list)

    @property
    def cells(self) -> Path:
        """The directory of finished runs."""
        return self.asked.out / "cells"

    @property
    def measured_on(self) -> dict[str, str]:
        """For the result: which part of each set was asked."""
        told = {
            "forget": "held-out views" if self.heldout else "the forget set itself",
            "retain": "held-out views" if self.asked.retain_heldout else "the retain set itself",
        }
        return told | ({"text": "the half of the text set that no method is given"} if self.asked.text else {})


MARK = ".vkdsurgeon-compare"


def check_place(out: Path) -> None:
    """Refuse an output directory that holds something else.

    Raises:
        UserError: The directory is not empty and not from an earlier comparison, is a file, or has no parent.
    """
    if out.exists() and not out.is_dir():
        raise UserError("the output exists and is no directory", where=out, remedy="name a directory")
    if not out.absolute().parent.is_dir():
        raise UserError("the output's parent directory does not exist", where=out.absolute().parent)
    if out.is_dir() and any(out.iterdir()) and not _is_earlier(out):
        raise UserError(
            "the directory is not from an earlier comparison",
            where=out,
            expected="a new or empty directory, or one from an earlier `compare`",
            remedy="name another one",
        )


def mark_place(out: Path) -> None:
    """Mark the output directory as what it is, since results in it are replaced and models removed.

    Args:
        out: From `check_place`, held by this process alone.
    """
    if not (out / MARK).exists():
        write_whole(out / MARK, "vkdsurgeon compare keeps its results here, and replaces and removes them\n")


def _is_earlier(out: Path) -> bool:
    if (out / MARK).is_file():
        return True
    # Before there was a mark, finished cells told.
    cells = (out / "cells").glob("*.json") if (out / "cells").is_dir() else ()
    return any(_is_cell(path) for path in cells)


def _is_cell(path: Path) -> bool:
    try:
        Cell.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return True


def read_case(asked: Comparison, scratch: Path) -> Case:
    """Read the sets of a comparison.

    Args:
        asked: The comparison.
        scratch: Where the part of the text goes that methods are given; it has to be there while they run.

    Raises:
        UserError: A set cannot be read, or something in it cannot be measured.
    """
    forget = read_set("forget", asked.forget)
    retain = read_records(asked.retain, role="retain")
    require_answers(retain, role="retain")
    heldout = read_set("forget", asked.heldout) if asked.heldout else None
    kept = read_set("retain", asked.retain_heldout) if asked.retain_heldout else NamedSet("retain", tuple(retain))
    case = Case(
        asked=asked,
        forget=forget,
        heldout=heldout,
        measured=[heldout or forget, kept],
        given_text=None,
        digests={"forget": records_digest(forget.records), "retain": records_digest(retain)},
        protocols=[],
    )
    if asked.text:
        _take_text(case, asked.text, scratch)
    case.digests |= {f"measured {named.name}": records_digest(named.records) for named in case.measured}
    for protocol in asked.protocols:
        try:
            split_records(forget.records, heldout.records if heldout else None, protocol=protocol, fraction=0.5, seed=0)
            case.protocols.append(protocol)
        except UserError as error:
            case.warnings.append(f"no AG by protocol {protocol}: {error.what}")
    if heldout is None:
        case.warnings.append("forgetting is measured on the forget set's own images; give `heldout` for other views")
    if asked.gold is None:
        case.warnings.append("no gold model (`gold`): nothing says how much forgetting is right, and there is no score")
    return case


def _take_text(case: Case, path: Path, scratch: Path) -> None:
    given, measured = divide_text(read_set("text", path).records)
    case.measured.append(NamedSet("text", tuple(measured)))
    if len({record.question for record in given}) < FEWEST:
        case.warnings.append(
            "the text set is too small to be divided, so methods are given none of it; give more questions in `text`"
        )
        return
    case.given_text = write_text(given, scratch / "text.jsonl")
    case.digests["given text"] = records_digest(given)
