"""Forget targets by name: what the student is to see instead of what it saw."""

from __future__ import annotations

from collections.abc import Callable

from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext
from vkdsurgeon.vision_pass.targets.identities import common, nearest, nobody, swap
from vkdsurgeon.vision_pass.targets.reference import reference

__all__ = ["FORGET_TARGETS", "ForgetTargets", "TargetContext"]

FORGET_TARGETS: dict[str, Callable[[TargetContext], ForgetTargets]] = {
    "nobody": nobody,
    "nearest": nearest,
    "common": common,
    "swap": swap,
    "reference": reference,
}
"""Value of the recipe key `forget_target` -> strategy."""
