"""`MaskedAdamW`, a `torch.optim.Optimizer` for any model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal
from weakref import WeakMethod

import torch
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon_kernels.backend import choose
from vkdsurgeon_kernels.bitmask import BLOCK, BitMask
from vkdsurgeon_kernels.compile_cache import spare_the_import
from vkdsurgeon_kernels.masked_adamw.operator import accumulate_selected_, masked_adamw_, selected_square_sum
from vkdsurgeon_kernels.masked_adamw.reference import master_of
from vkdsurgeon_kernels.masked_adamw.rounding import seed_of
from vkdsurgeon_kernels.masked_adamw.selection import Selection, check_mask

_Launches = dict[tuple[str, str, bool, Any], list[Parameter]]
_STATE_TENSORS = ("exp_avg", "exp_avg_sq", "master", "scales")


class MaskedAdamW(torch.optim.Optimizer):
    """AdamW on a subset of the elements of each parameter.

    Moments and, for parameters narrower than float32, float32 master values exist for the selected elements only,
    packed in row-major order. A frozen element keeps its bits whatever weight decay, momentum and clipping do; a
    parameter without a mask is frozen entirely. With masks of ones the result is that of `torch.optim.AdamW`.

    Args:
        params: Parameters, or parameter groups as every torch optimizer takes them.
        masks: For each parameter that may move, a `BitMask` or a bool tensor of its shape.
        lr: Step size; schedulers may change it.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled decay of the selected elements.
        max_norm: Clip the gradient of the selected elements to this global norm; None does not clip.
        masters: Keep float32 values for bfloat16 and float16 parameters; where a parameter was given another value
            since the last step, that value counts. False rounds stochastically instead, which saves 4 bytes per
            selected element (bfloat16 only).
        moments: `float32`, or `int8`: 2 bytes per selected element instead of 8, see `masked_adamw.moments`.
        during_backward: `pack` moves each gradient, as soon as it is complete, into a float32 buffer for the selected
            elements and frees it, so that dense gradients never live together; several backward passes add up until
            `step()`. `step` makes the whole step then, leaving `step()` nothing to do: no buffer, but neither clipping
            nor several backward passes per step. Both act before DistributedDataParallel has averaged the gradient
            (sum `packed_gradients` over processes instead), and hide it from a loss scaler. None leaves gradients where
            torch puts them, and all of these work.
        seed: Of stochastic rounding: of bfloat16 without masters, and of the second moment in eight bits.
        implementation: `auto`, `triton`, `compiled` or `reference`.

    Raises:
        ValueError: No element is selected, a mask does not fit, a setting is out of range, or an implementation
            that cannot run here was asked for.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, Any]],
        masks: Mapping[Parameter, Tensor | BitMask],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        *,
        masters: bool = True,
        moments: Literal["float32", "int8"] = "float32",
        during_backward: Literal["pack", "step"] | None = None,
        seed: int = 0,
        implementation: str = "auto",
    ) -> None:
        # Negated, so that NaN is refused.
        if not (lr >= 0 and eps >= 0 and weight_decay >= 0 and len(betas) == 2 and all(0 <= b < 1 for b in betas)):
            raise ValueError(
                f"lr {lr}, eps {eps}, weight_decay {weight_decay} must be >= 0 and betas {betas} two numbers in [0, 1)"
            )
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be positive or None, got {max_norm}")
        if moments not in ("float32", "int8"):
            raise ValueError(f"moments are 'float32' or 'int8', got {moments!r}")
        if during_backward not in (None, "pack", "step"):
            raise ValueError(f"during_backward is 'pack', 'step' or None, got {during_backward!r}")
        if during_backward == "step" and max_norm is not None:
            raise ValueError(
                "clipping needs the gradient of all parameters before the first of them moves: use "
                f"during_backward='pack' with max_norm {max_norm}, or max_norm=None"
            )
        if not isinstance(masks, Mapping):
            raise ValueError(f"masks are a {type(masks).__name__}; expected a mapping from parameters to their masks")
        spare_the_import()
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.max_norm = max_norm
        self.seed = seed
        self._masters, self._eight_bit, self._during_backward = masters, moments == "int8", during_backward
        self._packed: dict[Parameter, Tensor] = {}
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        masked = [parameter for parameter in everything if parameter in masks]
        self._number = {parameter: number for number, parameter in enumerate(everything)}
        if not masked:
            kinds = ", ".join(sorted({type(key).__name__ for key in masks})) or "nothing"
            raise ValueError(
                "the masks select no element of any parameter: none of the parameters has a mask; masks are keyed by "
                f"{kinds}, expected parameters out of `params`"
            )
        for parameter in masked:
            check_mask(parameter, masks[parameter])
        selected = sum(_count(masks[parameter]) for parameter in masked)
        elements = sum(parameter.numel() for parameter in masked)
        self._choices = {
            device: choose("masked_adamw", device, elements, implementation)
            for device in dict.fromkeys(parameter.device for parameter in masked)
        }
        self._dtypes = {parameter: parameter.dtype for parameter in masked}
        self._selections: dict[Parameter, Selection] = {}
        for parameter in masked:
            mask = masks[parameter]
            bits = (mask if isinstance(mask, BitMask) else BitMask.from_bool(mask)).to(parameter.device)
            selection = Selection.of(bits, self._implementation(parameter), eight_bit=self._eight_bit)
            if selection.mask.count:
                self._check_dtype(parameter)
                self._selections[parameter] = selection
        if selected == 0:
            raise ValueError("the masks select no element of any parameter")
        self.selected_elements = selected
        self._attach_hooks()

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
            (group, parameter)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter in self._selections and self._gradient(parameter) is not None
        ]
        if work:
            launches = self._launches([parameter for _, parameter in work])
            self._move(work, launches, self._shrink(launches))
        for _, parameter in work:
            # Nobody but this optimizer could clear it: a model's zero_grad() does not reach it.
            self._packed.pop(parameter, None)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in every torch optimizer; forgets packed gradients too, which the model's `zero_grad` cannot."""
        super().zero_grad(set_to_none)
        self._packed.clear()

    def detach_hooks(self) -> None:
        """Stop acting during backward, to hand the parameters to another optimizer while this one lives."""
        for hook in self._hooks:
            hook.remove()

    def selection(self, parameter: Parameter) -> BitMask | None:
        """The mask of a parameter, None if it is frozen."""
        found = self._selections.get(parameter)
        return None if found is None else found.mask

    def selected_values(self, parameter: Parameter) -> Tensor:
        """The selected elements of one parameter at full precision, [K] float32, in row-major order."""
        if parameter not in self._selections:
            return torch.empty(0, device=parameter.device)
        state, held = self.state.get(parameter, {}), self._selections[parameter].gather(parameter.detach())
        return master_of(state["master"], held) if "master" in state else held.float()

    @torch.no_grad()
    def set_selected_values(self, parameter: Parameter, values: Tensor) -> None:
        """Write the selected elements of one parameter, and its float32 masters where there are any.

        Args:
            parameter: One of the masked parameters.
            values: [K], as `selected_values` gives them.
        """
        selection = self._selections[parameter]
        flat = parameter.detach().view(-1)
        flat[selection.mask.indices().long()] = values.to(device=parameter.device, dtype=parameter.dtype)
        state = self.state.get(parameter, {})
        if "master" in state:
            state["master"].copy_(values)

    def add_selected_gradient(self, parameter: Parameter, gradient: Tensor) -> None:
        """Hand over the gradient of the selected elements alone.

        For backward passes that never compute the rest, see `restrict_weight_gradients`. Adds to what was handed over
        since the last `step` or `zero_grad`; a dense `.grad` of the same parameter is then ignored.

        Args:
            parameter: One of the masked parameters.
            gradient: [K] (any shape with K elements), in row-major order of the selected elements.

        Raises:
            ValueError: The parameter is frozen or the number of elements is wrong.
        """
        count = self._selections[parameter].mask.count if parameter in self._selections else 0
        if gradient.numel() != count:
            raise ValueError(f"{count} elements of this parameter are selected, the gradient has {gradient.numel()}")
        if parameter in self._packed:
            self._packed[parameter].add_(gradient.detach().reshape(-1))
        else:
            self._packed[parameter] = gradient.detach().reshape(-1).to(self._wide(parameter), copy=True)

    def packed_gradients(self) -> list[Tensor]:
        """The gradients of the selected elements as they are gathered for the next `step`, to be summed over processes.

        Returns:
            The [K] buffer of every masked parameter, in the order of `params`; zeros where nothing was handed over
            yet. What is written to them counts. A dense `.grad` is not among them.
        """
        return [self._buffer(parameter) for parameter in self._selections]

    def state_dict(self) -> dict[str, Any]:
        """As in every torch optimizer; each parameter's state carries a fingerprint of its mask."""
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in every torch optimizer; packed states keep their precision whatever the parameter's is.

        Parameters may have another dtype than in the run that saved: masters are made or dropped as this optimizer
        needs them.

        Raises:
            ValueError: The state belongs to other masks or has moments of another kind.
        """
        saved = [state_dict["state"].get(key, {}) for group in state_dict["param_groups"] for key in group["params"]]
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, (parameter, entry) in enumerate(zip(everything, saved, strict=False)):
            if not entry:
                continue
            expected = self._selections[parameter].fingerprint if parameter in self._selections else None
            if entry.get("mask") != expected:
                raise ValueError(
                    f"the state of parameter {number} was made with another mask ({entry.get('mask')}, expected "
                    f"{expected}); build the optimizer with the masks of the run that saved it"
                )
            if ("scales" in entry) != self._eight_bit:
                kinds = ("int8", "float32") if "scales" in entry else ("float32", "int8")
                raise ValueError(
                    f"the state of parameter {number} was made with moments='{kinds[0]}', this optimizer has "
                    f"'{kinds[1]}'; build it with the former"
                )
        super().load_state_dict(state_dict)
        for parameter, entry in zip(everything, saved, strict=True):
            for key in _STATE_TENSORS:
                if key in entry:
                    tensor = entry[key]
                    dtype = self._wide(parameter) if tensor.is_floating_point() and key != "scales" else tensor.dtype
                    self.state[parameter][key] = tensor.to(device=parameter.device, dtype=dtype, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        # A scheduler puts its own `step` on an optimizer, bound to that optimizer; torch makes its hooks anew.
        left = {key for key in self.__dict__ if key in ("_hooks", "step") or key.startswith("_optimizer_")}
        return {key: value for key, value in self.__dict__.items() if key not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # torch calls this in load_state_dict too.
        if "_hooks" not in self.__dict__:
            self._attach_hooks()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Asked by `torch.amp.GradScaler`, which unscales and checks what it finds in `.grad`."""
        if self._during_backward or self._packed:
            raise RuntimeError(
                "a loss scaler neither unscales nor checks gradients that never are in `.grad`, as with "
                f"during_backward={self._during_backward!r} or restrict_weight_gradients; leave these out or train in "
                "bfloat16, which needs no scaler"
            )
        return False

    def _attach_hooks(self) -> None:
        self._hooks = []
        if self._during_backward is not None:
            take = _weakly(self._pack if self._during_backward == "pack" else self._step_at_once)
            self._hooks = [
                parameter.register_post_accumulate_grad_hook(take)
                for parameter in self._selections
                if parameter.requires_grad
            ]

    def _implementation(self, parameter: Parameter) -> str:
        return "reference" if parameter.dtype == torch.float64 else self._choices[parameter.device].implementation

    def _wide(self, parameter: Parameter) -> torch.dtype:
        return torch.promote_types(parameter.dtype, torch.float32)

    def _check_dtype(self, parameter: Parameter) -> None:
        if not self._masters and parameter.dtype == torch.float16:
            raise ValueError("stochastic rounding is for bfloat16; keep masters=True for float16 parameters")
        if self._eight_bit and parameter.dtype == torch.float64:
            raise ValueError("moments='int8' is for float32 and narrower parameters, got torch.float64")

    def _gradient(self, parameter: Parameter) -> Tensor | None:
        return self._packed.get(parameter, parameter.grad)

    def _complete(self, parameter: Parameter) -> Tensor:
        """The gradient that backward has just completed."""
        if parameter.grad is None:
            raise RuntimeError(
                f"during_backward={self._during_backward!r} found no gradient where one was just completed: something "
                "else took it, such as an earlier optimizer with during_backward; call its detach_hooks()"
            )
        self._check_unchanged(parameter)
        return parameter.grad.detach()

    def _check_unchanged(self, parameter: Parameter) -> None:
        # A kernel would take the memory for what it was.
        built = (self._selections[parameter].mask.device, self._dtypes[parameter])
        if (parameter.device, parameter.dtype) != built or not parameter.is_contiguous():
            raise RuntimeError(
                f"a masked parameter is {parameter.dtype} on {parameter.device} with strides {parameter.stride()}, but "
                f"was contiguous {built[1]} on {built[0]}; move and convert the model before building the optimizer"
            )
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise RuntimeError(
                f"the gradient of a masked parameter is {parameter.grad.layout}, expected a dense one; sparse "
                "gradients, as of nn.Embedding(sparse=True), are not supported"
            )

    def _pack(self, parameter: Parameter) -> None:
        selection, gradient = self._selections[parameter], self._complete(parameter)
        accumulate_selected_(
            self._buffer(parameter),
            gradient,
            selection.words,
            selection.positions,
            selection.layout,
            self._implementation(parameter),
        )
        parameter.grad = None

    def _buffer(self, parameter: Parameter) -> Tensor:
        if parameter not in self._packed:
            count = self._selections[parameter].mask.count
            self._packed[parameter] = torch.zeros(count, dtype=self._wide(parameter), device=parameter.device)
        return self._packed[parameter]

    @torch.no_grad()
    def _step_at_once(self, parameter: Parameter) -> None:
        self._complete(parameter)
        group = next(group for group in self.param_groups if any(p is parameter for p in group["params"]))
        self._move([(group, parameter)], self._launches([parameter]), torch.ones((), device=parameter.device))
        parameter.grad = None

    def _shrink(self, launches: _Launches) -> Tensor:
        device = next(iter(launches.values()))[0].device
        if self.max_norm is None:
            return torch.ones((), device=device)
        sums = []
        for (implementation, layout, packed, _), members in launches.items():
            selections = [self._selections[parameter] for parameter in members]
            sums.append(
                selected_square_sum(
                    [self._gradient(parameter) for parameter in members],
                    [selection.words for selection in selections],
                    [selection.positions for selection in selections],
                    packed,
                    layout,
                    implementation,
                ).to(device)
            )
        return (self.max_norm / (torch.stack(sums).sum().sqrt() + 1e-6)).clamp(max=1.0)

    def _launches(self, parameters: Iterable[Parameter]) -> _Launches:
        """Parameters that one call can move together."""
        launches: _Launches = {}
        for parameter in parameters:
            self._check_unchanged(parameter)
            gradient = self._gradient(parameter)
            assert gradient is not None
            key = (
                self._implementation(parameter),
                self._selections[parameter].layout,
                parameter in self._packed,
                (parameter.device, parameter.dtype, gradient.dtype, self._selections[parameter].positions.dtype),
            )
            launches.setdefault(key, []).append(parameter)
        return launches

    def _move(self, work: Sequence[tuple[dict[str, Any], Parameter]], launches: _Launches, shrink: Tensor) -> None:
        group_of = {parameter: group for group, parameter in work}
        for (implementation, layout, packed, (device, *_)), members in launches.items():
            states = [self._ready_state(parameter) for parameter in members]
            rows = [self._hyper_row(group_of[p], state["step"]) for p, state in zip(members, states, strict=True)]
            wide = self._wide(members[0])
            stochastic = members[0].dtype == torch.bfloat16 and not self._masters
            seeds = [seed_of(s["step"], self._number[p], self.seed) for p, s in zip(members, states, strict=True)]
            selections = [self._selections[parameter] for parameter in members]
            masked_adamw_(
                [parameter.detach() for parameter in members],
                [self._gradient(parameter) for parameter in members],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [state["master"] for state in states if "master" in state],
                [state["scales"] for state in states if "scales" in state],
                [selection.words for selection in selections],
                [selection.positions for selection in selections],
                torch.tensor(rows, dtype=wide).to(device, non_blocking=True),
                shrink.to(device=device, dtype=wide),
                seeds if stochastic or self._eight_bit else [],
                packed,
                layout,
                implementation,
            )

    def _hyper_row(self, group: dict[str, Any], step: int) -> tuple[float, ...]:
        """One row in the order of `reference.COLUMNS`."""
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        unbias1, unbias2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
        decay = 1 - lr * group["weight_decay"]
        return (lr, decay, beta1, 1 - beta1, beta2, 1 - beta2, unbias1, unbias2, group["eps"])

    def _ready_state(self, parameter: Parameter) -> dict[str, Any]:
        """The parameter's state, counted one step on."""
        state: dict[str, Any] = self.state[parameter]
        selection, wide = self._selections[parameter], self._wide(parameter)
        if not state:
            zeros = partial(torch.zeros, device=parameter.device)
            count = selection.mask.count
            state["step"] = 0
            state["mask"] = selection.fingerprint
            state["exp_avg"] = zeros(count, dtype=torch.int8 if self._eight_bit else wide)
            state["exp_avg_sq"] = zeros(count, dtype=torch.uint8 if self._eight_bit else wide)
            if self._eight_bit:
                state["scales"] = zeros((2, -(-parameter.numel() // BLOCK)))
        # A state that was loaded may come from a parameter of another dtype.
        if not self._masters or parameter.dtype == wide:
            state.pop("master", None)
        elif "master" not in state:
            state["master"] = selection.gather(parameter.detach()).to(wide)
        state["step"] += 1
        return state


def _count(mask: Tensor | BitMask) -> int:
    return mask.count if isinstance(mask, BitMask) else int(mask.sum())


def _weakly(method: Callable[[Parameter], None]) -> Callable[[Parameter], None]:
    """The method for as long as its object lives: a hook must not keep an optimizer at work that nobody steps."""
    reference = WeakMethod(method)

    def call(parameter: Parameter) -> None:
        alive = reference()
        if alive is not None:
            alive(parameter)

    return call
