"""How deep into the tower a run may reach."""

from __future__ import annotations

from torch.nn import Parameter

from vkdsurgeon.errors import UserError
from vkdsurgeon.model.vision import VisualStack


def limit_depth(stack: VisualStack, depth: int | str) -> dict[str, Parameter]:
    """The parameters that the mask may choose from; all others stop asking for gradients.

    Args:
        stack: The student.
        depth: `all`; K, the projector and the last K layers whose features reach it; `projector`.

    Raises:
        UserError: The tower has fewer layers, or no projector is known.
    """
    if depth == "all":
        return stack.visual_parameters()
    try:
        choice = stack.late_parameters(0 if depth == "projector" else int(depth))
    except ValueError as error:
        raise UserError(
            f"the tower is not that deep: {error}",
            where="recipe key 'depth'",
            value=depth,
            expected="all, projector, or a number of layers; see `inspect`",
        ) from None
    if not choice:
        raise UserError(
            "no projector is known in this checkpoint", where="recipe key 'depth'", value=depth, expected="depth all"
        )
    for name, parameter in stack.visual_parameters().items():
        parameter.requires_grad_(name in choice)
    return choice
