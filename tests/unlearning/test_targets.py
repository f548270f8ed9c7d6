"""Forget targets: the formula, and that nobody is somebody else for every subject."""

import pytest
import torch

from vkdsurgeon.errors import UserError
from vkdsurgeon.objectives.targets import centroids, draw_stand_ins, nobody
from vkdsurgeon.objectives.views import ViewDirections


def _identities(count: int, tokens: int = 3, width: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"kept {number}": torch.randn(tokens, width, generator=generator) for number in range(count)}


def test_centroids_are_means_per_subject_and_token():
    features = [torch.full((2, 3), value) for value in (1.0, 3.0, 10.0)]
    means = centroids(features, ["a", "a", "b"], per_token=True)
    assert list(means) == ["a", "b"]
    assert torch.equal(means["a"], torch.full((2, 3), 2.0))
    pooled = centroids([torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])], ["a", "a"], per_token=False)
    assert pooled["a"].tolist() == [[3.5]]


def test_the_target_follows_the_formula():
    kept = _identities(9)
    mean = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    drawn = ("kept 2", "kept 7")
    middle = torch.stack(list(kept.values())).mean(0)
    nu = middle + 2**0.5 * ((kept["kept 2"] + kept["kept 7"]) / 2 - middle)
    teacher = torch.randn(3, 8)
    expected = mean + 1.3 * (nu - mean) + 0.7 * (teacher - mean)
    none = ViewDirections([], [], {}, 0.0)
    torch.testing.assert_close(nobody(mean, kept, drawn, 1.3, none).target(teacher, 0.7), expected)


def _pictures_with_two_views(per_token: bool) -> tuple[list[torch.Tensor], list[str], torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    view = torch.randn(4, 6, generator=generator)
    features, subjects = [], []
    for subject in range(5):
        identity = torch.randn(4, 6, generator=generator)
        for side in (-1.0, 1.0, 2.0):
            features.append(identity + side * view + 1e-3 * torch.randn(4, 6, generator=generator))
            subjects.append(f"s{subject}")
    return features, subjects, view if per_token else view.mean(0, keepdim=True)


@pytest.mark.parametrize("per_token", [True, False])
def test_a_move_leaves_the_views_alone_and_little_else(per_token: bool):
    features, subjects, view = _pictures_with_two_views(per_token)
    means = centroids(features, subjects, per_token=per_token)
    views = ViewDirections(features, subjects, means, 0.85)
    assert views.count == 1
    move = torch.randn(view.shape, generator=torch.Generator().manual_seed(9))
    left = views.remove(move + 10 * view)
    assert abs(float((left * view).sum())) < 1e-2 * float(view.norm() * left.norm())
    expected = move - view * ((move * view).sum() / view.square().sum())
    torch.testing.assert_close(left, expected, rtol=0.02, atol=0.03)


def test_subjects_with_one_picture_span_no_views():
    features, _, _ = _pictures_with_two_views(True)
    names = [f"picture {index}" for index in range(len(features))]
    views = ViewDirections(features, names, centroids(features, names, per_token=True), 0.85)
    move = torch.ones(4, 6)
    assert views.count == 0
    assert torch.equal(views.remove(move), move)


def test_identical_pictures_span_no_views():
    features, subjects = [torch.ones(2, 3)] * 4, ["a", "a", "b", "b"]
    views = ViewDirections(features, subjects, centroids(features, subjects, per_token=True), 0.85)
    assert views.count == 0


def test_stand_ins_come_from_the_farthest_share():
    kept = {f"kept {number}": torch.full((1, 2), float(number)) for number in range(9)}
    draws = set()
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        drawn = draw_stand_ins({"p": torch.zeros(1, 2)}, kept, count=2, far_share=1 / 3, generator=generator)["p"]
        assert len(set(drawn)) == 2
        assert set(drawn) <= {"kept 6", "kept 7", "kept 8"}
        draws.add(drawn)
    assert len(draws) > 1, "the seed has a say"


def test_too_few_identities_are_refused():
    with pytest.raises(UserError, match="too few retain identities"):
        draw_stand_ins({"p": torch.zeros(1, 2)}, _identities(1), count=2, far_share=0.5, generator=torch.Generator())
