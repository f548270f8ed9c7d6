"""Distances of the retention term: each formula against numbers worked out by other means, and what it leaves free."""

from itertools import combinations
from typing import get_args

import pytest
import torch
from vkdsurgeon_kernels import DISTANCES, feature_distillation, target_power

from vkdsurgeon.config.forgetting import Distance
from vkdsurgeon.config.retention import RetainDistance
from vkdsurgeon.training.losses import STRUCTURAL, FeatureLoss, attention, cka, feature_loss, relational


def _features(size: int = 5, tokens: int = 4, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, tokens, width, generator=torch.Generator().manual_seed(seed))


def _loss(weights: dict[str, float], student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return _of_one_layer(feature_loss(weights), student, target)


def _of_one_layer(loss: FeatureLoss, student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return loss(
        [student],
        [target],
        layer_weights=[1.0],
        sample_weights=torch.ones(len(student)),
        target_power=[target_power(target)],
    )


def _rotation(width: int = 6) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9)))[0]


def test_every_distance_of_the_recipe_is_registered():
    assert set(get_args(Distance)) == set(DISTANCES)
    assert set(get_args(RetainDistance)) == {*DISTANCES, *STRUCTURAL}


@pytest.mark.parametrize("name", get_args(RetainDistance))
def test_a_student_like_its_teacher_is_at_distance_zero_with_a_gradient_away_from_it(name: str):
    student, target = _features().requires_grad_(), _features(seed=1)

    def loss(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return _loss({name: 1.0}, student, target)

    same = loss(target, target)
    assert same.shape == (5,)
    torch.testing.assert_close(same, torch.zeros(5), rtol=0, atol=1e-5)
    loss(student, target).sum().backward()
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())
    assert float(student.grad.norm()) > 1e-4
    after = loss(student.detach() - 0.05 * student.grad / student.grad.norm(), target).sum()
    assert after < loss(student.detach(), target).sum()


def test_relational_is_hubers_loss_between_normalised_pairwise_distances():
    student, target = _features(4), _features(4, seed=1)
    tables = []
    for features in (student, target):
        means = features.mean(dim=1)
        pairs = {pair: float((means[pair[0]] - means[pair[1]]).norm()) for pair in combinations(range(4), 2)}
        tables.append({pair: one * len(pairs) / sum(pairs.values()) for pair, one in pairs.items()})
    expected = torch.zeros(4)
    for pair in tables[0]:
        gap = abs(tables[0][pair] - tables[1][pair])
        huber = 0.5 * gap**2 if gap < 1 else gap - 0.5
        for image in pair:
            expected[image] += huber / 3
    torch.testing.assert_close(relational(student, target), expected)


def test_relational_has_nothing_to_say_about_a_lone_image_and_no_nan_for_twins():
    lone = _features(1).requires_grad_()
    relational(lone, _features(1, seed=1)).sum().backward()
    assert lone.grad is not None
    assert not lone.grad.any()
    twins = _features(1).expand(3, -1, -1).clone().requires_grad_()
    relational(twins, _features(3)).sum().backward()
    assert twins.grad is not None
    assert bool(torch.isfinite(twins.grad).all())


def test_cka_is_the_alignment_of_gram_matrices():
    student, target = _features(3), _features(3, seed=1)
    grams = []
    for features in (student, target):
        rows = features.flatten(0, 1).double()
        rows = rows - rows.mean(dim=0)
        grams.append(rows @ rows.T)
    expected = 1 - (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    torch.testing.assert_close(cka(student, target), expected.float().expand(3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_cka_and_relational_do_not_see_rotation_or_scale_but_nmse_does(scale: float):
    target = _features()
    moved = scale * target @ _rotation()
    assert float(cka(moved, target).abs().max()) < 1e-4
    if scale == 1.0:
        assert float(relational(moved, target).max()) < 1e-6
        assert float(_loss({"nmse": 1.0}, moved, target).min()) > 0.1


def test_attention_compares_where_the_energy_lies():
    target = torch.zeros(1, 2, 3)
    target[0, 0] = torch.tensor([3.0, 0.0, 0.0])
    turned = torch.zeros(1, 2, 3)
    turned[0, 0] = torch.tensor([0.0, -1.0, 0.0])
    elsewhere = target.flip(1)
    assert attention(turned, target).tolist() == pytest.approx([0.0])
    assert attention(elsewhere, target).tolist() == pytest.approx([2.0])


def test_a_sum_weighs_its_terms_and_one_kernel_distance_is_the_kernel():
    student, target = _features(), _features(seed=1)
    expected = 0.5 * feature_distillation(student, target, distance="nmse") + 2 * attention(student, target)
    torch.testing.assert_close(_loss({"nmse": 0.5, "attention": 2.0}, student, target), expected)
    assert torch.equal(
        _loss({"cosine": 1.0}, student, target), feature_distillation(student, target, distance="cosine")
    )


@pytest.mark.parametrize("weights", [{"nmse": 1.0}, {"cka": 1.0}, {"nmse": 0.5, "attention": 3.0}])
def test_layers_and_images_are_weighed(weights: dict[str, float]):
    students, targets = ([_features(seed=seed), _features(width=3, seed=seed)] for seed in (0, 1))
    samples = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0])
    found = feature_loss(weights)(
        students,
        targets,
        layer_weights=[0.25, 4.0],
        sample_weights=samples,
        target_power=[target_power(target) for target in targets],
    )
    each = [_loss(weights, student, target) for student, target in zip(students, targets, strict=True)]
    torch.testing.assert_close(found, samples * (0.25 * each[0] + 4 * each[1]))


@pytest.mark.parametrize("weights", [{}, {"manhattan": 1.0}])
def test_unknown_distances_are_refused(weights: dict[str, float]):
    with pytest.raises(ValueError, match="known: nmse, mse"):
        feature_loss(weights)
