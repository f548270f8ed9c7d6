"""Registration of feature distillation: schema, implementations, fake and autograd."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from vkdsurgeon_kernels import library
from vkdsurgeon_kernels.backend import choose, triton_obstacle
from vkdsurgeon_kernels.distillation import compiled, reference

DISTANCES = ("nmse", "mse", "cosine", "smooth_l1")


def _distil(
    students: list[Tensor],
    targets: list[Tensor],
    token_masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    layer_weights: list[float],
    coefficients: list[float],
    with_gradient: bool,
    implementation: str,
) -> tuple[Tensor, list[Tensor]]:
    chosen = choose_for(students[0], sum(student.numel() for student in students), implementation)
    return distil(
        students,
        targets,
        token_masks,
        sample_weights,
        powers,
        layer_weights,
        coefficients,
        with_gradient,
        chosen,
    )


def choose_for(student: Tensor, elements: int, implementation: str) -> str:
    """Name of the implementation for so many elements of a student's dtype and device."""
    if student.dtype == torch.float64 and implementation == "auto":
        implementation = "reference"
    return choose("feature_distillation", student.device, elements, implementation).implementation


def distil(
    students: list[Tensor],
    targets: list[Tensor],
    token_masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    layer_weights: list[float],
    coefficients: list[float],
    with_gradient: bool,
    chosen: str,
) -> tuple[Tensor, list[Tensor]]:
    """As the operator, by the implementation of that name."""
    weights = [
        {
            name: layer_weights[layer] * coefficient
            for name, coefficient in zip(DISTANCES, coefficients[layer * len(DISTANCES) :], strict=False)
            if coefficient
        }
        for layer in range(len(students))
    ]
    # A layer without elements or without a distance adds nothing.
    layers = [layer for layer, student in enumerate(students) if student.numel() and weights[layer]]
    if not layers:
        dtype = torch.promote_types(students[0].dtype, torch.float32)
        losses = torch.zeros(students[0].shape[0], dtype=dtype, device=students[0].device)
        return losses, [_zeros(student) for student in students if with_gradient]
    losses, found = _implementation(chosen)(
        [students[layer].contiguous() for layer in layers],
        [targets[layer].contiguous() for layer in layers],
        [token_masks[layer] for layer in layers] if token_masks else [],
        sample_weights,
        [powers[layer] for layer in layers] if powers else [],
        [weights[layer] for layer in layers],
        with_gradient,
    )
    if not with_gradient:
        return losses, []
    gradients = dict(zip(layers, found, strict=True))
    return losses, [
        gradients[layer] if layer in gradients else _zeros(student) for layer, student in enumerate(students)
    ]


def _zeros(student: Tensor) -> Tensor:
    return torch.zeros_like(student, memory_format=torch.contiguous_format)


def _implementation(name: str) -> Any:
    if name == "triton":
        # Triton is an optional dependency.
        from vkdsurgeon_kernels.distillation import triton

        return triton.losses_and_gradients
    return (compiled if name == "compiled" else reference).losses_and_gradients


def _fake_distil(
    students: list[Tensor],
    targets: list[Tensor],
    token_masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    layer_weights: list[float],
    coefficients: list[float],
    with_gradient: bool,
    implementation: str,
) -> tuple[Tensor, list[Tensor]]:
    dtype = torch.promote_types(students[0].dtype, torch.float32)
    gradients = [torch.empty_like(s, memory_format=torch.contiguous_format) for s in students if with_gradient]
    return students[0].new_empty(students[0].shape[0], dtype=dtype), gradients


def _scale(gradients: list[Tensor], upstream: Tensor) -> None:
    if upstream.device.type == "cuda" and triton_obstacle(upstream.device) is None:
        from vkdsurgeon_kernels.distillation import triton

        triton.scale(gradients, upstream)
    # Looking at the values stalls a GPU, but costs a CPU nothing.
    elif upstream.device.type != "cpu" or not bool((upstream == 1).all()):
        for gradient in gradients:
            gradient.mul_(upstream[:, None, None])


_DISTIL = library.define(
    "feature_distillation(Tensor[] students, Tensor[] targets, Tensor[] token_masks, Tensor? sample_weights,"
    " Tensor[] powers, float[] layer_weights, float[] coefficients, bool with_gradient, str implementation)"
    " -> (Tensor, Tensor[])",
    _distil,
    _fake_distil,
)
library.define(
    "scale_distillation_gradients(Tensor(a!)[] gradients, Tensor upstream) -> ()",
    _scale,
    lambda gradients, upstream: None,
)


def distillation_losses(
    students: list[Tensor],
    targets: list[Tensor],
    token_masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    layer_weights: list[float],
    coefficients: list[float],
    with_gradient: bool,
    implementation: str,
) -> Tensor:
    """Losses [B], by the shortest way: the dispatcher costs an eager call a third of a millisecond on a CPU."""
    rest = (targets, token_masks, sample_weights, powers, layer_weights, coefficients, with_gradient, implementation)
    if torch.compiler.is_compiling() or _intercepted(students):
        return cast(Tensor, torch.ops.vkdsurgeon.feature_distillation(students, *rest)[0])
    return cast(Tensor, _Eager.apply(rest, *students))


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, rest: tuple[Any, ...], *students: Tensor) -> Tensor:
        with library.surroundings(students[0]):
            losses, gradients = _distil(list(students), *rest)
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *scaled(list(ctx.saved_tensors), upstream[0]))


def _intercepted(students: list[Tensor]) -> bool:
    """Whether somebody watches or replaces operators: fake tensors, other subclasses, dispatch modes, functorch."""
    return (
        any(type(student) not in (Tensor, torch.nn.Parameter) for student in students)
        or _get_current_dispatch_mode() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    gradients = output[1]
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.lengths = [len(argument) for argument in (inputs[0], inputs[1], inputs[2], inputs[4])]


def _backward(ctx: Any, upstream: Tensor | None, _: list[Tensor | None]) -> tuple[Any, ...]:
    students, targets, masks, powers = ([None] * length for length in ctx.lengths)
    gradients = students if upstream is None else scaled(list(ctx.saved_tensors), upstream)
    return gradients, targets, masks, None, powers, None, None, None, None


def scaled(gradients: list[Tensor], upstream: Tensor) -> list[Any]:
    """Saved gradients [B, ., .] times the upstream gradient [B], in place where nobody will ask for them again.

    Raises:
        RuntimeError: The result would be differentiated, and it has no derivative.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "feature_distillation was differentiated with create_graph=True, but its gradient comes from the forward"
            " pass and has no derivative; for second derivatives write the loss with"
            " vkdsurgeon_kernels.distillation.formula.distillation_loss"
        )
    if _sole_use(upstream):
        torch.ops.vkdsurgeon.scale_distillation_gradients(gradients, upstream)
        return gradients
    return [(gradient * upstream[:, None, None]).to(gradient.dtype) for gradient in gradients]


def _sole_use(upstream: Tensor) -> bool:
    """Whether nobody will ask for the saved gradients again, so that they may be scaled in place."""
    # A traced graph gains nothing: the compiler fuses the product with what reads it.
    if torch.compiler.is_compiling() or type(upstream) is not Tensor:
        return False
    keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return keeps_graph is not None and not keeps_graph()


library.register_autograd(_DISTIL, _backward, _setup_context)
