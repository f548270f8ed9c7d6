"""The public function of feature distillation."""

from __future__ import annotations

from torch import Tensor

from vkdsurgeon_kernels.backend import choose
from vkdsurgeon_kernels.distillation import compiled, reference

DISTANCES = ("nmse", "mse", "cosine", "smooth_l1")


def feature_distillation(
    student: Tensor,
    target: Tensor,
    *,
    distance: str = "nmse",
    token_mask: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Distance between a student's visual tokens and their targets, one number per sample.

    The distances are those of visual knowledge distillation (arXiv 2512.11325; the paper leaves the distance open):
    `mse` mean squared error over tokens and channels, `nmse` the same divided by the target's mean square,
    `cosine` one minus the cosine similarity averaged over tokens, `smooth_l1` Huber with threshold one.

    Args:
        student: [B, N, D], float32 / bfloat16 / float16; the only input that gets a gradient.
        target: [B, N, D], must not require grad.
        distance: One of `DISTANCES`.
        token_mask: [B, N] bool, True where a token counts; default all tokens.
        implementation: `auto`, `compiled` or `reference`.

    Returns:
        [B] float32 (float64 for a float64 student, reference only).

    Raises:
        ValueError: Shapes differ, an unknown distance, a target that requires grad, or an implementation that
            cannot run here.
    """
    if distance not in DISTANCES:
        raise ValueError(f"unknown distance {distance!r}; expected one of {', '.join(DISTANCES)}")
    if student.shape != target.shape or student.dim() != 3:
        raise ValueError(f"student {tuple(student.shape)} and target {tuple(target.shape)} must both be [B, N, D]")
    if token_mask is not None and token_mask.shape != student.shape[:2]:
        raise ValueError(f"token_mask {tuple(token_mask.shape)} must be [B, N] = {tuple(student.shape[:2])}")
    if target.requires_grad:
        raise ValueError("the target requires grad; the teacher is frozen, so detach its features")
    choice = choose("feature_distillation", student.device, student.numel(), implementation)
    run = compiled if choice.implementation == "compiled" and student.dtype.itemsize <= 4 else reference
    return run.distance_per_sample(student, target, token_mask, distance)
