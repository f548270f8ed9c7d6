"""The projector's last linear layer together with the distance of its output, which is never stored as a whole.

A chunk of samples goes through the layer, its loss and gradient are found while it is small, and the gradient goes
straight on into the layer's inputs: of B * N * D output features and their gradients, one chunk exists at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon_kernels import library
from vkdsurgeon_kernels.distillation.face import (
    check_features,
    check_float64,
    check_weights,
    coefficients_of,
    masks_of,
    powers_of,
)
from vkdsurgeon_kernels.distillation.operator import choose_for, distil, scaled

# Tokens of a chunk: enough to keep the matrix products busy.
_CHUNK_TOKENS = {"cpu": 512}
_CHUNK_TOKENS_OF_GPU = 4096


def fused_linear_distillation(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    distance: str | Mapping[str, float] = "nmse",
    sample_weights: Tensor | None = None,
    token_mask: Tensor | None = None,
    target_power: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """`feature_distillation(linear(features, weight, bias), target, ...).sum()`, without storing the layer's output.

    Gradients of features, weight and bias are found together with the loss; in half precision those of weight and bias
    are summed over chunks in float32. Masked tokens contribute nothing whatever they hold.

    Args:
        features: [B, N, K], float32 / bfloat16 / float16 / float64: the layer's input.
        weight: [D, K] in the same dtype.
        bias: [D] in the same dtype, or None.
        target: [B, N, D] in any float dtype; must not require grad.
        distance: One of `DISTANCES`, or their sum as a mapping from names to coefficients.
        sample_weights: [B] float, signed; default ones. Upstream weights per sample are impossible, since the weight's
            gradient is a sum over samples.
        token_mask: [B, N] bool, True where a token counts; default all tokens.
        target_power: [B], `target_power(target, token_mask)`, saves `nmse` a read of the target.
        implementation: Of the distance: `auto`, `triton`, `compiled` or `reference`.

    Returns:
        The weighted sum over samples, a float32 scalar (float64 for float64 features).

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, an unknown distance, a target that requires grad, or an
            implementation that cannot run here.
        RuntimeError: In backward, when second derivatives are asked for (`create_graph=True`).
    """
    if features.dim() != 3 or weight.dim() != 2 or features.shape[-1] != weight.shape[1]:
        raise ValueError(f"features {tuple(features.shape)} must be [B, N, K], weight {tuple(weight.shape)} [D, K]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias {tuple(bias.shape)} must be [D] = {tuple(weight.shape[:1])}")
    parameters = [weight] if bias is None else [weight, bias]
    for parameter in parameters:
        if parameter.dtype != features.dtype or parameter.device != features.device:
            raise ValueError(
                f"features are {features.dtype} on {features.device}, the layer {parameter.dtype} on"
                f" {parameter.device}; convert one of them"
            )
    # Stands for the output that nobody stores: its shape is all that is looked at.
    output = features.new_empty(1).expand(*features.shape[:2], weight.shape[0])
    check_features([output], [target])
    check_weights(sample_weights, output)
    check_float64(features.dtype, implementation)
    masks, powers = masks_of(token_mask, [output]), powers_of(target_power, [output])
    enabled = torch.is_grad_enabled()
    wanted = [enabled and tensor is not None and tensor.requires_grad for tensor in (features, weight, bias)]
    return torch.ops.vkdsurgeon.fused_linear_distillation(
        features,
        weight,
        bias,
        target,
        masks[0] if masks else None,
        sample_weights,
        powers[0] if powers else None,
        coefficients_of(distance, 1),
        wanted,
        implementation,
    )[0]


def _fused(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    token_mask: Tensor | None,
    sample_weights: Tensor | None,
    power: Tensor | None,
    coefficients: list[float],
    wanted: list[bool],
    implementation: str,
) -> tuple[Tensor, list[Tensor]]:
    batch, tokens, _ = features.shape
    chosen = choose_for(features, batch * tokens * weight.shape[0], implementation)
    wide = torch.promote_types(features.dtype, torch.float32)
    loss = torch.zeros((), dtype=wide, device=features.device)
    by_features = torch.empty_like(features, memory_format=torch.contiguous_format) if wanted[0] else None
    by_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
    by_bias = torch.zeros(weight.shape[0], dtype=wide, device=weight.device) if wanted[2] else None
    chunk = max(1, _CHUNK_TOKENS.get(features.device.type, _CHUNK_TOKENS_OF_GPU) // max(tokens, 1))
    for start in range(0, batch, chunk):
        part = slice(start, start + chunk)
        x = features[part]
        if token_mask is not None:
            # The weight's gradient multiplies what a masked token holds, NaN perhaps, by zero.
            x = torch.where(token_mask[part, :, None], x, 0)
        losses, gradients = distil(
            [torch.nn.functional.linear(x, weight, bias)],
            [target[part]],
            [] if token_mask is None else [token_mask[part]],
            None if sample_weights is None else sample_weights[part],
            [] if power is None else [power[part]],
            [1.0],
            coefficients,
            any(wanted),
            chosen,
        )
        loss += losses.sum()
        if not any(wanted):
            continue
        rows = gradients[0].view(-1, weight.shape[0])
        if by_features is not None:
            torch.mm(rows, weight, out=by_features[part].view(-1, weight.shape[1]))
        if by_weight is not None:
            _add_product(by_weight, rows.t(), x.reshape(-1, weight.shape[1]))
        if by_bias is not None:
            by_bias += rows.sum(dim=0, dtype=wide)
    found = [by_features, by_weight, by_bias]
    return loss, [gradient.to(features.dtype) for gradient in found if gradient is not None]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _fake_fused(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    token_mask: Tensor | None,
    sample_weights: Tensor | None,
    power: Tensor | None,
    coefficients: list[float],
    wanted: list[bool],
    implementation: str,
) -> tuple[Tensor, list[Tensor]]:
    wide = torch.promote_types(features.dtype, torch.float32)
    shapes = (features.shape, weight.shape, weight.shape[:1])
    gradients = [features.new_empty(shape) for shape, asked in zip(shapes, wanted, strict=True) if asked]
    return features.new_empty((), dtype=wide), gradients


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    gradients = output[1]
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.wanted = inputs[8]


def _backward(ctx: Any, upstream: Tensor | None, _: list[Tensor | None]) -> tuple[Any, ...]:
    found: list[Any] = [None, None, None]
    if upstream is not None:
        flat = [gradient.view(1, 1, -1) for gradient in ctx.saved_tensors]
        products = iter(zip(ctx.saved_tensors, scaled(flat, upstream.view(1)), strict=True))
        for position, asked in enumerate(ctx.wanted):
            if asked:
                gradient, product = next(products)
                found[position] = product.view(gradient.shape)
    return *found, None, None, None, None, None, None, None


_FUSED = library.define(
    "fused_linear_distillation(Tensor features, Tensor weight, Tensor? bias, Tensor target, Tensor? token_mask,"
    " Tensor? sample_weights, Tensor? power, float[] coefficients, bool[] wanted, str implementation)"
    " -> (Tensor, Tensor[])",
    _fused,
    _fake_fused,
)
library.register_autograd(_FUSED, _backward, _setup_context)
