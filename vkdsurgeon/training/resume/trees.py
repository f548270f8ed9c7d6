"""A `state_dict` of tensors, numbers and containers as tensors by name and plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_TENSOR = "tensor"


def taken_apart(tree: Any, prefix: str) -> tuple[Any, dict[str, Tensor]]:
    """Put the tensors of a tree aside.

    Args:
        tree: Dictionaries with words as keys, lists, tuples, tensors, numbers, words and None, nested at will.
        prefix: Prefix of the tensors' names.

    Returns:
        The rest as JSON, and the tensors on the CPU.

    Raises:
        TypeError: The tree holds something else.
    """
    tensors: dict[str, Tensor] = {}

    def visit(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"{prefix}{len(tensors)}"
            tensors[name] = node.detach().to("cpu", copy=True).contiguous()
            return {_TENSOR: name}
        if isinstance(node, Mapping):
            if not all(isinstance(key, str) for key in node):
                raise TypeError("a key of the state is no word")
            return {"of": {key: visit(value) for key, value in node.items()}}
        if isinstance(node, (list, tuple)):
            return [visit(value) for value in node]
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(f"a {type(node).__name__} cannot be part of the state of a run")

    return visit(tree), tensors


def put_together(rest: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The tree that `taken_apart` was given; tuples come back as lists, tensors on a device.

    Raises:
        KeyError: A tensor is missing.
    """
    if isinstance(rest, dict):
        if _TENSOR in rest:
            return tensors[rest[_TENSOR]].to(device)
        return {key: put_together(value, tensors, device) for key, value in rest["of"].items()}
    if isinstance(rest, list):
        return [put_together(value, tensors, device) for value in rest]
    return rest
