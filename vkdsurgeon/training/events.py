"""Progress events: one type for every kind of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Step:
    """The loss and metrics of one training step, measured before the weights move.

    Attributes:
        step: Its number, counted from 1.
        steps: Number of steps of the schedule.
        loss: The whole loss, weights of its terms included.
        values: Other measured values, by name.
        seconds_left: Estimate for the rest of the schedule.
    """

    step: int
    steps: int
    loss: float
    values: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float = 0.0

    def flat(self) -> dict[str, Any]:
        """All of it as one level of names and numbers, for journals and JSON lines."""
        return {
            "step": self.step,
            "steps": self.steps,
            "loss": self.loss,
            **self.values,
            "seconds_left": self.seconds_left,
        }

    @classmethod
    def from_flat(cls, facts: Mapping[str, Any]) -> Step:
        """The step that `flat` was made of.

        Raises:
            KeyError: A number is missing.
        """
        own = {name: facts[name] for name in ("step", "steps", "loss", "seconds_left")}
        return cls(**own, values={name: value for name, value in facts.items() if name not in own})


@dataclass(frozen=True, eq=False)
class Event(Mapping[str, Any]):
    """A progress event of a run.

    As a mapping it has the content of its JSON line: `event` (the kind), the facts, and `text`.

    Attributes:
        kind: `plan`, `stage`, `step`, `verdict`, `note`, `warning` and more; those of the decoder pass begin with
            `decoder `; measurements have `model`, `answers`, `attack`.
        text: A sentence for people; may be empty.
        facts: Names and numbers, as JSON can hold them.
        subject: The object of the event, such as a `Step`, a plan or a verdict.
    """

    kind: str
    text: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    subject: Any = None

    @classmethod
    def stage(cls, name: str) -> Event:
        """A stage starts."""
        return cls("stage", name, {"stage": name})

    @classmethod
    def step(cls, step: Step, kind: str = "step") -> Event:
        """A training step is taken."""
        return cls(kind, f"step {step.step}/{step.steps}", step.flat(), step)

    @classmethod
    def note(cls, text: str) -> Event:
        """How work goes, where that is no stage of it."""
        return cls("note", text)

    @classmethod
    def warning(cls, text: str) -> Event:
        """Something the user should know."""
        return cls("warning", text)

    def __getitem__(self, key: str) -> Any:
        return self._flat[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._flat)

    def __len__(self) -> int:
        return len(self._flat)

    @property
    def _flat(self) -> dict[str, Any]:
        return {"event": self.kind, **self.facts, "text": self.text}


Listener: TypeAlias = Callable[[Event], None]
"""Called with every event, in order."""


def unheard(event: Event) -> None:
    """A listener that ignores every event."""
