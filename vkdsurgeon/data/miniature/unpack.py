"""The miniature as it is shipped inside the package, brought to a directory.

It is the one of seed 0, the first seed that was tried with these settings; the card says how well base and gold answer.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vkdsurgeon.files.directories import make_parent, refuse_non_empty, staged

CARD = "card.json"
SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class MiniaturePaths:
    """Where the parts of an unpacked miniature are.

    Attributes:
        base: Checkpoint that saw everybody.
        gold: Checkpoint trained the same way without images of the forget people.
        records: Directory with `forget.jsonl`, `forget_heldout.jsonl`, `retain.jsonl`, `retain_heldout.jsonl`,
            `generic.jsonl`, `text.jsonl` and `images/`.
    """

    base: Path
    gold: Path
    records: Path


def read_card() -> dict[str, Any]:
    """How the shipped miniature was made: seed, sizes, versions, accuracies of base and gold."""
    card: dict[str, Any] = json.loads((SHIPPED / CARD).read_text(encoding="utf-8"))
    return card


def unpack(out: Path) -> MiniaturePaths:
    """Write the shipped miniature: two checkpoints, the records with their images, the card.

    Args:
        out: A directory that is missing or empty.

    Returns:
        Where the parts are.

    Raises:
        UserError: `out` is a file or not empty, or cannot be made.
        SurgeryError: The disk is full, or writing failed otherwise; nothing is left.
    """
    refuse_non_empty(out)
    make_parent(out)
    with staged(out) as staging:
        for name in ("base", "gold"):
            (staging / name).mkdir()
            for file in (SHIPPED / name).iterdir():
                shutil.copyfile(file, staging / name / file.name)
        shutil.copyfile(SHIPPED / CARD, staging / CARD)
        with zipfile.ZipFile(SHIPPED / "records.zip") as packed:
            packed.extractall(staging / "records")
        # What is staged is its owner's alone; nothing in here is anybody's secret.
        shutil.copymode(staging / "records", staging)
    return MiniaturePaths(out / "base", out / "gold", out / "records")


def unpack_generic(out: Path) -> Path:
    """Write the images of strangers alone, for retention where no retain set is given.

    Args:
        out: A directory; created where missing, other files in it are left alone.

    Returns:
        The records, `generic.jsonl`; their images lie in `images/` beside it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(SHIPPED / "records.zip") as packed:
        records = packed.read("generic.jsonl").decode("utf-8")
        images = {json.loads(line)["image"] for line in records.splitlines()}
        packed.extractall(out, members=["generic.jsonl", *sorted(images)])
    return out / "generic.jsonl"
