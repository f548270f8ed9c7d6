"""The kernels alone, on any torch model: the fused distillation loss, the saliency mask, and `MaskedAdamW`.

    python examples/kernels_on_your_model.py --steps 60

A student forgets ten random images, whose features become those of the average image, and keeps forty others. It may
move a tenth of its weights; all the others keep their bits, whatever momentum, clipping and weight decay do.
On a GPU the same calls run as Triton kernels.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor, nn
from vkdsurgeon_kernels import (
    MaskedAdamW,
    accumulate_scores,
    feature_distillation,
    select_top_fraction,
    target_power,
)


class Tower(nn.Module):
    """A small vision transformer: images [B, 3, 32, 32] in, features [B, 16, 64] out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, kernel_size=8, stride=8)
        layer = nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers=2)

    def forward(self, images: Tensor) -> Tensor:
        """The features of a batch."""
        return self.layers(self.patches(images).flatten(2).transpose(1, 2))


def saliency(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """|gradient| of the forget loss, summed over batches, per parameter and in float32."""
    scores = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in model.named_parameters()}
    for part, target in zip(images.split(5), targets.split(5), strict=True):
        model.zero_grad()
        feature_distillation(model(part), target).sum().backward()
        for name, value in model.named_parameters():
            accumulate_scores(scores[name], value.grad)
    model.zero_grad()
    return scores


def main(words: list[str] | None = None) -> dict[str, float]:
    """Train, check that the frozen weights kept their bits, and print what became of the features.

    Args:
        words: In place of those of the command line.

    Returns:
        `forget`: squared distance of the forget images' features to their targets, over its value before training.
        `drift`: squared change of the kept images' features over their power. `moved`: elements that differ.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--density", type=float, default=0.1, help="Share of the weights that may move.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(words)

    torch.manual_seed(0)
    teacher = Tower().to(arguments.device)
    student = copy.deepcopy(teacher)
    forget = torch.randn(10, 3, 32, 32, device=arguments.device)
    keep = torch.randn(40, 3, 32, 32, device=arguments.device)
    with torch.no_grad():
        kept, before = teacher(keep), teacher(forget)
    targets = kept.mean(dim=0).expand_as(before).contiguous()

    # One bit per weight: the globally largest scores, exactly as many as the density says.
    scores = saliency(student, forget, targets)
    masks = dict(zip(scores, select_top_fraction(scores.values(), arguments.density), strict=True))
    parameters = dict(student.named_parameters())
    # A parameter without a mask is frozen as a whole.
    optimizer = MaskedAdamW(
        parameters.values(),
        {parameters[name]: mask for name, mask in masks.items() if mask.count},
        lr=2e-3,
        weight_decay=0.01,
        max_norm=1.0,
    )
    # Targets do not change, so the power that nmse divides by is computed once.
    forget_power, keep_power = target_power(targets), target_power(kept)
    for _ in range(arguments.steps):
        optimizer.zero_grad()
        loss = feature_distillation(student(forget), targets, target_power=forget_power).mean()
        # A sum of distances costs one pass as well.
        distance = {"nmse": 1.0, "cosine": 0.5}
        loss = loss + 4.0 * feature_distillation(student(keep), kept, distance=distance, target_power=keep_power).mean()
        loss.backward()
        optimizer.step()

    moved = 0
    for name, value in teacher.named_parameters():
        differs = value != parameters[name]
        assert not (differs & ~masks[name].to_bool()).any(), f"a frozen element of {name} moved"
        moved += int(differs.sum())
    with torch.no_grad():
        found = {
            "forget": float((student(forget) - targets).square().mean() / (before - targets).square().mean()),
            "drift": float(feature_distillation(student(keep), kept).mean()),
            "moved": float(moved),
        }
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    return found


if __name__ == "__main__":
    main()
