"""Targets that another model gives."""

from __future__ import annotations

from vkdsurgeon.errors import UserError
from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext


def reference(context: TargetContext) -> ForgetTargets:
    """T(x) = h(x; theta_ref), the features of a reference model that does not know the subjects.

    Distillation from an ignorant teacher (arXiv 2205.08096); the reference model of arXiv 2605.05909. Its features
    must live in the space that the language model reads, as those of the same model before it met the subjects do.

    Raises:
        UserError: No reference model was given.
    """
    if context.reference is None:
        raise UserError(
            "forget target 'reference' needs a reference model",
            where="recipe key 'forget_target'",
            expected="a checkpoint of the same architecture with `forget_teacher`",
        )
    return ForgetTargets(context.reference())
