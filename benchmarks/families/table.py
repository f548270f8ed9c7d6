"""docs/families.md from the results of the survey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "families.jsonl"
PAGE = ROOT / "docs" / "families.md"

_HEAD = """# Families

<!-- made by benchmarks/families/table.py from benchmarks/results/families.jsonl: do not edit -->

**{works} of {total} image families work**: every type of transformers' multimodal auto mapping that takes images, with
transformers {transformers}. {refused} are refused, each with its reason below{failed}.

For every type a tiny checkpoint with random weights is built from the family's own config class and saved the way
transformers saves it. It is inspected, unlearned for a few steps with `vkdsurgeon unlearn`, and loaded again by
transformers. This says that the tool handles the layout of a family. It does not say how well a model of that family
forgets: the weights are random, and no checkpoint of the hub was at hand.

The rows come from one run of the survey at one commit. For families that need torchvision its Python part (0.28) was
used, without its compiled operators. Two processors that ask for thousands of patches were made to ask for 16.

A family works where all of this holds:

- **bytes**: only tensors of tower and projector have changed; every other tensor and every other file has its bytes.
- **features**: the patched tower gives bit for bit the features that the model loaded by transformers gives, and others
  than before.
- **text**: the logits of a text without an image are the base's to the bit; `-` where the family has no such text,
  or transformers' auto class does not find the language model in the files (shieldgemma2).
- **batch**: images give the same features alone and in a batch; the number is the largest difference over the largest
  feature.

Layers are those that features can be tapped at. Outputs are what the language model reads: more than one where several
of its depths read features. "Rebuilt" counts visual tensors on disk that transformers takes apart or puts together
while it loads them; they are written back as they were laid out. "By" is `rule` where the model class says everything
by itself, else the file in `vkdsurgeon/model/families/` that knows the family.

"""


def write_page() -> None:
    """Write it."""
    PAGE.write_text(page(read_rows(RESULTS)), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The recorded results, one per family."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def page(rows: list[dict[str, Any]]) -> str:
    """The page for these results."""
    works = [row for row in rows if row["works"]]
    refused = [row for row in rows if not row["works"] and row["refused"]]
    failed = [row for row in rows if not row["works"] and not row["refused"]]
    text = _HEAD.format(
        works=len(works),
        total=len(rows),
        refused=len(refused),
        transformers=rows[0]["transformers"],
        failed=f"; {len(failed)} fail in the survey, and are listed too" if failed else "",
    )
    text += "## Families that work\n\n"
    text += "| type | tower | projector | layers | outputs | by | rebuilt | bytes | features | text | batch | needs |\n"
    text += "|-|-|-|-|-|-|-|-|-|-|-|-|\n"
    text += "".join(_line(row) for row in works)
    for title, group in (("Refused", refused), ("Failed in the survey", failed)):
        if group:
            text += f"\n## {title}\n\n| type | at | reason |\n|-|-|-|\n"
            text += "".join(f"| {row['model_type']} | {row['stage']} | {_reason(row)} |\n" for row in group)
    return text


def _line(row: dict[str, Any]) -> str:
    cells = (
        row["model_type"],
        f"`{row['tower']}`",
        ", ".join(f"`{path}`" for path in row["projector"]) or "inside the tower",
        row["layers"] or "-",
        row["outputs"],
        f"`{row['adapter']}.py`" if row["adapter"] else "rule",
        row["rebuilt"] or "-",
        "same",
        "same",
        "-" if row["text_same"] is None else "same",
        "0" if row["batch_error"] == 0 else f"{row['batch_error']:.0e}",
        ", ".join(row["needs"]) or "-",
    )
    return "| " + " | ".join(map(str, cells)) + " |\n"


def _reason(row: dict[str, Any]) -> str:
    reason = row["reason"].split("; expected:")[0] or "something differs: see benchmarks/results/families.jsonl"
    return str(reason).replace("|", "\\|").replace("<", "&lt;")
