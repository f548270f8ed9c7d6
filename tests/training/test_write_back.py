"""What is written: the tensor on disk plus what training added to selected elements, in the dtype on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.training.kept_weights import kept_weights
from vkdsurgeon.training.optimizer import build_optimizer, take_step
from vkdsurgeon.training.saliency import random_scores, select
from vkdsurgeon.training.write_back import WriteBack, rounded_to_disk


def test_selected_elements_move_and_no_other_bit_does(llava: Path) -> None:
    stack = load_visual_stack(llava, device="cpu")
    parameters = stack.visual_parameters()
    mask = select(parameters, random_scores(parameters, parameters, torch.Generator().manual_seed(0)), 0.3)
    optimizer = build_optimizer(parameters, mask, step_size=0.5)
    write_back = WriteBack(parameters, mask, optimizer)
    for parameter in parameters.values():
        if parameter.requires_grad:
            parameter.float().sum().backward()
    take_step(optimizer, 2.0)
    optimizer.detach_hooks()
    on_disk = {target: name for name, target in stack.split.targets.items()}
    changes = write_back.changes(stack.inventory, on_disk)
    assert changes.keys() == {on_disk[name] for name in mask.selected}
    for name, chosen in mask.selected.items():
        disk = read_tensor(stack.inventory, on_disk[name])
        new = changes[on_disk[name]]
        assert (new.dtype, new.shape) == (disk.dtype, disk.shape)
        moved = new != disk
        assert not (moved & ~chosen.to_bool().reshape(disk.shape)).any()
        assert moved.any()


def test_weights_are_rounded_for_a_while_and_kept_for_a_while(llava: Path) -> None:
    stack = load_visual_stack(llava, device="cpu")
    name, parameter = next(iter(stack.visual_parameters().items()))
    with torch.no_grad():
        parameter += 1e-4
    exact = parameter.detach().clone()
    with rounded_to_disk(stack, [name]):
        assert not torch.equal(parameter, exact)
        assert torch.equal(parameter, parameter.to(torch.bfloat16).float())
    assert torch.equal(parameter, exact)
    with kept_weights([parameter]), torch.no_grad():
        parameter.zero_()
    assert torch.equal(parameter, exact)
