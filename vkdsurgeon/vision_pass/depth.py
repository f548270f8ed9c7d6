"""How deep into the tower a run may reach."""

from __future__ import annotations

from torch.nn import Parameter

from vkdsurgeon.errors import UserError
from vkdsurgeon.model.vision import VisualStack


def limit_depth(stack: VisualStack, depth: int | str) -> dict[str, Parameter]:
    """The parameters that the mask may choose from; all others stop asking for gradients.

    Args:
        stack: The student.
        depth: `all`; K, the projector and the last K layers before it, or as many as there are (all of a tower
            without a list of layers); `projector`.

    Raises:
        UserError: No projector is known, and it alone was asked for.
    """
    if depth == "all" or (depth != "projector" and not stack.taps):
        return stack.visual_parameters()
    choice = stack.late_parameters(0 if depth == "projector" else int(depth))
    if not choice:
        raise UserError(
            "no projector is known in this checkpoint", where="recipe key 'depth'", value=depth, expected="depth all"
        )
    for name, parameter in stack.visual_parameters().items():
        parameter.requires_grad_(name in choice)
    return choice
