"""The operators behind `MaskedAdamW`: schemas, fakes, and the choice of the implementation at run time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vkdsurgeon_kernels.library import define
from vkdsurgeon_kernels.masked_adamw import compiled, reference

LIST, BITMAP, FULL = "list", "bitmap", "full"
"""How a parameter's selection is laid out: `positions` lists the selected elements; or `positions` counts the selected
elements before each block of 1024 and `words` has a bit for each; or every element is selected."""


def _step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    masters: list[Tensor],
    scales: list[Tensor],
    words: list[Tensor],
    positions: list[Tensor],
    hyper: Tensor,
    shrink: Tensor,
    seeds: list[int],
    packed: bool,
    layout: str,
    implementation: str,
) -> None:
    if scales and not seeds:
        raise ValueError("moments in eight bits are rounded at random and need seeds")
    if implementation == "triton":
        if (layout == BITMAP) != bool(scales):
            raise ValueError("a bitmap is for moments in eight bits, and they are for a bitmap")
        from vkdsurgeon_kernels.masked_adamw import triton

        triton.step(
            parameters, gradients, averages, squares, masters, scales, words, positions, hyper, shrink, seeds, packed,
            layout,
        )  # fmt: skip
        return
    run = (compiled if implementation == "compiled" else reference).step_parameter
    for row, parameter in enumerate(parameters):
        run(
            parameter,
            gradients[row],
            averages[row],
            squares[row],
            masters[row] if masters else None,
            scales[row] if scales else None,
            None if layout == FULL else positions[row],
            hyper[row],
            shrink,
            torch.tensor(seeds[row], device=parameter.device) if seeds else None,
            packed,
        )


def _square_sum(
    gradients: list[Tensor],
    words: list[Tensor],
    positions: list[Tensor],
    packed: bool,
    layout: str,
    implementation: str,
) -> Tensor:
    if implementation == "triton":
        from vkdsurgeon_kernels.masked_adamw import triton

        return triton.square_sum(gradients, words, positions, packed, layout)
    return reference.square_sum(gradients, [None if layout == FULL else where for where in positions], packed)


def _square_sum_fake(gradients: list[Tensor], *_: Any) -> Tensor:
    return gradients[0].new_empty((), dtype=torch.promote_types(gradients[0].dtype, torch.float32))


def _accumulate(
    packed: Tensor, gradient: Tensor, words: Tensor, positions: Tensor, layout: str, implementation: str
) -> None:
    if implementation == "triton":
        from vkdsurgeon_kernels.masked_adamw import triton

        triton.accumulate(packed, gradient, words, positions, layout)
        return
    reference.accumulate(packed, gradient, None if layout == FULL else positions)


def _nothing(*_: Any) -> None:
    return None


define(
    "masked_adamw_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] averages, Tensor(c!)[] squares, "
    "Tensor(d!)[] masters, Tensor(e!)[] scales, Tensor[] words, Tensor[] positions, Tensor hyper, Tensor shrink, "
    "int[] seeds, bool packed, str layout, str implementation) -> ()",
    _step,
    _nothing,
)
define(
    "selected_square_sum(Tensor[] gradients, Tensor[] words, Tensor[] positions, bool packed, str layout, "
    "str implementation) -> Tensor",
    _square_sum,
    _square_sum_fake,
)
define(
    "accumulate_selected_(Tensor(a!) packed, Tensor gradient, Tensor words, Tensor positions, str layout, "
    "str implementation) -> ()",
    _accumulate,
    _nothing,
)

masked_adamw_ = torch.ops.vkdsurgeon.masked_adamw_
selected_square_sum = torch.ops.vkdsurgeon.selected_square_sum
accumulate_selected_ = torch.ops.vkdsurgeon.accumulate_selected_
