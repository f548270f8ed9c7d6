"""Errors that a person or a pipeline can act on."""

from __future__ import annotations

from collections.abc import Mapping


class UserError(ValueError):
    """The user's input is wrong; the process ends with status 2 and nothing was written.

    Args:
        what: What is wrong, as a clause without a full stop.
        where: The file, `file:line`, tensor or option it was found in.
        value: The offending value, shown with `repr`.
        expected: What would have been right.
        remedy: What to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        value: object = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.value = None if value is None else _short(value)
        self.expected = expected
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        if self.value is not None:
            head += f" (got {self.value})"
        lines = [head]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.remedy:
            lines.append(f"hint: {self.remedy}")
        return "\n".join(lines)

    @classmethod
    def of(cls, facts: Mapping[str, str | None]) -> UserError:
        """The error that another process told by `as_dict`."""
        made = cls("")
        made.what = str(facts["what"])
        made.where, made.value = facts["where"], facts["value"]
        made.expected, made.remedy = facts["expected"], facts["remedy"]
        made.args = (str(made),)
        return made

    def as_dict(self) -> dict[str, str | None]:
        """The same facts for `--json`."""
        return {
            "what": self.what,
            "where": self.where,
            "value": self.value,
            "expected": self.expected,
            "remedy": self.remedy,
        }


class SurgeryError(RuntimeError):
    """Something the user did not cause failed (disk full, verification); status 1, nothing half-written stays."""


class Diverged(SurgeryError):
    """The loss is not finite. The same run would end there again, so there is nothing to resume."""


class GateFailed(Exception):
    """A measured value missed its gate; the result was written first. Status 3.

    Args:
        failures: One sentence per gate that failed.
    """

    def __init__(self, failures: list[str]) -> None:
        self.failures = failures
        super().__init__("; ".join(failures))


def _short(value: object, limit: int = 200) -> str:
    text = repr(str(value)) if not isinstance(value, (int, float, bool, list, tuple, dict)) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
