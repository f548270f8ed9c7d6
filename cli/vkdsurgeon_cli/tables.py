"""Tables that fit a terminal of eighty columns; `--wide` shows what was left out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from vkdsurgeon.results.evaluation import GateOutcome

_Justify = Literal["left", "right"]
_LEAST_TEXT = 24


@dataclass
class Sheet:
    """A table before it is known how wide it may be.

    Attributes:
        title: Sentence above the table.
        caption: Sentence below it.
    """

    title: str
    caption: str = ""
    _columns: list[tuple[str, _Justify, int]] = field(default_factory=list)
    _notes: dict[int, str] = field(default_factory=dict)
    _rows: list[tuple[str, ...] | None] = field(default_factory=list)

    def column(self, head: str, justify: _Justify = "right", *, drop: int = 0, note: str = "") -> None:
        """Add a column.

        Args:
            head: Its heading.
            justify: Where its cells stand.
            drop: Where the room is too small, columns go by this number, the largest first; 0 never goes.
            note: What the title says of it while it is shown.
        """
        if note:
            self._notes[len(self._columns)] = note
        self._columns.append((head, justify, drop))

    def row(self, *cells: str) -> None:
        """Add a row, one cell per column."""
        self._rows.append(cells)

    def line(self) -> None:
        """Draw a line below the last row."""
        self._rows.append(None)

    def fitted(self, width: int) -> RenderableType:
        """The table with as many of its columns as fit; the others are named below it."""
        shown, dropped = list(range(len(self._columns))), []
        table = self._table(shown)
        while _width(table) > width:
            able = [number for number in shown if self._columns[number][2] > 0]
            if not able:
                break
            # Of equals the last goes first.
            goes = max(able, key=lambda number: (self._columns[number][2], number))
            shown.remove(goes)
            dropped.append(goes)
            table = self._table(shown)
        if _width(table) > width:
            table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
            table.width = width
        below = [self.caption] if self.caption else []
        if dropped:
            heads = ", ".join(" ".join(self._columns[number][0].split()) for number in sorted(dropped))
            below.append(f"not shown: {heads} (--wide)")
        title = "; ".join([self.title, *(note for number, note in self._notes.items() if number in shown)])
        parts: list[RenderableType] = [Text(title)] if title else []
        return Group(*parts, table, *(Text(sentence) for sentence in below), "")

    def _table(self, shown: Sequence[int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for number in shown:
            head, justify, _ = self._columns[number]
            table.add_column(head, justify=justify, no_wrap=True, vertical="bottom")
        for cells in self._rows:
            if cells is None:
                table.add_section()
            else:
                table.add_row(*(escape(cells[number]) for number in shown))
        return table


def stack(sheets: Iterable[Sheet], width: int) -> Group:
    """Tables one below the other."""
    return Group(*(sheet.fitted(width) for sheet in sheets))


def pairs(rows: Iterable[tuple[str, object]], width: int) -> Text:
    """Names and values, one below the other; long values go on in the next line, and no word of them is broken."""
    told = [(name, str(value)) for name, value in rows]
    indent = max((len(name) for name, _ in told), default=0) + 2
    lines = []
    for name, value in told:
        wrapped = textwrap.wrap(
            value, max(width - indent, _LEAST_TEXT), break_long_words=False, break_on_hyphens=False
        ) or [""]
        lines.append(name.ljust(indent) + wrapped[0])
        lines += [" " * indent + line for line in wrapped[1:]]
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")


def gate_sheet(gates: Sequence[GateOutcome]) -> Sheet:
    """Gates and whether they hold."""
    sheet = Sheet("gates")
    sheet.column("gate", "left")
    for head in ("value", "bound"):
        sheet.column(head, drop=1)
    sheet.column("result", "left")
    for gate in gates:
        numbers = ["not measured" if each is None else f"{each:.4f}" for each in (gate.value, gate.bound)]
        sheet.row(gate.gate, *numbers, "passed" if gate.passed else "FAILED")
    return sheet


def percent(value: float | None) -> str:
    """A share as people read it."""
    return "n/a" if value is None else f"{100 * value:.1f}"


def or_blank(value: float | None) -> str:
    """A share as people read it; nothing where there is none."""
    return "" if value is None else percent(value)


def _width(table: Table) -> int:
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum
