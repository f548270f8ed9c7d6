"""Other models as teachers: a reference checkpoint whose features stand where the given checkpoint's would."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vkdsurgeon.data.samples import Sample
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.features import SampleSet, teacher_features
from vkdsurgeon.model.source import ModelSource
from vkdsurgeon.model.vision import VisualStack


@dataclass(frozen=True, kw_only=True)
class Teacher(ModelSource):
    """A checkpoint that is loaded when its features are wanted, and gone afterwards.

    Attributes:
        option: The argument that named it, for messages.
    """

    option: str

    def load(self) -> VisualStack:
        """Tower and projector, frozen.

        Raises:
            UserError: The checkpoint cannot be loaded.
        """
        return self.load_visual().requires_grad_(False)

    def features(
        self,
        samples: Sequence[Sample],
        layers: Sequence[str],
        micro_batch: int,
        budget_bytes: int,
        leave: int | None = None,
    ) -> FeatureStore:
        """Features of images, prepared by the teacher's own image processor; see `features.teacher_features`.

        Args:
            samples: The images.
            layers: Tapped layers to keep.
            micro_batch: Most images per forward pass.
            budget_bytes: Most bytes of features to hold in memory.
            leave: As `FeatureStore` has it, for the student's training.
        """
        stack = self.load()
        stack.training_bytes = leave
        return teacher_features(stack, SampleSet(stack, samples, 0), layers, micro_batch, budget_bytes)

    def compare(
        self, teacher: VisualStack, student: VisualStack, samples: Sequence[Sample], layers: Sequence[str]
    ) -> float:
        """How far a teacher's features lie from the student's; refuses one whose features cannot be compared.

        Args:
            teacher: From `load`.
            student: The given checkpoint.
            samples: A few images to compare them on.
            layers: The layers that it is to teach.

        Returns:
            Squared difference over the student's power at the last of the layers, mean over the images. Unrelated
            features of equal power and no mean are at 2.

        Raises:
            UserError: A layer is missing, or features differ in shape.
        """
        absent = [layer for layer in layers if layer not in teacher.layers]
        if absent:
            raise UserError(
                f"the teacher has no layer {absent[0]!r}",
                where=f"{self.option} {self.model}",
                value=", ".join(teacher.layers),
                expected=f"a {student.split.model_type} checkpoint with the same tower",
            )
        stores = [
            teacher_features(stack, SampleSet(stack, samples, 0), layers, 1, 1 << 30) for stack in (student, teacher)
        ]
        for layer in layers:
            for own, other in zip(stores[0].all(layer), stores[1].all(layer), strict=True):
                if own.shape != other.shape:
                    raise UserError(
                        f"the teacher's features at {layer!r} have another shape (tokens, width) than the checkpoint's",
                        where=f"{self.option} {self.model}",
                        value=list(other.shape),
                        expected=str(list(own.shape)),
                        remedy="give a checkpoint of the same architecture, with the same image processor",
                    )
        gaps = [
            (own.float() - other.float()).square().mean() / own.float().square().mean().clamp_min(1e-12)
            for own, other in zip(stores[0].all(layers[-1]), stores[1].all(layers[-1]), strict=True)
        ]
        return float(torch.stack(gaps).mean())


def visual_digest(stack: VisualStack) -> str:
    """SHA-256 in hex over names, shapes and values of the visual tensors, which tells a teacher without its path."""
    hasher = hashlib.sha256()
    for name, value in sorted(stack.to_disk(dict(stack.visual_parameters())).items()):
        hasher.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
