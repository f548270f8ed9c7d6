"""In what precision tower and projector compute.

Mixed precision holds weights in float32 and rounds the inputs of matrix products to bfloat16 (torch.autocast;
Micikevicius et al., arXiv 1710.03740), so that steps too small for bfloat16 still add up. Measured on a CPU:
docs/tutorials/hardware.md.
"""

from __future__ import annotations

from typing import Any

import torch

from vkdsurgeon.errors import UserError
from vkdsurgeon.model.device import DTYPES
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.model.vision import VisualStack

MIXED, AUTO = "mixed", "auto"
# Smaller towers spend their time outside of matrix products.
_LEAST_WEIGHTS = 5_000_000
# Of the features' power: rounding to bfloat16 makes about 1e-4, something that mixed precision breaks far more.
_MOST_DIFFERENCE = 2.5e-3


def resolve_precision(name: str) -> dict[str, Any]:
    """Turn `dtype` into the fields `dtype` and `mixed` of a `ModelSource`.

    Args:
        name: `float32`, `bfloat16`, `mixed`, or `auto`: mixed where it is faster, else float32.

    Raises:
        UserError: Not one of the names.
    """
    known = {name: {"dtype": dtype, "mixed": False} for name, dtype in DTYPES.items()}
    known |= {MIXED: {"dtype": torch.float32, "mixed": True}, AUTO: {"dtype": torch.float32, "mixed": None}}
    if name not in known:
        raise UserError("not a dtype", where="`dtype`", value=name, expected=", ".join(known))
    return known[name]


def is_faster(stack: VisualStack) -> bool:
    """Whether mixed precision makes the stack faster: its device has bfloat16 products, and its products are large."""
    if sum(value.numel() for value in stack.visual_parameters().values()) < _LEAST_WEIGHTS:
        return False
    if stack.device.type == "cuda":
        return torch.cuda.get_device_capability(stack.device) >= (8, 0) or torch.version.hip is not None
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def choose_precision(stack: VisualStack, batch: ImageBatch) -> None:
    """Switch mixed precision on where it is faster and gives the features of float32 but for rounding.

    Args:
        stack: In float32.
        batch: A few images that are passed through both ways.
    """
    if not is_faster(stack):
        return
    with torch.no_grad():
        expected = stack.features(batch, stack.outputs)
        stack.mixed = True
        try:
            found = stack.features(batch, stack.outputs)
        except (RuntimeError, TypeError, ValueError):
            stack.mixed = False
            return
    for layer, values in expected.items():
        error = (found[layer].float() - values).square().mean() / values.square().mean().clamp_min(1e-12)
        # Not a number is no agreement either.
        stack.mixed = stack.mixed and bool(error <= _MOST_DIFFERENCE)
