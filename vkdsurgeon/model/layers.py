"""The vision tower's layers that have a say in the projector's output."""

from __future__ import annotations

from typing import Any

from torch import nn

from vkdsurgeon.checkpoint.split import Split


def find_layers(split: Split) -> tuple[str, ...]:
    """Module paths of the tower's layers in the order they run; empty where the tower has no list of layers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    tower = split.skeleton.get_submodule(split.placement.tower)
    lists = {name: module for name, module in tower.named_modules() if isinstance(module, nn.ModuleList)}
    stacks = {
        name: module
        for name, module in lists.items()
        if len(module) and all(isinstance(layer, GradientCheckpointingLayer) for layer in module)
    }
    if not stacks and lists:
        longest = max(lists, key=lambda name: len(lists[name]))
        stacks = {longest: lists[longest]}
    paths = [f"{split.placement.tower}.{name}.{index}" for name, stack in stacks.items() for index in range(len(stack))]
    return tuple(paths[: _layers_used(split.config, len(paths))])


def _layers_used(config: Any, count: int) -> int:
    """LLaVA and its kin read the features of one chosen layer; what comes after it never reaches the projector."""
    chosen = getattr(config, "vision_feature_layer", None)
    indices = [chosen] if isinstance(chosen, int) else chosen
    if not isinstance(indices, (list, tuple)) or not all(type(index) is int for index in indices) or not indices:
        return count
    # Hidden state 0 is the embedding, so state k is what layer k - 1 returns.
    states = [index if index >= 0 else count + 1 + index for index in indices]
    return min(max(states), count)
