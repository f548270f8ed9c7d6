"""Other models as teachers: a reference checkpoint whose features stand where the given checkpoint's would."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.errors import UserError
from vkdsurgeon.features import FeatureStore, PictureSet, teacher_features
from vkdsurgeon.visual import VisualStack, load_visual_stack


@dataclass(frozen=True)
class Teacher:
    """A checkpoint that is loaded when its features are wanted, and gone afterwards.

    Attributes:
        option: What it was given with, for messages.
        model: The checkpoint directory.
        device: Where its tower runs.
        dtype: What its weights are held in.
        tower: Module path of the tower, where the split rule gets it wrong.
        projector: Module paths of the projector, likewise.
    """

    option: str
    model: Path
    device: torch.device
    dtype: torch.dtype
    tower: str | None = None
    projector: Sequence[str] | None = None

    def load(self) -> VisualStack:
        """Tower and projector, frozen.

        Raises:
            UserError: The checkpoint cannot be loaded.
        """
        stack = load_visual_stack(
            self.model, device=self.device, dtype=self.dtype, tower=self.tower, projector=self.projector
        )
        return stack.requires_grad_(False)

    def features(
        self, pictures: Sequence[Picture], layers: Sequence[str], micro_batch: int, budget_bytes: int
    ) -> FeatureStore:
        """Features of pictures, prepared by the teacher's own image processor; see `features.teacher_features`."""
        stack = self.load()
        return teacher_features(stack, PictureSet(stack, pictures, 0), layers, micro_batch, budget_bytes)

    def check(self, teacher: VisualStack, student: VisualStack, picture: Picture, layers: Sequence[str]) -> None:
        """Refuse a teacher whose features do not lie where the student's do.

        Args:
            teacher: From `load`.
            student: The given checkpoint.
            picture: One picture to compare them on.
            layers: The layers that it is to teach.

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
        shapes = []
        for stack in (student, teacher):
            with torch.no_grad():
                _, batch = next(iter(PictureSet(stack, [picture], 0).batches([0], 1)))
                shapes.append({name: list(one.shape[1:]) for name, one in stack.features(batch, layers).items()})
        for layer in layers:
            own, other = (shape[layer] for shape in shapes)
            if own != other:
                raise UserError(
                    f"the teacher's features at {layer!r} have another shape (tokens, width) than the checkpoint's",
                    where=f"{self.option} {self.model}",
                    value=other,
                    expected=str(own),
                    remedy="give a checkpoint of the same architecture, with the same image processor",
                )


def visual_digest(stack: VisualStack) -> str:
    """SHA-256 in hex over names, shapes and values of the visual tensors, which tells a teacher without its path."""
    hasher = hashlib.sha256()
    for name, value in sorted(stack.to_disk(dict(stack.visual_parameters())).items()):
        hasher.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
