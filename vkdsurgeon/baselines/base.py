"""What a baseline and output mode have in common: the model they are asked about, what is known before, what comes out.

Both load the whole model, move weights under a mask, and give changed tensors back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vkdsurgeon.baselines.language_loss import LanguageLoss
from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.model.source import ModelSource
from vkdsurgeon.training.outcome import TrainingOutcome


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """The plan of a run: steps, weights, and an estimate of its memory.

    Attributes:
        method: Its name.
        model_type: As in config.json.
        scope: What may move.
        device: The device to compute on.
        dtype: What weights are held in.
        forget_questions: Examples to forget.
        elements: Weights in scope, which the mask selects from.
        steps: Optimizer steps; 0 without training.
        step_size: Peak step, relative to each weight; None where it is given otherwise, or nothing is trained.
        memory_mib: The estimate; without activations of the language model.
        warnings: What the user should know.
    """

    method: str
    model_type: str
    scope: str
    device: str
    dtype: str
    forget_questions: int
    elements: int
    steps: int
    step_size: float | None
    memory_mib: dict[str, float]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values, for `--json`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Operable:
    """A job that was checked; the language model was not read.

    Attributes:
        title: What the record calls the method.
        effective: Its settings, with what follows from the sets filled in.
        plan: The plan of the run.
        inventory: Inventory of the checkpoint.
        split: Its tensors by part.
        on_disk: Parameter in scope -> name on disk, in the model's order.
        layer_of: Parameter -> its layer.
    """

    title: str
    effective: dict[str, Any]
    plan: ModelPlan
    inventory: Inventory
    split: Split
    on_disk: Mapping[str, str]
    layer_of: Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class MethodOutcome(TrainingOutcome):
    """The result of training with a baseline or in output mode.

    Attributes:
        measured: Label-free figures, of output mode.
    """

    measured: dict[str, float] = field(default_factory=dict)


def load_language_loss(job: ModelSource, micro_batch: int, cache_bytes: int) -> LanguageLoss:
    """The whole model, in which nothing asks for a gradient yet.

    Raises:
        UserError: The model cannot be loaded.
    """
    loaded = job.load_whole()
    loaded.model.requires_grad_(False)
    return LanguageLoss(loaded, micro_batch, cache_bytes, job.seed)
