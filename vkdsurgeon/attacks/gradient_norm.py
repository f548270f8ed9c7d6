"""How large the gradient of the right answer's loss is: small on what a model was trained on.

Gradient norm: arXiv 2402.17012. OpenUnlearning's `gradnorm` is the mean of the tensors' norms; this is the norm of the
whole gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from vkdsurgeon.attacks.finetune import backward
from vkdsurgeon.data.record import Record
from vkdsurgeon.model.device import enough_memory
from vkdsurgeon.model.multimodal import LoadedModel


def gradient_norms(loaded: LoadedModel, records: Sequence[Record]) -> list[float]:
    """Euclidean norm of the gradient, with respect to every weight, of each answer's mean loss per token.

    One record at a time; the gradient of a weight is added up and freed as soon as it is there, so that one tensor's is
    held at once.

    Args:
        loaded: The model, in `eval` mode; neither its weights nor their gradients are changed.
        records: Questions with answers.

    Returns:
        One number per record; NaN for all where weights lie on other places than the device, which then have no
        gradient here.

    Raises:
        SurgeryError: The GPU has too little memory.
    """
    if any(parameter.is_meta for parameter in loaded.model.parameters()):
        return [math.nan] * len(records)
    found = []
    short = " for a gradient of the whole model; leave the score out with `gradient=False`"
    with enough_memory(short), torch.enable_grad(), _squares(loaded.model) as sums:
        for record in records:
            sums.clear()
            backward(loaded, [record])
            found.append(math.sqrt(sum(float(each) for each in sums.values())))
    return found


@contextmanager
def _squares(model: nn.Module) -> Iterator[dict[torch.device, Tensor]]:
    """Sums of the squares of every gradient, float64 by device, as backward passes make and drop them."""
    sums: dict[torch.device, Tensor] = {}

    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        square = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32).double().square()
        sums[square.device] = sums.get(square.device, torch.zeros_like(square)) + square
        parameter.grad = None

    with ExitStack() as hooks:
        for parameter in model.parameters():
            if parameter.requires_grad:
                hooks.callback(parameter.register_post_accumulate_grad_hook(add).remove)
        yield sums
