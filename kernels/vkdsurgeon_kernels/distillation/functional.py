"""The public functions of feature distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from vkdsurgeon_kernels.distillation import rows
from vkdsurgeon_kernels.distillation.operator import DISTANCES, distillation_losses

Distance = str | Mapping[str, float]

_STUDENT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def feature_distillation(
    student: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    *,
    distance: Distance | Sequence[Distance] = "nmse",
    layer_weights: Sequence[float] | None = None,
    sample_weights: Tensor | None = None,
    token_mask: Tensor | Sequence[Tensor | None] | None = None,
    target_power: Tensor | Sequence[Tensor] | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Weighted distance between a student's visual tokens and their targets, one number per sample.

    result_b = w_b sum_l v_l d_l(student_l, target_l)_b, after visual knowledge distillation (arXiv 2512.11325; the
    paper leaves the distance open). With a mean over the tokens that count: `mse` mean squared error over tokens and
    channels, `nmse` the same divided by the target's mean square, `cosine` one minus the cosine similarity averaged
    over tokens, `smooth_l1` Huber with threshold one. A sample without a counting token has distance 0, and a token
    with a squared norm of at most 1e-24 cosine 0.

    The gradient is computed with the loss; backward costs nothing when the upstream gradient is one, as under
    `.sum().backward()`, so put weights into `layer_weights` and `sample_weights` rather than behind the result. It is
    stored in the student's dtype with the weights in it: float16 loses elements below 6e-8, so keep the weights
    near one there and scale the result (a loss scaler does). Weights get no gradient, and there are no second
    derivatives.

    Args:
        student: [B, N, D], or L of them, one for each layer; float32 / bfloat16 / float16 / float64, computed in
            float32 at least. N and D may differ between layers. The only input that gets a gradient. Made contiguous.
        target: As the student, in any float dtype (float8 included); must not require grad. Made contiguous.
        distance: One of `DISTANCES`, or their sum as a mapping from names to coefficients; or one of these per layer.
        layer_weights: L numbers v; default ones.
        sample_weights: [B] float, w, signed; default ones.
        token_mask: [B, N] bool, True where a token counts, or one per layer (None where all do); default all tokens.
            Masked tokens get gradient zero whatever they hold.
        target_power: [B] float32, `target_power(target, token_mask)`, or one per layer: saves `nmse` a read of
            the target where targets are cached. Other distances do not use it.
        implementation: `auto`, `triton`, `compiled` or `reference`.

    Returns:
        [B] float32 (float64 for a float64 student).

    Raises:
        ValueError: Shapes, dtypes, devices or numbers of layers differ, an unknown distance, a target or weight that
            requires grad, or an implementation that cannot run here.
        RuntimeError: In backward, when second derivatives are asked for (`create_graph=True`).
    """
    students, targets = tensors_of("student", student), tensors_of("target", target)
    check_features(students, targets)
    layers = len(students)
    if isinstance(layer_weights, (int, float)):
        raise ValueError(f"layer_weights are a {type(layer_weights).__name__}; give one number per layer, {layers}")
    weights = [1.0] * layers if layer_weights is None else [float(weight) for weight in layer_weights]
    if len(weights) != layers:
        raise ValueError(f"{len(weights)} layer_weights for {layers} layers; give one number per layer")
    check_weights(sample_weights, students[0])
    check_float64(students[0].dtype, implementation)
    return distillation_losses(
        students,
        targets,
        masks_of(token_mask, students),
        sample_weights,
        powers_of(target_power, students),
        weights,
        coefficients_of(distance, layers),
        torch.is_grad_enabled() and any(features.requires_grad for features in students),
        implementation,
    )


def target_power(target: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """Mean square of each sample's target over its counting tokens, which `nmse` divides by.

    Args:
        target: [B, N, D], any float dtype.
        token_mask: [B, N] bool; default all tokens.

    Returns:
        [B] float32 (float64 for a float64 target).

    Raises:
        ValueError: The target is not [B, N, D] or the mask not [B, N] bool on its device.
    """
    if target.dim() != 3:
        raise ValueError(f"target {tuple(target.shape)} must be [B, N, D]")
    masks_of(token_mask, [target])
    wide = torch.float64 if target.dtype == torch.float64 else torch.float32
    return rows.target_power(target, token_mask, wide)


def tensors_of(name: str, given: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """One tensor per layer."""
    found = [given] if isinstance(given, Tensor) else list(given) if isinstance(given, (list, tuple)) else None
    wrong = [given] if found is None else [entry for entry in found if not isinstance(entry, Tensor)]
    if found is None or wrong:
        raise ValueError(f"{name} is {type(wrong[0]).__name__}; expected a tensor [B, N, D] or a list of them")
    return found


def check_weights(sample_weights: Tensor | None, student: Tensor) -> None:
    """Refuse sample weights that are not [B] float without gradient, beside the student."""
    if sample_weights is not None:
        if not isinstance(sample_weights, Tensor):
            raise ValueError(f"sample_weights are a {type(sample_weights).__name__}; expected a tensor [B] float")
        batch = student.shape[0]
        if sample_weights.shape != (batch,) or not sample_weights.is_floating_point():
            raise ValueError(
                f"sample_weights {tuple(sample_weights.shape)} {sample_weights.dtype} must be [B] = [{batch}] float"
            )
        if sample_weights.requires_grad:
            raise ValueError("sample_weights require grad, but the result is not differentiated by them; detach them")
        _check_place("sample_weights", sample_weights, student)


def _check_place(name: str, tensor: Tensor, student: Tensor) -> None:
    if tensor.device != student.device:
        raise ValueError(f"{name} on {tensor.device}; expected on {student.device}, where the features are")


def check_float64(dtype: torch.dtype, implementation: str) -> None:
    """Refuse float64 where it cannot be kept."""
    if dtype == torch.float64 and implementation == "triton":
        raise ValueError("feature_distillation: 'triton' computes in float32, not float64; compiled, reference can")


def check_features(students: list[Tensor], targets: list[Tensor]) -> None:
    """Refuse features that do not fit together."""
    if not students or len(students) != len(targets):
        raise ValueError(
            f"{len(students)} students and {len(targets)} targets; give one target per student, at least one"
        )
    first = students[0]
    if first.dtype not in _STUDENT_DTYPES:
        raise ValueError(f"student is {first.dtype}; expected float32, bfloat16, float16 or float64")
    for student, target in zip(students, targets, strict=True):
        if student.shape != target.shape or student.dim() != 3:
            raise ValueError(f"student {tuple(student.shape)} and target {tuple(target.shape)} must both be [B, N, D]")
        if student.shape[0] != first.shape[0]:
            raise ValueError(f"layers have {first.shape[0]} and {student.shape[0]} samples; every layer needs the same")
        if student.dtype != first.dtype or target.dtype != targets[0].dtype:
            raise ValueError(
                f"layers mix dtypes: student {first.dtype} and {student.dtype}, target {targets[0].dtype} and"
                f" {target.dtype}; students must share one and targets another, convert them first"
            )
        if not target.is_floating_point():
            raise ValueError(f"target is {target.dtype}; expected a float dtype")
        if student.device != first.device or target.device != first.device:
            raise ValueError(f"student on {student.device}, target on {target.device}; expected both on {first.device}")
        if target.requires_grad:
            raise ValueError("the target requires grad; the teacher is frozen, so detach its features")


def coefficients_of(distance: Distance | Sequence[Distance], layers: int) -> list[float]:
    """L * len(DISTANCES) numbers, the coefficient of each distance at each layer."""
    per_layer = list(distance) if isinstance(distance, (list, tuple)) else [cast(Distance, distance)] * layers
    if len(per_layer) != layers:
        raise ValueError(f"{len(per_layer)} distances for {layers} layers; give one for all or one per layer")
    found: list[float] = []
    for chosen in per_layer:
        if not isinstance(chosen, (str, Mapping)):
            raise ValueError(f"distance is {type(chosen).__name__}; expected a name or a mapping from names to numbers")
        terms = {chosen: 1.0} if isinstance(chosen, str) else dict(chosen)
        unknown = [name for name in terms if name not in DISTANCES]
        if unknown or not terms:
            raise ValueError(f"unknown distance {unknown or chosen!r}; expected one of {', '.join(DISTANCES)}")
        found += [float(terms.get(name, 0.0)) for name in DISTANCES]
    return found


def masks_of(token_mask: Tensor | Sequence[Tensor | None] | None, students: list[Tensor]) -> list[Tensor]:
    """One mask per layer, or none at all."""
    if token_mask is None:
        return []
    masks = [token_mask] * len(students) if isinstance(token_mask, Tensor) else list(token_mask)
    if len(masks) != len(students):
        raise ValueError(f"{len(masks)} token masks for {len(students)} layers; give one for all or one per layer")
    if all(mask is None for mask in masks):
        return []
    found = []
    for mask, student in zip(masks, students, strict=True):
        if mask is None:
            mask = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
        if mask.shape != student.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                f"token_mask {tuple(mask.shape)} {mask.dtype} must be [B, N] = {tuple(student.shape[:2])} bool"
            )
        _check_place("token_mask", mask, student)
        found.append(mask)
    return found


def powers_of(target_power: Tensor | Sequence[Tensor] | None, students: list[Tensor]) -> list[Tensor]:
    """One [B] tensor per layer, or none at all."""
    if target_power is None:
        return []
    powers = [target_power] if isinstance(target_power, Tensor) else list(target_power)
    if len(powers) != len(students):
        raise ValueError(f"{len(powers)} target powers for {len(students)} layers; give one per layer")
    for power, student in zip(powers, students, strict=True):
        if power.shape != student.shape[:1]:
            raise ValueError(f"target_power {tuple(power.shape)} must be [B] = {tuple(student.shape[:1])}")
        if not power.is_floating_point():
            raise ValueError(f"target_power is {power.dtype}; expected a float dtype")
        if power.requires_grad:
            raise ValueError("target_power requires grad; the teacher is frozen, so detach it")
        _check_place("target_power", power, student)
    return powers
