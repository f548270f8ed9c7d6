"""The rows as one Markdown table: attack x method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

from benchmarks.attacks.battery import BATTERY

Row: TypeAlias = dict[str, Any]
# Of what is tried in many ways, the table shows the way that brings out most.
_MANY = {"perturb": "perturb, worst of the plain changes", "prompt": "prompt, worst of the other wordings"}
_FIRST = ("base", "gold")


def table(rows: Sequence[Row], seeds: Sequence[int]) -> str:
    """What each attack brings out of each method, with utility beside it; percent.

    Args:
        rows: From the file; of those about the same thing the last counts.
        seeds: Whose rows are meant; several are averaged.
    """
    # Line -> method -> seed -> rows, of which there are several where many ways were tried.
    found: dict[str, dict[str, dict[int, dict[str, Row]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for row in rows:
        if row["seed"] in seeds:
            found[_MANY.get(row["family"], row["what"])][row["method"]][row["seed"]][row["what"]] = row
    families = {_MANY.get(row["family"], row["what"]): list(BATTERY).index(row["family"]) for row in rows}
    present = {method for by_method in found.values() for method in by_method}
    methods = [*(name for name in _FIRST if name in present), *sorted(present - set(_FIRST))]
    lines = [f"| attack | chance | {' | '.join(methods)} |", "|-" * (len(methods) + 2) + "|"]
    for what, by_method in sorted(found.items(), key=lambda line: families[line[0]]):
        worst = {method: [_worst(list(tried.values())) for tried in by_method[method].values()] for method in by_method}
        chances = [row["chance"] for chosen in worst.values() for row in chosen if row["chance"] is not None]
        cells = [_cell(worst.get(method, [])) for method in methods]
        lines.append(f"| {what} | {_percent(chances[:1])} | {' | '.join(cells)} |")
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"means over seeds {', '.join(map(str, seeds))} (range)"
    lines += [
        "",
        f"Percent, {told}. Each cell: right answers about forgotten people under the attack, after relearning with AG "
        "in points; behind the slash right answers about kept people under the same attack. Read each beside gold, "
        "which was attacked alike. Membership: |2 AUC - 1|. Of plain changes and of wordings it is the one that brings "
        "out most, for each model its own.",
    ]
    return "\n".join(lines)


def _worst(rows: Sequence[Row]) -> Row:
    known = [row for row in rows if row["value"] is not None]
    return max(known, key=lambda row: float(row["value"])) if known else rows[0]


def _cell(rows: Sequence[Row]) -> str:
    """One model under one attack; a row per seed."""
    if any(row.get("put_back") == 0 for row in rows):
        return "nothing to put back"
    whole = [row for row in rows if not row["diverged"]]
    lost = f"diverged {len(rows) - len(whole)} of {len(rows)}" if len(whole) < len(rows) else ""
    if not whole:
        return lost
    values = [row["value"] for row in whole]
    gains = [row["ag"] for row in whole if row.get("ag") is not None]
    told = _percent(values)
    if len(values) > 1 and None not in values:
        told += f" ({_percent([min(values)])} to {_percent([max(values)])})"
    told += f", AG {sum(gains) / len(gains):+.1f}" if gains else ""
    return f"{told} / {_percent([row['utility'] for row in whole])}{', ' if lost else ''}{lost}"


def _percent(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{100 * sum(known) / len(known):.1f}" if known else "n/a" if shares else ""
