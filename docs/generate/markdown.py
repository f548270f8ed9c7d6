"""What all made pages share."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
MADE = "<!-- made by docs/generate from the code: change the code, then run `python -m docs.generate` -->\n"


def row(*cells: str) -> str:
    """A line of a table."""
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"
