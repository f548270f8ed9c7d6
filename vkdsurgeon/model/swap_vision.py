"""Vision swap: run a language model with the visual features of another one's tower and projector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vkdsurgeon.checkpoint.senses import SENSES
from vkdsurgeon.errors import UserError

METHOD = SENSES["image"].method
# What of a method's output the language model reads.
_READ = ("pooler_output", "deepstack_features")

Blend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@contextmanager
def with_vision_of(model: nn.Module, visual: nn.Module, blend: Blend | None = None) -> Iterator[None]:
    """Let every forward pass of a model use the tower and projector of another.

    Every architecture's forward pass asks one method of its inner model for all that the language model reads of a
    image, features of several depths included. That method is borrowed, so nothing about layouts needs to be known.

    Args:
        model: A transformers model whose language model answers.
        visual: A model of the same class whose tower and projector are alive; its language model may be on `meta`. It
            runs on its own device and in its own dtype, without gradients.
        blend: Makes of the other's features and the model's own, [..., D] each and of one shape, what is seen; None is
            the other's alone.

    Raises:
        UserError: The architecture has no such method.
    """
    named = {path: module for path, module in model.named_modules() if hasattr(type(module), METHOD)}
    # Outer models only pass the question on.
    owners = {
        path: module
        for path, module in named.items()
        if not any(other is not module and other in list(module.modules()) for other in named.values())
    }
    if not owners:
        raise UserError(
            "this architecture has no method for image features, so the vision of another model cannot take its place",
            value=type(model).__name__,
            expected=f"a model with {METHOD}, such as llava, qwen2_5_vl, internvl, gemma3",
            remedy="leave out the decoder pass; the vision pass works without it",
        )
    homes = dict(visual.named_modules())
    home = next(parameter for parameter in visual.parameters() if not parameter.is_meta)
    for path, module in owners.items():
        module.__dict__[METHOD] = _borrowed(getattr(homes[path], METHOD), getattr(module, METHOD), home, blend)
    try:
        yield
    finally:
        for module in owners.values():
            del module.__dict__[METHOD]


def _borrowed(
    look: Callable[..., Any], own_look: Callable[..., Any], home: torch.Tensor, blend: Blend | None
) -> Callable[..., Any]:
    def fit(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(home.device, home.dtype if value.is_floating_point() else None)

    # The signature stays visible: `generate` reads it to know what the method takes.
    @functools.wraps(look)
    def seen(*arguments: Any, **named: Any) -> Any:
        with torch.no_grad():
            theirs = look(*map(fit, arguments), **{key: fit(value) for key, value in named.items()})
            if blend is None:
                return theirs
            mine = own_look(*arguments, **named)
            for key in _READ:
                if getattr(theirs, key, None) is not None:
                    theirs[key] = _each(blend, theirs[key], mine[key])
            return theirs

    return seen


def _each(blend: Blend, theirs: Any, mine: Any) -> Any:
    if isinstance(theirs, torch.Tensor):
        return blend(theirs, mine.to(theirs))
    return tuple(_each(blend, left, right) for left, right in zip(theirs, mine, strict=True))
