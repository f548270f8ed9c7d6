"""Shows the events of a search over recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vkdsurgeon_cli.run_listener import RunListener

if TYPE_CHECKING:
    from vkdsurgeon.training.events import Event
    from vkdsurgeon.tuning.result import Attempt

_OBJECTIVES = ("forget", "retain", "robust")


class TrialListener(RunListener):
    """Adds finished trials to what a run tells."""

    def __call__(self, event: Event) -> None:
        """Handle an event."""
        if event.kind == "trial":
            self.attempted(event.subject, event.facts["trials"])
        else:
            super().__call__(event)

    def attempted(self, attempt: Attempt, trials: int) -> None:
        """Show a finished trial."""
        values = "  ".join(f"{name} {attempt.values[name]:.4f}" for name in _OBJECTIVES if name in attempt.values)
        told = f"failed: {attempt.reason}" if attempt.reason else values
        self._output.note(f"trial {attempt.number + 1}/{trials}: {told}  ({describe_changes(attempt.changes)})")


def describe_changes(changes: Mapping[str, Any]) -> str:
    """How a trial differs from the first, in words."""
    return (
        ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in changes.items()
        )
        or "the start recipe"
    )
