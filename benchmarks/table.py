"""The kernel benchmarks as a markdown table.

    python -m benchmarks.table [--write]

Takes from benchmarks/results/kernels.jsonl the rows of each device with the versions of its newest row. `--write` also
puts the table between its markers in docs/kernels.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import RESULTS, ROOT, read

PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- kernel benchmarks: python -m benchmarks.table --write -->", "<!-- end of kernel benchmarks -->"


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as markdown: one table per device, one line per case; devices of a kind without rows are not measured.

    Args:
        rows: In the order in which they were recorded.

    Returns:
        Markdown without a trailing newline.
    """
    parts = []
    for kind in ("cpu", "gpu"):
        of_kind = [row for row in rows if row["device"]["kind"] == kind]
        names = list(dict.fromkeys(_name(row) for row in of_kind))
        parts += [_device(name, [row for row in of_kind if _name(row) == name]) for name in names]
        if not names:
            parts.append(f"{kind.upper()}: not measured.")
    return "\n\n".join(parts)


def between_markers(text: str) -> str:
    """What stands between the markers of a document.

    Raises:
        ValueError: The markers are missing.
    """
    return _split(text)[1].strip("\n")


def _device(name: str, rows: Sequence[dict[str, Any]]) -> str:
    versions = rows[-1]["versions"]
    newest = {(row["operation"], row["case"]): row for row in rows if row["provider"] == "ours"}
    ours = sorted((row for row in newest.values() if row["versions"] == versions), key=_order)
    lines = [
        f"{name}; torch {versions['torch']}, triton {versions['triton'] or 'not installed'}:",
        "",
        "| operation | case | ms | GB/s | % of copy | times faster than (required) |",
        "|-|-|-|-|-|-|",
    ]
    for row in ours:
        ratios = [
            f"{provider} {ratio:.3g}" + (f" (>= {row['required'][provider]:g})" if provider in row["required"] else "")
            for provider, ratio in row["ratios"].items()
        ]
        cells = [
            row["operation"], row["case"].replace("|", r"\|"), f"{row['median_ms']:.3g}", f"{row['gb_s']:.3g}",
            f"{row['percent_of_copy']:.0f}", ", ".join(ratios),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _order(row: dict[str, Any]) -> tuple[str, str]:
    return row["operation"], row["case"]


def _name(row: dict[str, Any]) -> str:
    device = row["device"]
    return f"{device['name']}, {device['width']} threads" if device["kind"] == "cpu" else str(device["name"])


def _split(text: str) -> tuple[str, str, str]:
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks {BEGIN} or {END}")
    return before, inside, after


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; put it into the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name} too")
    parser.add_argument("--rows", type=Path, default=RESULTS / "kernels.jsonl")
    parser.add_argument("--into", type=Path, default=PAGE)
    chosen = parser.parse_args(arguments)
    table = render(read(chosen.rows))
    print(table)
    if chosen.write:
        before, _, after = _split(chosen.into.read_text())
        chosen.into.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
