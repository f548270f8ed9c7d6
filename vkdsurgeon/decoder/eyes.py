"""One language model, two pairs of eyes: run a model with the visual features of another one's tower and projector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

METHOD = "get_image_features"


@contextmanager
def through_eyes_of(model: nn.Module, visual: nn.Module) -> Iterator[None]:
    """Let every forward pass of a model see through the tower and projector of another.

    Every architecture's forward pass asks one method of its inner model for all that the language model reads of a
    picture, features of several depths included. That method is borrowed, so nothing about layouts needs to be known.

    Args:
        model: A transformers model whose language model answers.
        visual: A model of the same class whose tower and projector are alive; its language model may be on `meta`. It
            runs on its own device and in its own dtype, without gradients.
    """
    owners = {path: module for path, module in model.named_modules() if hasattr(type(module), METHOD)}
    homes = dict(visual.named_modules())
    home = next(parameter for parameter in visual.parameters() if not parameter.is_meta)
    for path, module in owners.items():
        module.__dict__[METHOD] = _borrowed(getattr(homes[path], METHOD), home)
    try:
        yield
    finally:
        for module in owners.values():
            del module.__dict__[METHOD]


def _borrowed(look: Callable[..., Any], home: torch.Tensor) -> Callable[..., Any]:
    def fit(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(home.device, home.dtype if value.is_floating_point() else None)

    # The signature stays visible: `generate` reads it to know what the method takes.
    @functools.wraps(look)
    def seen(*arguments: Any, **named: Any) -> Any:
        with torch.no_grad():
            return look(*map(fit, arguments), **{key: fit(value) for key, value in named.items()})

    return seen
