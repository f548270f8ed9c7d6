"""The methods by name. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

VKD = "vkd"


class Method(str, Enum):
    """The names of methods for `unlearn --method` and `compare --methods`."""

    vkd = VKD
    ga = "ga"
    graddiff = "graddiff"
    klmin = "klmin"
    npo = "npo"
    idk = "idk"
    rmu = "rmu"
    manu = "manu"
    mmunlearner = "mmunlearner"


class Scope(str, Enum):
    """Which weights a method may move: tower and projector, matrices of the decoder layers, or both."""

    visual = "visual"
    llm = "llm"
    all = "all"


@dataclass(frozen=True)
class Facts:
    """The static facts of a method, known before anything is loaded.

    Attributes:
        title: For records and tables.
        scope: What its source trains.
        needs_retain: Whether it cannot do without a retain set.
        reads_text: Whether it has a use for questions without images.
        trains: Whether it takes optimizer steps.
        step_size: Peak step relative to each weight, unless the recipe says otherwise; found on the built-in
            miniature (docs/studies/baselines.md).
        steps: Optimizer steps, likewise.
    """

    title: str
    scope: Scope
    needs_retain: bool = True
    reads_text: bool = False
    trains: bool = True
    step_size: float = 0.3
    steps: int = 50


BASELINES: dict[str, Facts] = {
    "ga": Facts("gradient ascent (arXiv 2401.06121)", Scope.llm, needs_retain=False, step_size=0.15, steps=20),
    "graddiff": Facts("gradient difference (arXiv 2203.12817)", Scope.llm),
    "klmin": Facts("gradient ascent with KL minimisation (arXiv 2401.06121)", Scope.llm),
    "npo": Facts("negative preference optimisation (arXiv 2404.05868)", Scope.llm),
    "idk": Facts("refusal tuning, I don't know (arXiv 2401.06121)", Scope.llm),
    "rmu": Facts("representation misdirection (arXiv 2403.03218)", Scope.llm, step_size=1.0),
    "manu": Facts("modality-aware neuron pruning (arXiv 2502.15910)", Scope.all, reads_text=True, trains=False),
    "mmunlearner": Facts("MMUnlearner (arXiv 2502.11051)", Scope.all, reads_text=True, step_size=1.0),
}
