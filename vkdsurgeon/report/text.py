"""Numbers and foreign text as people read them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from vkdsurgeon.results.evaluation import EvalResult

_NUMBERED = re.compile(r"subject-\d+")
# Words of our own ids: a subject of that name would take the ids apart, and tells nothing by them.
_VOCABULARY = frozenset(
    {"model", "reference", "gold", "forget", "retain", "text", "accuracy", "general", "vqa", "name"}
)
_LONGEST = 400


class Wording:
    """Makes text from documents fit to be shown.

    Args:
        names: Subjects that must not appear; None where names were asked for.
    """

    def __init__(self, names: Iterable[str] | None) -> None:
        spoken = {name.strip() for name in names or ()}
        # What has no letter is a number of somebody's, and would take figures apart.
        known = {name for name in spoken if re.search(r"[^\W\d_]", name) and name.lower() not in _VOCABULARY}
        parts = (
            r"[\s._-]*".join(map(re.escape, re.split(r"[\s._-]+", name)))
            for name in sorted(known, key=len, reverse=True)
        )
        joined = "|".join(parts)
        self._names = re.compile(rf"(?<![^\W_])(?:{joined})(?![^\W_])", re.IGNORECASE) if joined else None

    def __call__(self, text: str) -> str:
        """Take names, control characters and excess length out of a text."""
        shown = "".join(
            " " if char.isspace() else "\ufffd" if unicodedata.category(char)[0] == "C" else char for char in text
        )
        if self._names is not None:
            shown = self._names.sub("(subject)", shown)
        return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def names_in(evaluations: Iterable[EvalResult]) -> set[str]:
    """Subjects that documents tell by name, because examples were asked for when they were made."""
    found: set[str] = set()
    for result in evaluations:
        found |= {row.subject for row in result.subjects} | {row.subject for row in result.examples if row.subject}
    return {name for name in found if not _NUMBERED.fullmatch(name)}


def percent(value: float | None) -> str:
    """A share in percent, without the sign of the unit."""
    return "not measured" if value is None else f"{_zero(100 * value):.1f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval of shares in percent; empty where there is none."""
    if low is None or high is None:
        return ""
    # Beside a minus sign a dash is read as another one.
    return f"{percent(low)}–{percent(high)}" if percent(low)[0] != "−" else f"{percent(low)} to {percent(high)}"


def difference(value: float | None) -> str:
    """A difference of shares in points, with its sign."""
    return points(None if value is None else 100 * value)


def points(value: float | None) -> str:
    """Points with their sign."""
    if value is None:
        return "not measured"
    return f"{value:+.1f}".replace("-", "−") if _zero(value) else "0.0"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short(digest: str) -> str:
    """The start of a digest, enough to tell two apart by eye."""
    return digest[:12]


def _zero(value: float) -> float:
    # No "-0.0".
    return 0.0 if abs(value) < 0.05 else value
