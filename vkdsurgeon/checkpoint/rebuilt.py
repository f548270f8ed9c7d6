"""Tensors that transformers splits, joins or reorders while loading, and how they are written back.

Some checkpoints hold the three matrices of attention as one, or in another order of rows. transformers has a table of
such conversions, and it is asked here; nothing is written down twice. All that is relied on is that a conversion moves
elements and computes nothing. Where each element goes is found by converting element numbers instead of values, so no
conversion needs an inverse of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from vkdsurgeon.errors import UserError

# What transformers' conversions raise where shapes do not suit them.
CONVERSION_ERRORS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Conversion:
    """What transformers does with some tensors on disk.

    Attributes:
        first: The state dict's name that the tensors on disk are renamed to; the first of the results.
        sources: Name on disk -> the pattern of the conversion that it matched, in the order of loading.
        converter: transformers' conversion.
    """

    first: str
    sources: dict[str, str]
    converter: Any

    def run(self, tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Convert tensors on disk into those of the model's state dict.

        Args:
            tensors: One per name on disk.
            model: The skeleton, which some conversions ask for its config.
        """
        converter = copy.deepcopy(self.converter)
        for name, pattern in self.sources.items():
            converter.add_tensor(self.first, name, pattern, tensors[name])
        made = converter.convert(self.first, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@dataclass(frozen=True)
class Rebuilt:
    """Visual tensors on disk that make up other tensors of the model, element by element.

    Attributes:
        conversion: From disk to model.
        sources: Name on disk -> its shape.
        targets: Name of the parameter -> its shape, in the order in which the conversion gives them.
    """

    conversion: Conversion
    sources: dict[str, tuple[int, ...]]
    targets: dict[str, tuple[int, ...]]

    def to_model(self, tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The model's tensors, in the dtype of those on disk."""
        made = self.conversion.run(tensors, model).values()
        return {name: value.contiguous() for name, value in zip(self.targets, made, strict=True)}

    def to_disk(self, values: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The tensors on disk that the model's tensors come from.

        Args:
            values: One per name in `targets`, on the CPU, all of one dtype.
            model: The skeleton.

        Raises:
            UserError: The conversion loses or doubles elements, so there is no way back.
        """
        total = sum(prod(shape) for shape in self.sources.values())
        numbers = torch.arange(total).split([prod(shape) for shape in self.sources.values()])
        shaped = {name: part.reshape(self.sources[name]) for name, part in zip(self.sources, numbers, strict=True)}
        every = torch.cat([place.reshape(-1) for place in self.conversion.run(shaped, model).values()])
        if every.numel() != total or not torch.equal(every.sort().values, torch.arange(total)):
            raise no_way_back(next(iter(self.sources)))
        flat = torch.empty(total, dtype=next(iter(values.values())).dtype)
        flat[every] = torch.cat([values[name].reshape(-1) for name in self.targets])
        parts = flat.split([prod(shape) for shape in self.sources.values()])
        return {name: part.reshape(self.sources[name]) for name, part in zip(self.sources, parts, strict=True)}


def rebuild(
    conversion: Conversion, shapes: Mapping[str, Sequence[int]], model: nn.Module, canonical: Mapping[str, str]
) -> Rebuilt:
    """What a conversion makes of tensors of these shapes; no tensor is read.

    Args:
        conversion: One group of the table.
        shapes: Shapes of every tensor on disk by name.
        model: The skeleton.
        canonical: Name in the state dict -> name of the parameter.

    Raises:
        UserError: The conversion cannot take these shapes, or makes more or fewer elements of them.
    """
    sources = {name: tuple(shapes[name]) for name in conversion.sources}
    try:
        made = made_by(conversion, shapes, model)
    except CONVERSION_ERRORS as error:
        raise no_way_back(next(iter(sources)), f"{type(error).__name__}: {error}") from error
    targets = {canonical.get(name, name): shape for name, shape in made.items()}
    if sum(map(prod, sources.values())) != sum(map(prod, targets.values())):
        raise no_way_back(next(iter(sources)))
    return Rebuilt(conversion, sources, targets)


def made_by(
    conversion: Conversion, shapes: Mapping[str, Sequence[int]], model: nn.Module
) -> dict[str, tuple[int, ...]]:
    """Names in the state dict and shapes of what a conversion makes of tensors of these shapes.

    Raises:
        Exception: Any of `CONVERSION_ERRORS`: the conversion cannot take these shapes.
    """
    empty = {name: torch.empty(tuple(shapes[name]), device="meta") for name in conversion.sources}
    return {name: tuple(value.shape) for name, value in conversion.run(empty, model).items()}


def no_way_back(name: str, why: str = "elements are lost or doubled") -> UserError:
    """The error for a visual tensor that cannot be put back on disk."""
    return UserError(
        f"transformers rebuilds this visual tensor while loading, and there is no way back: {why}",
        where=f"tensor {name}",
        expected="visual tensors whose elements are moved at most",
        remedy="report it with the model's config.json; there is no setting that helps",
    )
