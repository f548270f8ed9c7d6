"""`MaskedAdamW`, a `torch.optim.Optimizer` for any model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon_kernels.backend import choose
from vkdsurgeon_kernels.masked_adamw import compiled, reference


class MaskedAdamW(torch.optim.Optimizer):
    """AdamW on a subset of the elements of each parameter.

    Moments and, for parameters narrower than float32, float32 master values exist for the selected elements only,
    packed in element order. A frozen element keeps its bits whatever weight decay, momentum and clipping do; a
    parameter without a mask is frozen entirely. With masks of ones the result is that of `torch.optim.AdamW`.

    Args:
        params: Parameters, or parameter groups as every torch optimizer takes them.
        masks: Bool tensor of the parameter's shape for each parameter that may move.
        lr: Step size; schedulers may change it.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled decay of the selected elements.
        max_norm: Clip the gradient of the selected elements to this global norm; None does not clip.
        implementation: `auto`, `compiled` or `reference`.

    Raises:
        ValueError: No element is selected, a mask's shape or dtype is wrong, or a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, Any]],
        masks: Mapping[Parameter, Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        implementation: str = "auto",
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"lr {lr}, eps {eps}, weight_decay {weight_decay} must be >= 0 and betas {betas} in [0, 1)"
            )
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"max_norm must be positive or None, got {max_norm}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.max_norm = max_norm
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        self._masks = {parameter: masks[parameter] for parameter in everything if parameter in masks}
        for parameter, mask in self._masks.items():
            if mask.shape != parameter.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"a mask is {tuple(mask.shape)} {mask.dtype}, its parameter {tuple(parameter.shape)}: "
                    "masks are bool tensors of the parameter's shape"
                )
        selected = sum(int(mask.sum()) for mask in self._masks.values())
        if selected == 0:
            raise ValueError("the masks select no element of any parameter")
        self.selected_elements = selected
        self.choice = choose("masked_adamw", everything[0].device, selected, implementation)
        self._update: Callable[..., None] = (
            compiled.update_packed() if self.choice.implementation == "compiled" else reference.update_packed
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the selected elements once.

        Args:
            closure: Re-evaluates the model, as in every torch optimizer.

        Returns:
            The closure's loss, if one was given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [
            (group, parameter, parameter.grad.masked_select(self._masks[parameter]).float())
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter in self._masks
        ]
        if not work:
            return loss
        if self.max_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for _, _, g in work]))
            shrink = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([g for _, _, g in work], shrink)
        for group, parameter, gradient in work:
            self._move(group, parameter, gradient)
        return loss

    def _move(self, group: dict[str, Any], parameter: Parameter, gradient: Tensor) -> None:
        mask = self._masks[parameter]
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
            if parameter.dtype != torch.float32:
                state["master"] = parameter.masked_select(mask).float()
        state["step"] += 1
        beta1, beta2 = group["betas"]
        value = state["master"] if "master" in state else parameter.masked_select(mask)

        def scalar(number: float) -> Tensor:
            return torch.tensor(number, dtype=torch.float32, device=parameter.device)

        self._update(
            value,
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            lr=scalar(group["lr"]),
            decay=scalar(1 - group["lr"] * group["weight_decay"]),
            beta1=beta1,
            beta2=beta2,
            correction1=scalar(1 - beta1 ** state["step"]),
            correction2=scalar(1 - beta2 ** state["step"]),
            epsilon=group["eps"],
        )
        parameter.masked_scatter_(mask, value.to(parameter.dtype))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in every torch optimizer; packed states keep float32 whatever the parameter's dtype is."""
        super().load_state_dict(state_dict)
        saved = [state_dict["state"].get(key, {}) for group in state_dict["param_groups"] for key in group["params"]]
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        for parameter, entry in zip(everything, saved, strict=True):
            for key in ("exp_avg", "exp_avg_sq", "master"):
                if key in entry:
                    self.state[parameter][key] = entry[key].to(device=parameter.device, dtype=torch.float32).clone()

    def selected_values(self, parameter: Parameter) -> Tensor:
        """The selected elements of one parameter at full precision, [K] float32, in element order."""
        if parameter not in self._masks:
            return torch.empty(0, device=parameter.device)
        state = self.state.get(parameter, {})
        if "master" in state:
            master: Tensor = state["master"]
            return master
        return parameter.detach().masked_select(self._masks[parameter]).float()
