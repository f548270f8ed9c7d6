"""The AdamW update (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) on packed elements."""

from __future__ import annotations

from torch import Tensor


def update_packed(
    value: Tensor,
    gradient: Tensor,
    average: Tensor,
    average_square: Tensor,
    *,
    lr: Tensor,
    decay: Tensor,
    beta1: float,
    beta2: float,
    correction1: Tensor,
    correction2: Tensor,
    epsilon: float,
) -> None:
    """One step in place on the selected elements of one parameter.

    Args:
        value: [K] float32, the (master) values.
        gradient: [K] float32, clipped already.
        average: [K] float32, first moment.
        average_square: [K] float32, second moment.
        lr: Step size, a float32 scalar tensor, so that a schedule never recompiles.
        decay: `1 - lr * weight_decay`, scalar tensor.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        correction1: `1 - beta1 ** step`, scalar tensor.
        correction2: `1 - beta2 ** step`, scalar tensor.
        epsilon: Added to the root of the second moment.
    """
    average.lerp_(gradient, 1 - beta1)
    average_square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (average_square / correction2).sqrt_().add_(epsilon)
    value.mul_(decay).sub_(lr * (average / correction1) / denominator)
