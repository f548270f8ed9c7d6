"""The saliency mask: which elements of which visual weights may move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import BitMask, accumulate_scores, select_top_fraction

from vkdsurgeon.config.mask import Saliency
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.processes import ALONE, Processes

Example = TypeVar("Example")


@dataclass(frozen=True)
class SaliencyMask:
    """One bit per element of each parameter; a parameter that is absent is frozen.

    Attributes:
        selected: Parameter name -> mask of its shape, parameters with no selected element left out.
        total: Elements of all visual parameters that were to choose from.
    """

    selected: dict[str, BitMask]
    total: int

    @property
    def count(self) -> int:
        """Number of elements that may move."""
        return sum(mask.count for mask in self.selected.values())

    @property
    def density(self) -> float:
        """Share of the weights to choose from that may move."""
        return self.count / max(self.total, 1)


MaskRule: TypeAlias = Callable[[Mapping[str, Parameter], Callable[[], dict[str, Tensor]]], Mapping[str, Tensor]]
"""A program's own mask: parameters to choose from by name, and a function that passes over the forget images once and
gives |gradient| per parameter (float32, its shape) -> bool tensors of the parameters' shapes, by name."""

CUSTOM_RULES: dict[str, MaskRule] = {}
"""Value of the recipe key `saliency` -> a rule that a program added."""


@dataclass(frozen=True)
class LayerShare:
    """How much of one layer may move.

    Attributes:
        layer: Its name.
        elements: Elements of its weights.
        selected: How many of them the mask selects.
    """

    layer: str
    elements: int
    selected: int


def layer_shares(
    mask: SaliencyMask, sizes: Mapping[str, int], layer_of: Callable[[str], str]
) -> tuple[LayerShare, ...]:
    """Share of selected weights per layer, in the order of the parameters.

    Args:
        mask: The mask.
        sizes: Parameter name -> elements, of all that could have been selected.
        layer_of: Parameter name -> name of its layer.
    """
    shares: dict[str, LayerShare] = {}
    for name, elements in sizes.items():
        layer = layer_of(name)
        before = shares.get(layer, LayerShare(layer, 0, 0))
        selected = mask.selected[name].count if name in mask.selected else 0
        shares[layer] = LayerShare(layer, before.elements + elements, before.selected + selected)
    return tuple(shares.values())


def gradient_scores(
    parameters: Mapping[str, Parameter],
    passes: Iterable[Callable[[], object]],
    *,
    squared: bool = False,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """|gradient| of a loss, summed over batches in float32 (the rule of SalUn, arXiv 2310.12508, per element).

    Args:
        parameters: The visual parameters by name.
        passes: One callable per batch that leaves the gradient of the batch's loss in the parameters.
        squared: Sum gradient squared instead: with one image per pass the diagonal of the empirical Fisher
            information, which elastic weight consolidation (arXiv 1612.00796) and MMUnlearner (arXiv 2502.11051) use.
        processes: Those that have the other passes.

    Returns:
        A float32 score per parameter that had a gradient at all.
    """
    scores: dict[str, Tensor] = {}
    for one_pass in passes:
        one_pass()
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            if name not in scores:
                scores[name] = torch.zeros_like(parameter, dtype=torch.float32)
            accumulate_scores(scores[name], parameter.grad, squared=squared)
            parameter.grad = None
    if processes.count > 1:
        for name, parameter in parameters.items():
            scores.setdefault(name, torch.zeros_like(parameter, dtype=torch.float32))
        processes.add(scores[name] for name in parameters)
    return scores


def everything(parameters: Mapping[str, Parameter]) -> SaliencyMask:
    """The mask that lets every element of every parameter move."""
    ones = {name: torch.ones(value.shape, dtype=torch.bool, device=value.device) for name, value in parameters.items()}
    selected = {name: BitMask.from_bool(value) for name, value in ones.items()}
    return SaliencyMask(selected, sum(value.numel() for value in parameters.values()))


def random_scores(
    parameters: Mapping[str, Parameter], names: Iterable[str], generator: torch.Generator
) -> dict[str, Tensor]:
    """Uniform scores for the named parameters: the control that every saliency rule has to beat."""
    return {name: torch.rand(parameters[name].shape, generator=generator).to(parameters[name].device) for name in names}


def choose_mask(
    parameters: Mapping[str, Parameter],
    examples: Sequence[Example],
    learn: Callable[[Sequence[Example]], object],
    *,
    rule: Saliency,
    density: float,
    batch: int,
    generator: torch.Generator,
    granularity: str = "element",
    layer_of: Callable[[str], str] = str,
    processes: Processes = ALONE,
) -> SaliencyMask:
    """Score every weight to choose from by a rule, and select the highest scores.

    Args:
        parameters: The weights to choose from, by name.
        examples: What the loss is a mean over.
        learn: Leaves the gradient of the loss of some examples in the parameters.
        rule: Which rule.
        density: Share of all elements to select.
        batch: Examples per pass.
        generator: Source of random scores, on the CPU.
        granularity: As in `select`.
        layer_of: As in `select`.
        processes: Those that divide the passes over the examples.

    Raises:
        UserError: Nothing is selected.
    """
    starts = processes.share(range(0, len(examples), batch))
    passes = (partial(learn, examples[start : start + batch]) for start in starts)
    score = partial(gradient_scores, parameters, passes, processes=processes)
    if rule in CUSTOM_RULES:
        return _as_given(parameters, CUSTOM_RULES[rule](parameters, score), rule)
    scores = score()
    if rule == "random":
        scores = random_scores(parameters, scores, generator)
    return select(parameters, scores, density, granularity, layer_of)


def _as_given(parameters: Mapping[str, Parameter], given: Mapping[str, Tensor], rule: str) -> SaliencyMask:
    for name, mask in given.items():
        shape = tuple(parameters[name].shape) if name in parameters else None
        if shape is None or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise UserError(
                "the registered mask does not fit the weights",
                where=f"saliency {rule!r}, {name}",
                value=f"{mask.dtype} {list(mask.shape)}",
                expected=f"torch.bool {list(shape)}" if shape else f"one of {', '.join(list(parameters)[:3])} ...",
            )
    selected = {name: BitMask.from_bool(mask.to(parameters[name].device)) for name, mask in given.items() if mask.any()}
    if not selected:
        raise UserError("the registered mask selects nothing", where=f"saliency {rule!r}")
    return SaliencyMask(selected, sum(value.numel() for value in parameters.values()))


def select(
    parameters: Mapping[str, Parameter],
    scores: Mapping[str, Tensor],
    density: float,
    granularity: str = "element",
    layer_of: Callable[[str], str] = str,
) -> SaliencyMask:
    """Select the highest scores, globally over all weights to choose from.

    Args:
        parameters: The visual parameters to choose from, by name; their elements are what density is a share of.
        scores: Scores by parameter name; a parameter without a score or with score zero throughout is never selected.
        density: Share of all elements to select. Where fewer elements have a positive score, all of those.
        granularity: What is selected as a whole: `element`, `row`, `tensor` or `layer`. Units larger than an element
            bring the number of elements as near to the density as whole units can.
        layer_of: Parameter name -> name of its layer; asked for granularity `layer` only.

    Raises:
        UserError: Nothing is selected.
    """
    total = sum(parameter.numel() for parameter in parameters.values())
    names = [name for name, score in scores.items() if bool(score.any())]
    available = sum(_eligible(scores[name], granularity) for name in names)
    count = min(round(density * total), available)
    if count == 0:
        raise UserError(
            "the saliency mask selects nothing",
            value=density,
            expected=f"a density that selects at least one of {total} visual weights, and a forget loss with gradient",
            remedy="raise density, or check that the forget images differ from their targets at the chosen layers",
        )
    considered = sum(scores[name].numel() for name in names)
    masks = select_top_fraction(
        [scores[name] for name in names],
        count / considered,
        granularity=granularity,
        groups=[layer_of(name) for name in names] if granularity == "layer" else None,
    )
    return SaliencyMask({name: mask for name, mask in zip(names, masks, strict=True) if mask.count}, total)


def _eligible(score: Tensor, granularity: str) -> int:
    """Elements in units with a positive score, of a parameter that has one at all."""
    if granularity == "element" or (granularity == "row" and score.dim() < 2):
        return int((score > 0).sum())
    if granularity == "row":
        return int(score.flatten(1).any(dim=1).sum()) * score[0].numel()
    return score.numel()
