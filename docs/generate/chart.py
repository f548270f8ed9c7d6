"""The bars of the miniature."""

from __future__ import annotations

import re

_COLOURS = {"base": "#8a94a6", "unlearned": "#1f6feb", "gold": "#d4a017"}


def chart(page: str) -> str:
    """The table of the miniature on a page as bars; rows without a value for the base are left out."""
    found = re.search(r"^\| \| base \| unlearned \| gold \|\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    if found is None:
        raise SystemExit("docs/index.md lacks the table of the miniature")
    cells = [[each.strip() for each in line.strip("|\n").split("|")] for line in found[1].splitlines()]
    rows = [(label, [float(value) for value in values]) for label, *values in cells if values[0]]
    left, top, wide, bar, gap = 250, 44, 360, 13, 16
    tall = top + len(rows) * (3 * bar + gap) + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {tall}" width="680" height="{tall}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>Right answers on the miniature in percent: {_spoken(rows)}</title>",
        f'<rect width="680" height="{tall}" rx="8" fill="#ffffff"/>',
    ]
    for index, (name, colour) in enumerate(_COLOURS.items()):
        x = left + index * 110
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="24" fill="#1f2328">{name}</text>')
    for index, (label, values) in enumerate(rows):
        y = top + index * (3 * bar + gap)
        parts.append(f'<text x="{left - 12}" y="{y + 1.5 * bar + 4:g}" text-anchor="end" fill="#1f2328">{label}</text>')
        for place, (value, colour) in enumerate(zip(values, _COLOURS.values(), strict=True)):
            at, length = y + place * bar, max(1.5, value / 100 * wide)
            parts.append(f'<rect x="{left}" y="{at}" width="{length:.1f}" height="{bar - 2}" rx="2" fill="{colour}"/>')
            parts.append(
                f'<text x="{left + length + 6:.1f}" y="{at + 10}" font-size="11" fill="#1f2328">{value}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _spoken(rows: list[tuple[str, list[float]]]) -> str:
    return "; ".join(
        f"{label}: " + ", ".join(f"{name} {value}" for name, value in zip(_COLOURS, values, strict=True))
        for label, values in rows
    )
