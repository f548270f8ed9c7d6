"""Unlearn towards targets of your own, with a mask of your own.

    vkdsurgeon miniature -o mini/
    python examples/custom_target_and_mask.py mini/base patched/ mini/records/forget.jsonl mini/records/retain.jsonl

Both are registered under a name, and recipes then take that name: in `recipe=`, in YAML files, and in the record beside
the patched weights. A run that is resumed has to register them again.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon import (
    Event,
    ForgetTargets,
    TargetContext,
    UnlearnResult,
    register_forget_target,
    register_mask,
    unlearn,
)


def average_stranger(context: TargetContext) -> ForgetTargets:
    """T(x) = t(x) - mean of x's own subject + mean of everybody who is kept.

    Pose, background and light stay, because only the mean moves. The features of all images must have one shape
    [N, D], as fixed-resolution towers give them.
    """
    made = context.empty()
    for layer in context.recipe.layers:
        features = context.forget.all(layer)
        everybody = torch.stack([context.keep.all(layer)[index] for index in context.keep_known]).mean(dim=0)
        # Altered copies and held-out images get targets, too, but do not tell who somebody is.
        own = defaultdict(list)
        for index in context.forget_known:
            own[context.forget_subjects[index]].append(features[index])
        means = {subject: torch.stack(values).mean(dim=0) for subject, values in own.items()}
        for index, value in enumerate(features):
            made.put(layer, index, value - means[context.forget_subjects[index]] + everybody)
    return ForgetTargets(made)


def upper_matrices(
    parameters: Mapping[str, Parameter], gradients: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The half of each matrix that forgetting pulls on most; norms and biases stay as they are."""
    chosen = {}
    for name, score in gradients().items():
        if parameters[name].dim() >= 2:
            chosen[name] = score > score.float().median()
    return chosen


def tell(event: Event) -> None:
    """What goes on, one line per event that has words."""
    if event.kind != "step" and event.text:
        print(f"{event.kind}: {event.text}")


def main(words: list[str] | None = None) -> UnlearnResult:
    """Run from the command line.

    Args:
        words: In place of those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "out", "forget", "retain"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, help="Training steps; otherwise they follow from the forget set.")
    arguments = parser.parse_args(words)

    register_forget_target("average_stranger", average_stranger)
    register_mask("upper_matrices", upper_matrices)
    recipe = {"forget_target": "average_stranger", "saliency": "upper_matrices", "steps": arguments.steps}
    run = unlearn(
        arguments.model, arguments.forget, arguments.out, retain=arguments.retain, recipe=recipe, on_event=tell
    )
    for layer, reading in run.plan.targets.items():
        print(f"{layer}: {reading.own} of {reading.images} targets read as their own subject")
    if run.write is not None:
        print(f"{run.selected_elements:,} elements might move, {run.write.elements_changed:,} did")
    return run


if __name__ == "__main__":
    main()
