"""The layers of the tower that influence the projector's output."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vkdsurgeon.checkpoint.senses import SENSES
from vkdsurgeon.checkpoint.split import Split


def find_layers(split: Split) -> tuple[str, ...]:
    """Module paths of the tower's layers in the order they run; empty where the tower has no list of layers."""
    paths = _paths(split)
    return paths[: _layers_used(split, len(paths))]


def _paths(split: Split) -> tuple[str, ...]:
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
    return tuple(
        f"{split.placement.tower}.{name}.{index}" for name, stack in stacks.items() for index in range(len(stack))
    )


def layers_read(split: Split, depths: Sequence[int]) -> tuple[int, ...]:
    """How many of the tower's layers each of its outputs has behind it, ascending.

    Args:
        split: Split of the checkpoint; its config may name feature layers, as LLaVA's and that of its kin.
        depths: Indices of further layers whose output leaves the tower.
    """
    count = len(_paths(split))
    used = _layers_used(split, count)
    states = {used, *_states_read(split, count), *(index + 1 for index in depths)}
    return tuple(sorted(state for state in states if 0 < state <= used))


def _layers_used(split: Split, count: int) -> int:
    """LLaVA and its kin read the features of one chosen layer; what comes after it never reaches the projector."""
    return min(max(_states_read(split, count), default=count), count)


def _states_read(split: Split, count: int) -> list[int]:
    chosen = getattr(split.config, SENSES[split.modality].feature_layer or "", None)
    indices = [chosen] if isinstance(chosen, int) else chosen
    if not isinstance(indices, (list, tuple)) or not all(type(index) is int for index in indices):
        return []
    # Hidden state 0 is the embedding, so state k is what layer k - 1 returns.
    return [index if index >= 0 else count + 1 + index for index in indices]
