"""MMUnlearner: gradient difference, confined to the weights that the forget set needs more than all the rest does.

    L = -CE(forget) + w CE(retain),     a weight may move where  F(forget) / F(preserve) >= threshold
    F(D) = mean over D of (d CE / d theta)^2, one example at a time, in float32

Source: Huo et al., arXiv 2502.11051, sections 4.2 and 4.3; `preserve` is the retain set together with text about the
forgotten (`text`). Here both gradients and every move of the optimizer stay inside the mask. The published code masks
the forget gradient alone, trains parameters that are missing from the mask without one, lets momentum and weight decay
move masked weights, squares half-precision gradients (small ones become zero, and 0 / 0 selects nothing), and goes on
after an exception with the forget gradient still in `.grad`. Nothing matched by the mask is an error here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import BitMask

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.language_loss import Term
from vkdsurgeon.errors import UserError
from vkdsurgeon.training.saliency import SaliencyMask, gradient_scores


def fisher(parameters: Mapping[str, Parameter], loss: Term, examples: Sequence[QAExample]) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher information: squared gradients example by example, their mean, float32."""

    def passes() -> Iterator[Callable[[], object]]:
        for example in examples:
            yield partial(loss, [example], 1.0)

    scores = gradient_scores(parameters, passes(), squared=True)
    return {name: score / len(examples) for name, score in scores.items()}


def fisher_mask(
    parameters: Mapping[str, Parameter],
    forget: Mapping[str, Tensor],
    preserve: Mapping[str, Tensor],
    threshold: float,
) -> SaliencyMask:
    """The elements whose ratio of Fisher information reaches the threshold.

    Args:
        parameters: The weights to choose from.
        forget: Their Fisher information on the forget set; a parameter without any has no part in it.
        preserve: The same on what is to be preserved.
        threshold: Threshold of the ratio; an element that the forget set does not need at all is never selected.

    Raises:
        UserError: No element reaches it.
    """
    selected: dict[str, BitMask] = {}
    for name, score in forget.items():
        chosen = score > 0
        if name in preserve:
            # Not divided: the preserve set may not need the element at all.
            chosen &= score >= threshold * preserve[name]
        mask = BitMask.from_bool(chosen)
        if mask.count:
            selected[name] = mask
    if not selected:
        raise UserError(
            "the Fisher mask selects nothing",
            where="recipe key 'baseline.mmunlearner_threshold'",
            value=threshold,
            expected="a ratio that at least one weight reaches",
            remedy="lower the threshold",
        )
    return SaliencyMask(selected, sum(parameter.numel() for parameter in parameters.values()))
