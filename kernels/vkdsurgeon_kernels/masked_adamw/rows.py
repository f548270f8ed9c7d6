"""Row-structured masks: a backward pass that never computes the rows of a weight gradient that nobody will use.

The gradient of y = x Wᵀ + b is dW = dyᵀ x; where only the rows R of W may move, dW[R] = dy[:, R]ᵀ x is enough, a share
of the multiplications and of the memory equal to the share of rows.
"""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vkdsurgeon_kernels.masked_adamw.optimizer import MaskedAdamW


class _RowLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stand_in: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, rows)
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rows = ctx.saved_tensors
        (dy,) = upstream
        wants_x, _, wants_bias, wants_rows, _ = ctx.needs_input_grad
        flat = dy.reshape(-1, dy.shape[-1])
        return (
            dy.matmul(weight) if wants_x else None,
            None,
            flat.sum(dim=0) if wants_bias else None,
            flat.index_select(1, rows).t().matmul(x.reshape(-1, x.shape[-1])) if wants_rows else None,
            None,
        )


class restrict_weight_gradients:  # noqa: N801  (used like a function, as torch.no_grad is)
    """Restrict the weight gradients of a model's linear layers to the rows that an optimizer moves.

    Acts on each `nn.Linear` whose weight has a row-structured mask in the optimizer and shares it with no other
    module; everything else stays as it is. The weight's `.grad` stays None: the selected rows go to the optimizer.

    Args:
        model: The model; its linear layers' `forward` is replaced until `remove()` or the end of the `with` block.
        optimizer: Knows the masks, receives the gradients.

    Attributes:
        layers: Names of the layers that were restricted.
    """

    def __init__(self, model: nn.Module, optimizer: MaskedAdamW) -> None:
        self._modules: list[nn.Linear] = []
        self._hooks: list[Any] = []
        self.layers: list[str] = []
        owners: dict[nn.Parameter, int] = {}
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                owners[parameter] = owners.get(parameter, 0) + 1
        for name, module in model.named_modules():
            # A subclass may compute something else from its weight, and so may whoever has replaced its forward.
            if type(module) is not nn.Linear or "forward" in vars(module) or not module.weight.requires_grad:
                continue
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            mask = None if owners[weight] > 1 else optimizer.selection(weight)
            rows = None if mask is None else mask.rows()
            if rows is not None and len(rows) < module.out_features:
                self._restrict(module, rows, optimizer)
                self.layers.append(name)

    def _restrict(self, module: nn.Linear, rows: Tensor, optimizer: MaskedAdamW) -> None:
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        # Takes the place of W[rows] in the graph: autograd needs its shape, nobody its values, so it occupies nothing.
        stand_in = weight.new_zeros(()).expand(len(rows), module.in_features).detach().requires_grad_()

        def deliver(leaf: Tensor) -> None:
            assert leaf.grad is not None
            optimizer.add_selected_gradient(weight, leaf.grad)
            leaf.grad = None

        self._hooks.append(stand_in.register_post_accumulate_grad_hook(deliver))
        self._modules.append(module)
        module.forward = partial(_forward, module, stand_in, rows)  # type: ignore[method-assign]

    def remove(self) -> None:
        """Give the layers their own forward back."""
        for module in self._modules:
            del module.forward
        for hook in self._hooks:
            hook.remove()
        self._modules, self._hooks = [], []

    def __enter__(self) -> restrict_weight_gradients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _forward(module: nn.Linear, stand_in: Tensor, rows: Tensor, x: Tensor) -> Tensor:
    weight: Tensor = module.weight.detach()
    bias: Tensor | None = module.bias
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        # Backward runs outside of autocast, so what it multiplies must be of one dtype already.
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    y: Tensor = _RowLinear.apply(x, weight, bias, stand_in, rows)
    return y
