"""The state of masked weights and of their optimizer as plain tensors and numbers: selected elements alone, packed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import BitMask, MaskedAdamW

from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.training.saliency import SaliencyMask

# Role, such as `state` -> a stamp, equal for equal content, and what makes the tensors.
Files = dict[str, tuple[str, Callable[[], dict[str, Tensor]]]]

_WEIGHT, _OPTIMIZER = "weight ", "optimizer "


@dataclass(frozen=True)
class Trainee:
    """The trained parameters with their mask and optimizer.

    Attributes:
        parameters: Parameters by name; those that the mask names are trained.
        mask: Which of their elements.
        optimizer: Moves them.
    """

    parameters: Mapping[str, Parameter]
    mask: SaliencyMask
    optimizer: MaskedAdamW

    def values(self) -> dict[str, Tensor]:
        """The selected elements of each parameter, [K] in the parameter's dtype on the CPU, row-major."""
        return {
            name: self.parameters[name].detach().reshape(-1)[chosen.indices().long()].cpu()
            for name, chosen in self.mask.selected.items()
        }

    def digest(self) -> str:
        """SHA-256 in hex of the selected elements."""
        hasher = hashlib.sha256()
        for value in self.values().values():
            hasher.update(raw_bytes(value))
        return hasher.hexdigest()

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Write selected elements back, and nothing else."""
        for name, chosen in self.mask.selected.items():
            parameter = self.parameters[name]
            flat = parameter.detach().view(-1)
            flat[chosen.indices().long()] = values[name].to(device=parameter.device, dtype=parameter.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that `load` needs, but for its numbers."""
        found = {_WEIGHT + name: value for name, value in self.values().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                if isinstance(value, Tensor):
                    found[f"{_OPTIMIZER}{index} {key}"] = value.detach().to("cpu").contiguous()
        return found

    def facts(self) -> dict[str, Any]:
        """The part of the state that is no tensor, as JSON."""
        numbers = {
            str(index): {key: value for key, value in entry.items() if not isinstance(value, Tensor)}
            for index, entry in self.optimizer.state_dict()["state"].items()
        }
        return {"total": self.mask.total, "selected": list(self.mask.selected), "optimizer": numbers}

    def files(self, stamp: str, mask_stamp: str = "0") -> Files:
        """Its files for a snapshot.

        Args:
            stamp: Digits and dots, equal for equal weights alone.
            mask_stamp: The same for the mask.
        """
        return {"mask": (mask_stamp, lambda: mask_tensors(self.mask)), "state": (stamp, self.tensors)}

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Become what `tensors` and `facts` were taken from, bit by bit.

        Raises:
            KeyError, ValueError, RuntimeError: They belong to other parameters or another mask.
        """
        state: dict[int, dict[str, Any]] = {int(index): dict(entry) for index, entry in facts["optimizer"].items()}
        for key, value in tensors.items():
            if key.startswith(_OPTIMIZER):
                index, name = key.removeprefix(_OPTIMIZER).split(" ", 1)
                state[int(index)][name] = value
        # Settings of the groups follow from the recipe and from the weights as the checkpoint has them.
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.put({name: tensors[_WEIGHT + name] for name in self.mask.selected})


def mask_tensors(mask: SaliencyMask) -> dict[str, Tensor]:
    """A mask as int32 words, see `BitMask`, by parameter name."""
    return {name: chosen.words.to("cpu", copy=True) for name, chosen in mask.selected.items()}


def mask_from(
    tensors: Mapping[str, Tensor], names: Sequence[str], total: int, parameters: Mapping[str, Parameter]
) -> SaliencyMask:
    """The mask that `mask_tensors` was made from.

    Args:
        tensors: Its words.
        names: The names of its parameters in the mask's order, which decides the order of sums.
        total: Number of weights that were to choose from.
        parameters: All parameters by name.

    Raises:
        KeyError, ValueError: The words do not fit the parameters.
    """
    return SaliencyMask(
        {name: BitMask(tensors[name].to(parameters[name].device), parameters[name].shape) for name in names}, total
    )


def generator_numbers(generator: torch.Generator) -> str:
    """The state of a generator as hex."""
    return bytes(generator.get_state().tolist()).hex()


def set_generator(generator: torch.Generator, state: str) -> None:
    """Put a generator into a state of `generator_numbers`.

    Raises:
        ValueError, RuntimeError: The data is not a state of such a generator.
    """
    generator.set_state(torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8))
