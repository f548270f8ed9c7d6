"""Distances of features over layers and images; each distance itself is tested with its kernel."""

from typing import get_args

import pytest
import torch
from vkdsurgeon_kernels import DISTANCES, feature_distillation, target_power

from vkdsurgeon.config.forgetting import Distance
from vkdsurgeon.training.losses import feature_loss


def _features(size: int = 5, tokens: int = 4, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, tokens, width, generator=torch.Generator().manual_seed(seed))


def test_every_distance_of_the_recipe_is_a_kernel_and_no_other_is():
    assert set(get_args(Distance)) == set(DISTANCES)


@pytest.mark.parametrize("distance", get_args(Distance))
def test_layers_and_images_are_weighed(distance: Distance):
    students, targets = ([_features(seed=seed), _features(width=3, seed=seed)] for seed in (0, 1))
    samples = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0])
    found = feature_loss(distance)(
        students,
        targets,
        layer_weights=[0.25, 4.0],
        sample_weights=samples,
        target_power=[target_power(target) for target in targets],
    )
    each = [feature_distillation(*pair, distance=distance) for pair in zip(students, targets, strict=True)]
    torch.testing.assert_close(found, samples * (0.25 * each[0] + 4 * each[1]))
