"""Updates that leave retained features alone to first order: projected away from what retained pictures put in.

A linear layer computes y = W a. Over the tokens a of retained pictures let M = E[a a'] = U diag(l) U', and U_r the
leading directions that hold the share rho (recipe key `null_space`) of trace M. An update D of W changes retained
outputs by D a, so it is replaced by

    D (I - U_r U_r'),    of which at most the share 1 - rho of the retained inputs' power sees anything.

Null-space training of Adam-NSCL (arXiv 2103.07113) and gradient projection memory (arXiv 2103.09762); arXiv 2605.05909
projects multimodal unlearning in the same way. Adam's step is projected rather than the gradient, because its
element-wise scaling leaves the null space. Frozen elements must stay, so projection and mask alternate a few times,
which converges to an update that satisfies both (projections onto convex sets).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.recipe import Recipe
from vkdsurgeon.unlearn import Lesson
from vkdsurgeon.visual import VisualStack

_ROUNDS = 8
# A mean over pictures; more of them cost a pass each and turn the directions little.
_MOST_PICTURES = 256


def input_directions(moment: Tensor, share: float) -> Tensor:
    """Leading directions of a second moment.

    Args:
        moment: M, [in, in], symmetric and positive semi-definite.
        share: rho, in [0, 1).

    Returns:
        U_r, [in, r] with orthonormal columns, float32, r < in.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    held = values.cumsum(0) / values.sum().clamp_min(1e-300)
    count = min(int((held < share).sum()) + 1, moment.shape[0] - 1)
    return vectors[:, :count].float()


def project(update: Tensor, directions: Tensor, mask: Tensor | None = None) -> Tensor:
    """The part of an update that retained inputs do not see.

    Args:
        update: D, [out, in] float32.
        directions: U_r, [in, r].
        mask: [out, in] bool, the elements that may move; None is all of them.

    Returns:
        [out, in]; zero where the mask is.
    """
    if mask is None:
        return update - (update @ directions) @ directions.T
    for _ in range(_ROUNDS):
        update = (update - (update @ directions) @ directions.T) * mask
    return update


def project_updates(stack: VisualStack, retain: Lesson, optimizer: MaskedAdamW, recipe: Recipe) -> None:
    """Make every step of an optimizer leave retained inputs alone, in linear layers whose weight it moves.

    Args:
        stack: The student while it still is the teacher.
        retain: Whose inputs to leave alone.
        optimizer: Its steps are projected from now on. One more float32 value per selected element is held meanwhile.
        recipe: The share, and the most pictures at once.
    """
    layers = {
        module.weight: module
        for module in stack.modules()
        if type(module) is nn.Linear and optimizer.selection(_weight(module)) is not None
    }
    directions = {
        weight: input_directions(moment, recipe.null_space)
        for weight, moment in _moments(stack, retain, list(layers.values()), recipe).items()
    }
    before: dict[nn.Parameter, Tensor] = {}

    def remember(*_: Any) -> None:
        before.update({weight: optimizer.selected_values(weight).clone() for weight in directions})

    def correct(*_: Any) -> None:
        for weight, basis in directions.items():
            _correct(optimizer, weight, before.pop(weight), basis)

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(correct)


@torch.no_grad()
def _correct(optimizer: MaskedAdamW, weight: nn.Parameter, before: Tensor, basis: Tensor) -> None:
    selection = optimizer.selection(weight)
    assert selection is not None
    mask = selection.to_bool()
    update = torch.zeros(weight.shape, device=weight.device)
    update[mask] = optimizer.selected_values(weight) - before
    values = before + project(update, basis, mask)[mask]
    master = optimizer.state[weight].get("master")
    if master is not None:
        master.copy_(values)
    weight[mask] = values.to(weight.dtype)


def _moments(stack: VisualStack, retain: Lesson, layers: list[nn.Linear], recipe: Recipe) -> dict[nn.Parameter, Tensor]:
    moments = {
        _weight(layer): torch.zeros(layer.in_features, layer.in_features, device=stack.device) for layer in layers
    }

    def add(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        flat = inputs[0].detach().reshape(-1, layer.in_features).float()
        moments[_weight(layer)].addmm_(flat.T, flat)

    hooks = [layer.register_forward_pre_hook(partial(add)) for layer in layers]
    step = max(1, -(-len(retain.train) // _MOST_PICTURES))
    try:
        with torch.no_grad():
            for _, batch in retain.pictures.batches(retain.train[::step], recipe.micro_batch):
                stack.features(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {weight: moment for weight, moment in moments.items() if bool(moment.any())}


def _weight(layer: nn.Linear) -> nn.Parameter:
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight
